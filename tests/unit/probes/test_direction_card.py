"""The causal card: every effect compared with what is known of a planted model, and the whole on one that refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
import torch
from sklearn.metrics import roc_auc_score

from probes.cards import DirectionCard, Effect
from probes.errors import DataError
from probes.template import find_markers
from probes.train.checkpoint import Checkpoints
from probes.train.collect import Activations, collect
from probes.train.data import SPLITS, Example, Split
from probes.train.directions.behaviour import Cases, FirstTokens, Situation
from probes.train.directions.card import with_effects
from probes.train.directions.controls import dose_response, random_control, random_units
from probes.train.directions.effects import Subject, on_behaviour, on_harmless_text
from probes.train.directions.find import DirectionSettings, FoundDirection, find_direction
from probes.train.directions.off_target import Reader, on_probes
from probes.train.directions.passes import Text
from probes.train.directions.written import best_scope, choose_scope, write
from probes.train.encode import Encoded, encode_example
from probes.train.interventions import ablate, add
from probes.train.model import LoadedModel
from probes.train.progress import Silent
from tests.support.probe_samples import rows

PROMPTS = planted.prompts()
STEP = 5.0


@pytest.fixture(scope="module")
def subject() -> Subject:
    cases = Cases(*(tuple(Situation(p.ids) for p in PROMPTS if p.label == label) for label in (1, 0)))
    origin = planted.HARMLESS_AT / STEP
    return Subject(
        planted.planted_model(), FirstTokens("refusal", (planted.NO,)), cases, 1, planted.axis(), STEP, origin
    )


def by_name(effects: list[Effect]) -> dict[tuple[str, str], Effect]:
    return {(e.name, e.steering): e for e in effects}


def test_the_behaviour_goes_and_comes_with_the_direction(subject: Subject) -> None:
    found = by_name(on_behaviour(subject, Silent()))
    shown, hidden = "refusal where it is shown", "refusal where it is not shown"
    for name, steering, before, after in (
        (shown, "ablate 1", 1.0, 0.0),
        (shown, "affine edit, alpha 0, all positions", 1.0, 0.0),
        (hidden, "add 1, all positions", 0.0, 1.0),
        (hidden, "affine edit, alpha 1, all positions", 0.0, 1.0),
    ):
        effect = found[name, steering]
        assert (effect.before, effect.after.value) == (before, after)
        assert found[f"margin of {name}", steering].unit == "log-odds"
    ablated, added = (
        found[f"margin of {n}", s].after for n, s in ((shown, "ablate 1"), (hidden, "add 1, all positions"))
    )
    assert ablated.value == pytest.approx(-float(np.log(planted.VOCABULARY - 1)), abs=1e-4)
    assert added.low < added.value < added.high


def test_harmless_text_keeps_its_choices_and_its_perplexity_is_told_under_each_steering(subject: Subject) -> None:
    answers = [Text((*p.ids, 30, 31), len(p.ids)) for p in PROMPTS[:4]]
    found = by_name(on_harmless_text(subject, answers, Silent()))
    assert found["next token of harmless prompts stays the same", "ablate 1"].after.value == 1.0
    assert {s for name, s in found if name == "perplexity of harmless answers"} == {
        "ablate 1", "add 1, all positions", "add 1, prompt positions"
    }  # fmt: skip
    # Without its projection the model says every token alike.
    assert found["perplexity of harmless answers", "ablate 1"].after.value == pytest.approx(
        planted.VOCABULARY, rel=1e-4
    )
    assert {e.name for e in found.values() if e.off_target} == {"next token of harmless prompts stays the same"}


def test_random_directions_do_nothing_and_the_planted_one_would_be_noticed(subject: Subject) -> None:
    units = random_units(50, 16, seed=0)
    torch.testing.assert_close(units.norm(dim=1), torch.ones(50))
    found = {c.operator: c for c in random_control(subject, 10, Silent())}
    assert found["ablate"].n == 10
    assert found["ablate"].worst == 0.0  # it would take a projection of nearly 1
    assert 0 <= found["add"].mean <= found["add"].worst <= 1


def test_more_of_the_direction_does_more(subject: Subject) -> None:
    ablated, added = dose_response(subject, Silent())
    assert [p.strength for p in ablated.points] == [0, 0.25, 0.5, 0.75, 1]
    assert [p.strength for p in added.points] == [0, 0.25, 0.5, 0.75, 1, 1.5, 2]
    for dose, name, first, last in (
        (ablated, "refusal where it is shown", 1.0, 0.0),
        (added, "refusal where it is not shown", 0.0, 1.0),
    ):
        rates = [p.values[name] for p in dose.points]
        assert (rates[0], rates[-1]) == (first, last)
        assert rates in (sorted(rates), sorted(rates, reverse=True))
        assert dose.points[0].values["KL divergence of the next token"] == pytest.approx(0, abs=1e-9)


def test_text_is_judged_and_read_by_the_unsteered_model(subject: Subject) -> None:
    found = write(subject, lambda ids: ids[0] == planted.NO, 3, Silent())
    effects = by_name(list(found.effects))
    assert effects["refusal where it is shown, in the text", "ablate 1"].after.value == 0.0
    for scope in ("all", "prompt"):
        effect = effects["refusal where it is not shown, in the text", f"add 1, {scope} positions"]
        assert (effect.before, effect.after.value) == (0.0, 1.0)
    assert [t.n_judged for t in found.answers] == [3] * 10


def test_the_scope_is_chosen_by_what_is_written_in_other_cases_than_those_of_the_card(subject: Subject) -> None:
    read: list[tuple[int, ...]] = []

    def judge(ids: tuple[int, ...]) -> bool:
        read.append(ids)
        return ids.count(planted.NO) == 3  # as is written only where the direction is added to the answer as well

    elsewhere = Cases(subject.cases.present[:1], tuple(Situation((planted.FILLER[0], t)) for t in planted.HARMLESS[:4]))
    assert choose_scope(replace(subject, cases=elsewhere), judge, 3, Silent()) == "all"
    assert len(read) == 2 * 4, "four cases under each of two scopes"


def test_the_scope_that_works_has_the_higher_rate_or_else_the_better_text() -> None:
    assert best_scope({"all": (0.9, 50.0), "prompt": (0.5, 5.0)}) == "all"
    assert best_scope({"all": (0.99, 50.0), "prompt": (0.98, 5.0)}) == "prompt"
    assert best_scope({"all": (0.99, 50.0), "prompt": (1.0,)}) == "all"


def test_a_probe_of_the_direction_itself_goes_blind_and_one_of_something_else_does_not(subject: Subject) -> None:
    def reader(weights: torch.Tensor, layer: int = 2) -> Reader:
        def last(rows: torch.Tensor, offsets: torch.Tensor) -> Any:
            return (rows[offsets[1:] - 1] @ weights).double().numpy()

        return Reader("harm", layer, last, PROMPTS)

    removed = ablate(planted.axis())
    found = by_name(on_probes(subject.model, [reader(planted.axis())], [removed], 0, Silent()))
    assert found["AUROC of harm", "ablate 1"].before == 1.0
    assert found["AUROC of harm", "ablate 1"].after.value == 0.5
    shift = -(planted.HARMFUL_AT + planted.HARMLESS_AT) / 2
    assert found["score of harm", "ablate 1"].after.value == pytest.approx(shift, abs=1e-5)

    other = torch.eye(16)[2]
    scores = subject.model.network.model.embed_tokens.weight[[p.ids[-1] for p in PROMPTS], 2]
    found = by_name(on_probes(subject.model, [reader(other)], [removed], 0, Silent()))
    effect = found["AUROC of harm", "ablate 1"]
    assert effect.after.value == effect.before == pytest.approx(roc_auc_score([p.label for p in PROMPTS], scores))
    added = by_name(on_probes(subject.model, [reader(planted.axis(), 1)], [add(1, planted.axis())], 0, Silent()))
    assert added["score of harm", "add 1, all positions"].after.value == 0.0  # read before it is added


class Told:
    """Keeps what is reported and fails where two bars run at once, which a terminal cannot show."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.done: list[tuple[str, int, int]] = []
        self._open = False

    def say(self, message: str) -> None:
        self.said.append(message)

    @contextmanager
    def track(self, what: str, total: int, unit: str) -> Iterator[Any]:
        assert not self._open, what
        self._open = True
        counts: list[int] = []
        yield counts.append
        self._open = False
        self.done.append((what, total, sum(counts)))


class Task:
    """One concept of a model: its encoded examples and their activations."""

    def __init__(self, model: LoadedModel, folder: Path, concept: str) -> None:
        made = rows(concept, {"train": 40, "validation": 24, "test": 24})
        found = [Example.model_validate(r) for r in made]
        self.examples = {s: [e for e in found if e.split == s] for s in SPLITS}
        markers = find_markers(model.tokenizer)
        self.splits: dict[Split, tuple[Encoded, ...]] = {
            s: tuple(encode_example(model.tokenizer, markers, e, 128) for e in es) for s, es in self.examples.items()
        }
        self.model, self.folder = model, folder

    def activations(self, split: Split) -> Activations:
        return collect(self.model, self.splits[split], self.folder / split, Silent(), what=split)


@pytest.fixture(scope="module")
def told() -> Told:
    return Told()


@pytest.fixture(scope="module")
def refusal(refusing: LoadedModel, tmp_path_factory: pytest.TempPathFactory, told: Told) -> FoundDirection:
    task = Task(refusing, tmp_path_factory.mktemp("refusal"), "refusal")
    settings = DirectionSettings("refusal", n_random=4, n_tokens=3, judge=lambda text: text.startswith("no"))
    return find_direction(refusing, task.splits, task.activations, told, settings)


def test_the_direction_of_a_model_that_refuses_stops_and_makes_refusals(refusal: FoundDirection) -> None:
    metrics = refusal.direction.metrics
    assert metrics["bypass_rate"] >= 0.9
    assert metrics["induce_rate"] >= 0.9
    assert float(refusal.vector.norm()) == pytest.approx(1.0)
    assert refusal.direction.layer < 0.8 * 3


def test_its_card_has_every_candidate_effect_control_and_strength(refusal: FoundDirection) -> None:
    card = refusal.card
    assert {(c.layer, c.position) for c in card.candidates} == {
        (layer, p) for layer in range(3) for p in ("last_prompt_token", "post_instruction[-2]")
    }
    chosen = [c for c in card.candidates if c.chosen]
    assert [(c.layer, c.position) for c in chosen] == [(refusal.direction.layer, refusal.direction.position)]
    effects = by_name(list(card.effects))
    assert effects["refusal where it is shown, in the text", "ablate 1"].after.value <= 0.1
    assert "add at" in card.method
    assert "the model does as labelled: 12 of 12 positives, 11 of 12 negatives" in card.method
    assert {c.operator for c in card.random} == {d.operator for d in card.dose} == {"ablate", "add"}
    assert DirectionCard.model_validate_json(card.model_dump_json()) == card


def test_all_long_work_tells_its_progress_to_the_end(refusal: FoundDirection, told: Told) -> None:
    assert len(told.done) >= 7
    assert [(what, total) for what, total, _ in told.done] == [(what, done) for what, _, done in told.done]
    assert any("direction refusal: layer" in line for line in told.said)


def test_a_found_direction_survives_a_checkpoint(refusal: FoundDirection, tmp_path: Path) -> None:
    read = FoundDirection.read(Checkpoints(tmp_path).stage("direction", refusal.result))
    assert read.direction == refusal.direction
    assert read.card == refusal.card
    torch.testing.assert_close(read.vector, refusal.vector, rtol=0, atol=0)


def test_effects_found_later_join_the_card(refusal: FoundDirection) -> None:
    more = refusal.card.effects[:1]
    assert with_effects(refusal.card, more).effects == (*refusal.card.effects, *more)


def test_a_concept_about_responses_gets_a_direction_from_its_pairs(refusing: LoadedModel, tmp_path: Path) -> None:
    """Both answers are to the same prompt, so which one is preferred under it is all that is known."""
    task = Task(refusing, tmp_path, "deception")
    with pytest.raises(DataError, match="told by its examples; pass them"):
        find_direction(refusing, task.splits, task.activations, Silent(), DirectionSettings("deception"))
    settings = DirectionSettings("deception", n_random=2, max_parameters=10)
    told = Told()
    found = find_direction(refusing, task.splits, task.activations, told, settings, task.examples)
    assert found.direction.position == "response_mean"
    assert not [e for e in found.card.effects if "in the text" in e.name]
    assert any("no answers are written" in line for line in told.said)
