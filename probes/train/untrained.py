"""The same pipeline on the model with re-initialised weights: what the words reach through any network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from probes.train.checkpoint import key_of
from probes.train.data import Split
from probes.train.fit import Configuration, Design, Values, fit_columns
from probes.train.model import LoadedModel, wrap_model
from probes.train.resample import folds, group_examples
from probes.train.run import Run


def untrained_twin(model: LoadedModel, seed: int) -> LoadedModel:
    """A model of the same configuration whose weights were never trained; on the same device, in fp32."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415  (seconds to import)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        make: Callable[..., Any] = AutoModelForCausalLM.from_config
        network = make(model.network.config, dtype=torch.float32)
    return wrap_model(network.to(model.device).eval(), model.tokenizer)


def untrained_statistic(run: Run, concept: str, configuration: Configuration, families: tuple[str, ...]) -> Values:
    """Test statistic of one configuration, fitted on the untrained twin's activations at the same layer.

    It is fitted on all training examples, as the probe is, in plain passes: what steers the model says nothing to it.

    Args:
        run: whose model is re-initialised, and whose examples are read.
        concept: of the probe.
        configuration: the chosen one.
        families: of the training examples.
    """
    seed, layer = run.settings.seed, configuration.layer
    twin = untrained_twin(run.model, seed)
    key = key_of(seed, layer)

    def collected(split: Split) -> Design:
        activations = run.collected(
            f"{concept}-{split}-untrained_{key}",
            run.encoded[concept][split],
            what=f"{concept}: activations of the untrained model, {split}",
            model=twin,
            layers=(layer,),
        )
        return Design.of({"plain": activations}, layer, None)

    design = collected("train")
    labels = np.array([e.label for e in design.examples], dtype=np.int64)
    groups, _ = group_examples(families, labels)
    watched = folds(groups, labels, seed)[0][1]
    columns = fit_columns(design, configuration, labels, np.ones(len(labels)), watched=watched, seed=seed)
    held = collected("test")
    return columns.statistic(held.values, held.offsets, configuration.reading)
