"""The same pipeline on the model with re-initialised weights: what the words reach through any network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from probes.train.checkpoint import key_of
from probes.train.encode import Encoded
from probes.train.fit import Configuration, Design, Values, fit_columns
from probes.train.model import LoadedModel, wrap_model
from probes.train.resample import folds, group_examples
from probes.train.run import Run

_EXAMPLES = 1024  # of the training split at most: enough for a control


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

    Args:
        run: whose model is re-initialised, and whose examples are read.
        concept: of the probe.
        configuration: the chosen one.
        families: of the training examples.
    """
    seed, layer = run.settings.seed, configuration.layer
    twin = untrained_twin(run.model, seed)
    train, test = run.encoded[concept]["train"], run.encoded[concept]["test"]
    chosen = _sample([e.label for e in train], seed)
    key = key_of(seed, layer, chosen)

    def collected(split: str, examples: tuple[Encoded, ...]) -> tuple[Design, tuple[Encoded, ...]]:
        activations = run.collected(
            f"{concept}-{split}-untrained_{key}",
            examples,
            what=f"{concept}: activations of the untrained model, {split}",
            model=twin,
            layers=(layer,),
        )
        return Design.of({"plain": activations}, layer, None), examples

    design, mine = collected("train", tuple(train[i] for i in chosen))
    labels = np.array([e.label for e in mine], dtype=np.int64)
    groups, _ = group_examples([families[i] for i in chosen], labels)
    watched = folds(groups, labels, seed)[0][1]
    columns = fit_columns(design, configuration, labels, np.ones(len(labels)), watched=watched, seed=seed)
    held, _ = collected("test", test)
    return columns.statistic(held.values, held.offsets, configuration.reading)


def _sample(labels: list[int], seed: int) -> list[int]:
    """At most so many examples, each label with its share."""
    order = np.random.default_rng(seed).permutation(len(labels))
    by_label = [order[np.asarray(labels)[order] == k] for k in (0, 1)]
    share = min(1.0, _EXAMPLES / len(labels))
    return sorted(int(i) for part in by_label for i in part[: max(2, round(share * len(part)))])
