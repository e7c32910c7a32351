"""What the evaluation is given about one probe: its scores, its seeds, and ways to fit its controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probes.train.bench import Bench
from probes.train.collect import Activations
from probes.train.data import Example
from probes.train.evaluation.inputs import Judged, Scored
from probes.train.fit import Columns, Labels, Passes, Values
from probes.train.run import Run
from probes.train.select import Selection
from probes.train.untrained import untrained_statistic
from probes.types import Probe


@dataclass(frozen=True)
class ChosenProbe:
    """A probe, what it was chosen from, and the test split that nothing has looked at yet.

    Attributes:
        probe: for the bundle, without figures.
        bench: that it was fitted on. selection: by which it was chosen.
        test: activations of the test split by condition.
    """

    probe: Probe
    bench: Bench
    selection: Selection
    test: Passes

    @property
    def layer(self) -> int:
        """0-based block."""
        return self.selection.configuration.layer

    def statistic(self, columns: Columns, values: Tensor, offsets: Tensor) -> Values:
        """Streaming statistic of any columns under the chosen reading."""
        return columns.statistic(values, offsets, self.selection.configuration.reading)

    def scored(self, examples: Sequence[Example], activations: Activations) -> Scored:
        """Examples under this probe."""
        values, offsets = activations.layer(self.layer), activations.offsets
        columns = self.selection.columns
        return Scored(
            examples=tuple(examples),
            encoded=activations.examples,
            token_scores=columns.scores(values)[:, 0],
            offsets=offsets,
            statistic=self.statistic(columns, values, offsets),
            token_queries=columns.queries(values),
        )


def judged(run: Run, concept: str, chosen: ChosenProbe) -> Judged:
    """Collect what is still missing, and score everything once."""
    task, selection = chosen.bench.task, chosen.selection
    plain = chosen.test["plain"]
    values, offsets = plain.layer(chosen.layer), plain.offsets
    configuration = selection.configuration

    def refit(labels: Labels) -> Values:
        return chosen.statistic(chosen.bench.fit_labels(configuration, labels), values, offsets)

    return Judged(
        probe=chosen.probe,
        candidates=selection.candidates,
        train=tuple(run.dataset.split(concept, "train")),
        validation=chosen.scored(run.dataset.split(concept, "validation"), task.validation["plain"]),
        test=chosen.scored(run.dataset.split(concept, "test"), plain),
        conditions=_conditions(chosen),
        seeds=tuple(chosen.statistic(columns, values, offsets) for columns in selection.seeds),
        shifts=_shifts(run, concept, chosen),
        refit=refit,
        random=random_directions(
            selection.columns, task.removed, lambda columns: chosen.statistic(columns, values, offsets)
        ),
        untrained=untrained_statistic(run, concept, configuration, task.families) if run.settings.untrained else None,
        decode=lambda ids: [run.model.tokenizer.decode([i]) for i in ids],
        seed=run.settings.seed,
    )


def _conditions(chosen: ChosenProbe) -> Mapping[str, Values]:
    steered = {c: a for c, a in chosen.test.items() if c != "plain"}
    columns = chosen.selection.columns
    return {c: chosen.statistic(columns, a.layer(chosen.layer), a.offsets) for c, a in steered.items()}


def _shifts(run: Run, concept: str, chosen: ChosenProbe) -> Mapping[str, Scored]:
    found = {}
    for shift, examples in run.dataset.shifted(concept).items():
        activations = run.collected(
            f"{concept}-shift_{shift}-layer_{chosen.layer}",
            run.shifted[concept][shift],
            what=f"{concept}: activations, shift {shift}",
            layers=(chosen.layer,),
        )
        found[shift] = chosen.scored(examples, activations)
    return found


def random_directions(
    columns: Columns, removed: Tensor | None, statistic: Callable[[Columns], Values]
) -> Callable[[np.random.Generator], tuple[Values, Values]]:
    """Columns of the probe's size in random directions, and their opposites; neither reads the removed direction.

    The opposite of a direction has opposite token scores, but no opposite statistic: the highest of ``-s`` is not
    minus the highest of ``s``.

    Args:
        columns: of the probe. removed: ``(d_model,)`` fp32 unit vector that it does not read, or None.
        statistic: what any columns make of the test examples.
    """

    def draw(rng: np.random.Generator, like: Tensor) -> Tensor:
        vector = torch.from_numpy(rng.normal(size=len(like)))
        if removed is not None:
            vector = vector - (vector @ removed.double()) * removed.double()
        scaled: Tensor = vector * (like.double().norm() / vector.norm())
        return scaled.float()

    def random(rng: np.random.Generator) -> tuple[Values, Values]:
        weights = torch.stack([draw(rng, column) for column in columns.weights.T], dim=1)
        query = None if columns.query is None else draw(rng, columns.query)
        unbiased = torch.zeros(weights.shape[1])
        return statistic(Columns(weights, unbiased, query)), statistic(Columns(-weights, unbiased, query))

    return random
