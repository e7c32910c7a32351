"""The stages of the directions: found and judged, what they do to the probes and where a probe asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from probes.cards import DirectionCard, Effect
from probes.train.cases import of_both_labels, probe_prompts
from probes.train.checkpoint import Result, key_of
from probes.train.data import SPLITS
from probes.train.directions import cast
from probes.train.directions.behaviour import find_first_tokens
from probes.train.directions.card import with_effects
from probes.train.directions.find import DirectionSettings, FoundDirection, find_direction
from probes.train.directions.off_target import Reader, on_probes
from probes.train.directions.passes import nothing
from probes.train.interventions import Gate, ablate, add
from probes.train.readings import Reading
from probes.train.run import Run
from probes.train.stages import TrainedProbe

_OFF_TARGET_EXAMPLES = 128  # of each label
_CONDITION_PROMPTS = 128  # of each label


def find_one(run: Run, concept: str) -> FoundDirection:
    """The direction of one concept with its causal card.

    Raises:
        NoDirectionError: the model does not show the behaviour, so that there is nothing to find.
    """
    key = key_of(run.settings.seed, run.settings.dtype, run.settings.through)
    name = f"direction-{concept}-{key}"
    return FoundDirection.read(run.checkpoints.stage(name, lambda: compute_direction(run, concept).result()))


def compute_direction(run: Run, concept: str) -> FoundDirection:
    """Find the direction, whatever is on disk."""
    return find_direction(
        run.model,
        run.encoded[concept],
        lambda split: run.activations(concept, split),
        run.reporter,
        DirectionSettings(concept=concept, seed=run.settings.seed, n_cases=256),
        {split: run.dataset.split(concept, split) for split in SPLITS},
    )


def judged_with_probes(run: Run, found: FoundDirection, trained: Mapping[str, TrainedProbe]) -> FoundDirection:
    """The direction, its card extended by what it does to the probes, and by what it does where a probe asks for it."""
    if not trained:
        return found
    probes = {
        c: (t.probe.model_dump(mode="json"), t.weights.tolist(), None if t.query is None else t.query.tolist())
        for c, t in trained.items()
    }
    key = key_of(run.settings.seed, found.vector.tolist(), found.card.model_dump(mode="json"), probes)
    name = f"with-probes-{found.direction.name}-{key}"
    facts, _ = run.checkpoints.stage(name, lambda: _with_probes(run, found, trained))
    return replace(found, card=DirectionCard.model_validate(facts["card"]))


def _with_probes(run: Run, found: FoundDirection, trained: Mapping[str, TrainedProbe]) -> Result:
    direction, vector = found.direction, found.vector
    readers = [_reader(run, concept, t) for concept, t in trained.items()]
    steerings = [ablate(vector), add(direction.layer, vector * direction.magnitude)]
    card = with_effects(found.card, on_probes(run.model, readers, steerings, run.settings.seed, run.reporter))
    for concept, probe in trained.items():
        if _can_ask(run, found, concept, probe):
            card = _conditional(run, found, concept, probe, card)
    return {"card": card.model_dump(mode="json")}, {}


def _can_ask(run: Run, found: FoundDirection, concept: str, trained: TrainedProbe) -> bool:
    """Whether the probe can decide, token by token and in the same pass, where the direction is added."""
    about_prompts = all(run.encoded[c]["train"][0].scope.phase == "prompt" for c in (concept, found.direction.concept))
    return about_prompts and trained.query is None and trained.probe.layer <= found.direction.layer


def _conditional(
    run: Run, found: FoundDirection, concept: str, trained: TrainedProbe, card: DirectionCard
) -> DirectionCard:
    """The card with what conditional steering does, and how a policy asks for it."""
    direction, probe = found.direction, trained.probe
    behaviour = find_first_tokens(run.model, run.encoded[direction.concept]["train"], direction.concept, nothing)
    gate = Gate(probe.layer, trained.weights, probe.bias, 0.0)
    steerer = cast.Steerer(direction.layer, found.vector * direction.magnitude, gate, scope="prompt")
    prompts = {s: probe_prompts(run.encoded[concept][s], _CONDITION_PROMPTS) for s in ("validation", "test")}
    condition = cast.search(run.model, probe.name, steerer, behaviour, prompts["validation"], run.reporter)
    effects: list[Effect] = cast.effects(run.model, condition, steerer, behaviour, prompts["test"], run.reporter)
    when = (
        f"steer under a condition with {{direction: {direction.name}, operator: add, scope: prompt, when: "
        f"{{probe: {probe.name}, threshold: {condition.threshold:.4g}, sharpness: {condition.sharpness:g}}}}}"
    )
    advice = "; ".join(filter(None, (card.advice, when)))
    return with_effects(card, effects).model_copy(update={"advice": advice})


def _reader(run: Run, concept: str, trained: TrainedProbe) -> Reader:
    """A probe for the measurement of off-target effects, on a part of its test split."""
    probe, columns = trained.probe, trained.columns
    reading = Reading(probe.scope, probe.fold, "tokens")
    return Reader(
        concept=concept,
        layer=probe.layer,
        statistic=lambda values, offsets: columns.statistic(values, offsets, reading),
        examples=of_both_labels(run.encoded[concept]["test"], _OFF_TARGET_EXAMPLES),
    )
