"""Estimators that keep scikit-learn's contract; what they learn is a column or two that the engine can run.

    targets      labels and weights, checked
    moments      sums over labelled rows, and the closed-form solutions that follow from them
    linear       dense probes: one row of activations, one logit
                   LogisticProbe, MassMeanProbe, LDAProbe, RidgeProbe
    sequences    what a token sequence may come as; padding
    learning     the training loop of the sequence probes; sequence_probe puts the contract around it
    folded       probes of token sequences, learned through the fold that serves them
                   SoftmaxProbe, AttentionProbe, MultiHeadMaxProbe
    reservoir    a uniform sample of a stream of rows
    streaming    all dense probes of several concepts in one pass over rows that do not fit into memory

Constructors only store; ``fit`` checks, learns and returns self; what is learned ends in an underscore. Two classes.
Shapes: ``X`` of a dense probe is ``(n, d_model)``; of a sequence probe see :mod:`.sequences`. ``y`` is ``(n,)``.
"""

from probes.train.estimators.folded import AttentionProbe, MultiHeadMaxProbe, SoftmaxProbe
from probes.train.estimators.linear import LDAProbe, LinearProbe, LogisticProbe, MassMeanProbe, RidgeProbe
from probes.train.estimators.streaming import StreamedProbes, fit_streaming

__all__ = [
    "AttentionProbe",
    "LDAProbe",
    "LinearProbe",
    "LogisticProbe",
    "MassMeanProbe",
    "MultiHeadMaxProbe",
    "RidgeProbe",
    "SoftmaxProbe",
    "StreamedProbes",
    "fit_streaming",
]
