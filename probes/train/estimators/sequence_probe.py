"""The base of the sequence probes: scikit-learn's contract around :mod:`.learning`."""

# ruff: noqa: N803  (scikit-learn's contract names the rows X and the inverse penalty C)

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit  # type: ignore[import-untyped]
from sklearn.base import BaseEstimator, ClassifierMixin  # type: ignore[import-untyped]
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, column_or_1d  # type: ignore[import-untyped]
from torch import Tensor

from probes.train.estimators.learning import Labelled, Learned, Schedule, learn
from probes.train.estimators.moments import standard_scale
from probes.train.estimators.sequences import Sequences, SequencesLike, as_sequences
from probes.train.estimators.targets import check_targets

_FEWEST = 5  # examples of each class, below which nothing is held out


class SequenceProbe(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """Columns learned through a fold.

    Args:
        lr: AdamW's step. weight_decay: its decoupled decay. epochs: passes at most.
        patience: passes without progress of the held-out loss after which learning stops.
        batch_size: sequences in a step.
        n_init: how often to begin anew; the columns of the lowest held-out loss are kept.
        validation_fraction: of the sequences to hold out where ``fit`` is given none. With fewer than five of a
            class none are held out, and the training loss is watched.
        random_state: of the initial columns, which sequences make a step, and the held-out ones.

    Attributes:
        classes_: ``(2,)``, the negative label first. n_features_in_: ``d_model``.
        columns_: ``(n_columns, d_model)`` fp64. biases_: ``(n_columns,)`` fp64.
        validation_loss_: held-out cross-entropy. n_iter_: passes that were made.
    """

    servable = True

    def __init__(
        self,
        lr: float = 5e-3,
        weight_decay: float = 1e-3,
        epochs: int = 200,
        patience: int = 20,
        batch_size: int = 256,
        n_init: int = 1,
        validation_fraction: float = 0.2,
        random_state: int = 0,
    ) -> None:
        self.lr = lr
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.patience = patience
        self.batch_size = batch_size
        self.n_init = n_init
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def fit(
        self,
        X: SequencesLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        validation: tuple[SequencesLike, ArrayLike] | None = None,
    ) -> Self:
        """Learn from sequences.

        Args:
            X: see :mod:`.sequences`.
            y: ``(n,)``, two classes. sample_weight: ``(n,)``, not negative; both classes are made to weigh the same.
            validation: sequences and labels that say when to stop, such as other template families.

        Raises:
            ValueError: as scikit-learn's estimators do; also for one class, or more than two.
        """
        train, held_out = self._labelled(X, y, sample_weight, validation)
        values = train.sequences.values
        mean = values.mean(dim=0, dtype=torch.float64)
        scale = torch.from_numpy(standard_scale(values.double().std(dim=0, correction=0).numpy()))
        train, held_out = (_standardised(part, mean, scale) for part in (train, held_out))
        schedule = Schedule(self.lr, self.weight_decay, self.epochs, self.patience, self.batch_size)
        generator = torch.Generator().manual_seed(self.random_state)
        runs = [learn(self._fold, self._n_columns, train, held_out, schedule, generator) for _ in range(self.n_init)]
        self._keep(min(runs, key=lambda run: run.loss), mean, scale)
        return self

    def token_scores(self, X: SequencesLike) -> Tensor:
        """Scores of every token by column: ``(n, longest, n_columns)`` fp32, -inf where there is none."""
        check_is_fitted(self)
        columns, biases = (torch.from_numpy(a.astype(np.float32)) for a in (self.columns_, self.biases_))
        return as_sequences(self, X, reset=False).scores(columns, biases)

    def decision_function(self, X: SequencesLike) -> NDArray[np.float64]:
        """Logits of the whole sequences: ``(n,)`` fp64."""
        return np.asarray(self._fold(self.token_scores(X).double()).numpy())

    def predict_proba(self, X: SequencesLike) -> NDArray[np.float64]:
        """``(n, 2)``: the logistic function of the logit, not calibrated."""
        positive = expit(self.decision_function(X))
        return np.stack([1 - positive, positive], axis=1)

    def predict(self, X: SequencesLike) -> NDArray[Any]:
        """The class by the logit's sign: ``(n,)``."""
        positive = self.decision_function(X) > 0
        return np.asarray(self.classes_[positive.astype(int)])

    def linear(self) -> tuple[NDArray[np.float32], float]:
        """The first column, for a bundle: weights ``(d_model,)`` fp32, and the bias."""
        check_is_fitted(self)
        return self.columns_[0].astype(np.float32), float(self.biases_[0])

    @property
    def _n_columns(self) -> int:
        return 1

    @abstractmethod
    def _fold(self, scores: Tensor) -> Tensor:
        """Token scores ``(n, longest, n_columns)``, padded with -inf, to logits ``(n,)``."""

    def _labelled(
        self,
        X: SequencesLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        validation: tuple[SequencesLike, ArrayLike] | None,
    ) -> tuple[Labelled, Labelled]:
        """Checked and balanced training and held-out sequences."""
        sequences = as_sequences(self, X, reset=True)
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None.")
        given = column_or_1d(check_array(y, ensure_2d=False, dtype=None, input_name="y"), warn=True)
        check_consistent_length(sequences.offsets[1:], given)
        self.classes_, labels, weights = check_targets(given, sample_weight, sequences.offsets[1:].numpy())
        everything = _balanced(sequences, labels, weights)
        if validation is not None:
            others = np.asarray(validation[1])
            if strange := sorted(set(others.tolist()) - set(self.classes_.tolist())):
                raise ValueError(f"validation has labels {strange}; wanted those of y: {self.classes_.tolist()}.")
            held = as_sequences(self, validation[0], reset=False)
            return everything, _balanced(held, (others == self.classes_[1]).astype(np.int64), np.ones(len(others)))
        if np.bincount(labels).min() < _FEWEST:
            return everything, everything
        kept, held_out = train_test_split(
            np.arange(len(labels)), test_size=self.validation_fraction, stratify=labels, random_state=self.random_state
        )
        return everything.take(torch.from_numpy(kept)), everything.take(torch.from_numpy(held_out))

    def _keep(self, learned: Learned, mean: Tensor, scale: Tensor) -> None:
        """Fold the scaling into the columns."""
        columns = learned.weights.double() / scale
        self.columns_ = columns.numpy()
        self.biases_ = (learned.bias.double() - columns @ mean).numpy()
        self.validation_loss_, self.n_iter_ = learned.loss, learned.epochs

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


def _balanced(sequences: Sequences, labels: NDArray[np.int64], weights: NDArray[np.float64]) -> Labelled:
    shares = np.maximum(np.bincount(labels, weights, 2), 1e-12)
    balanced = weights * (weights.sum() / (2 * shares))[labels]
    return Labelled(sequences, torch.from_numpy(labels).float(), torch.from_numpy(balanced).float())


def _standardised(part: Labelled, mean: Tensor, scale: Tensor) -> Labelled:
    values = (part.sequences.values - mean.float()) / scale.float()
    return Labelled(Sequences(values, part.sequences.offsets), part.targets, part.weights)
