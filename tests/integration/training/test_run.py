"""The whole run on a tiny model that refuses: data in, verified bundle out, and resumed when interrupted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from probes.bundle import Bundle, check_model, read_bundle
from probes.cli import app
from probes.errors import DataError
from probes.template import find_markers
from probes.train import direction_stages, stages
from probes.train import run as running
from probes.train.data import read_dataset
from probes.train.encode import encode_example
from probes.train.model import LoadedModel, forward, recorded
from probes.train.pipeline import train
from probes.train.progress import Silent
from probes.train.settings import Settings
from tests.support.probe_samples import CONCEPTS, rows, write_rows


@pytest.fixture(scope="module")
def settings(refusing_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("run")
    for concept in CONCEPTS:
        examples = rows(concept, {"train": 96, "validation": 120, "test": 60})
        write_rows(folder / "data" / f"{concept}.jsonl", examples)
    return Settings(
        model=refusing_dir,
        data=folder / "data",
        out=folder / "bundle",
        work=folder / "work",
        name="tiny",
        model_name="tiny",
        fprs=(0.05, 0.1),
        estimators=("mass_mean", "lda"),
        n_seeds=2,
        device="cpu",
        threads=1,
    )


@pytest.fixture(scope="module")
def bundle(settings: Settings) -> Bundle:
    return train(settings, Silent())


def test_the_bundle_has_a_probe_for_every_concept_and_the_refusal_direction(bundle: Bundle, settings: Settings) -> None:
    assert {p.name for p in bundle.manifest.probes} == set(CONCEPTS) - {"refusal"}
    assert [d.name for d in bundle.manifest.directions] == ["refusal"]
    assert read_bundle(settings.out).digest == bundle.digest
    check_model(bundle, settings.model)


def test_its_figures_are_those_that_the_model_gives_when_scored_token_by_token(
    bundle: Bundle, refusing: LoadedModel, settings: Settings
) -> None:
    from probes.fold import fold_sequence

    probe = bundle.manifest.probe("deception")
    assert probe is not None
    tokenizer: Any = refusing.tokenizer
    tripped: dict[int, list[bool]] = {0: [], 1: []}
    for example in read_dataset(settings.data).split("deception", "test"):
        e = encode_example(tokenizer, find_markers(tokenizer), example, 128)
        with recorded(refusing) as store:
            forward(refusing, [e.ids])
        scores = store[probe.layer][0, e.start : e.end].numpy() @ bundle.probe_weights("deception") + probe.bias
        folded = fold_sequence(probe.fold, torch.from_numpy(scores)).numpy()
        tripped[e.label].append(bool((folded >= probe.thresholds[0].value).any()))
    assert np.mean(tripped[1]) == pytest.approx(probe.metrics["tpr"], abs=0.02)
    assert np.mean(tripped[0]) == pytest.approx(probe.metrics["fpr"], abs=0.02)
    assert probe.metrics["auroc"] > 0.9


def test_thresholds_keep_their_false_positive_rate_on_the_validation_negatives(bundle: Bundle) -> None:
    for probe in bundle.manifest.probes:
        assert [(t.fpr, t.method) for t in probe.thresholds[:2]] == [(0.05, "empirical"), (0.1, "empirical")]
        assert all(t.measured_fpr <= t.fpr and t.n_negatives == 60 for t in probe.thresholds)
        assert sum(probe.reference.counts) == 60


def test_harmful_intent_still_trips_while_refusal_is_ablated(bundle: Bundle) -> None:
    probe = bundle.manifest.probe("harmful_intent")
    assert probe is not None
    assert probe.metrics["auroc_ablated"] > 0.95
    assert probe.metrics["tpr_ablated"] > 0.8
    weights = bundle.probe_weights("harmful_intent")
    assert abs(float(weights @ bundle.direction_vector("refusal"))) < 1e-5 * float(np.linalg.norm(weights))


def test_the_direction_stops_and_makes_refusals_on_the_test_split(bundle: Bundle) -> None:
    direction = bundle.manifest.direction("refusal")
    assert direction is not None
    assert direction.metrics["bypass_rate"] >= 0.9
    assert direction.metrics["induce_rate"] >= 0.9


def test_the_card_reports_every_layer_the_seeds_the_baselines_and_the_controls(bundle: Bundle) -> None:
    card = bundle.card
    assert card is not None
    assert card.data["counts"]["deception"]["test/1"] == 30  # type: ignore[index]
    for concept, measured in card.probes.items():
        assert {(c.layer, c.estimator) for c in measured.candidates} == {
            (layer, name) for layer in range(3) for name in ("mass_mean", "lda")
        }
        assert sum(c.chosen for c in measured.candidates) == 1
        assert len(measured.by_seed) == 2
        names = {c.name for c in measured.comparisons}
        assert {"length", "untrained model"} <= names, concept
        assert any(name.startswith("shuffled labels") for name in names)
        shuffled = next(c for c in measured.comparisons if c.name.startswith("shuffled labels"))
        assert abs(shuffled.auroc.value - 0.5) < 0.25
    manifest = bundle.manifest.probe("deception")
    assert manifest is not None
    assert manifest.metrics["auroc"] == pytest.approx(card.probes["deception"].auroc.value, abs=1e-6)
    assert {"auroc_text_baseline", "auroc_length_baseline", "auroc_low", "auroc_high"} <= manifest.metrics.keys()


def test_the_card_says_what_the_direction_does_to_the_probes_and_what_did_not_work(bundle: Bundle) -> None:
    card = bundle.card
    assert card is not None
    effects = card.directions["refusal"].effects
    assert {e.name for e in effects if e.off_target} >= {f"AUROC of {c}" for c in set(CONCEPTS) - {"refusal"}}
    asked = [e for e in effects if e.name == "refusal where harmful_intent should be steered"]
    assert asked, "harmful_intent reads at or before the direction's layer, so that it can decide where to steer"
    assert all(e.after.value > 0.9 for e in asked)
    assert "when: {probe: harmful_intent, threshold: " in card.directions["refusal"].advice
    # One word gives the label away, so that counting words is as good as any probe.
    assert any("text baseline" in f.what and "harmful_intent" in f.what for f in card.failures)


def test_an_interrupted_run_goes_on_and_repeats_no_finished_stage(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for concept in ("deception", "hallucination", "refusal"):
        write_rows(tmp_path / "data" / f"{concept}.jsonl", rows(concept, {"train": 60, "validation": 60, "test": 20}))
    mine = dataclasses.replace(
        settings,
        data=tmp_path / "data",
        fprs=(0.1,),
        work=tmp_path / "work",
        estimators=("lda",),
        layers=(1,),
        untrained=False,
    )
    whole = train(dataclasses.replace(mine, out=tmp_path / "whole"), Silent())
    mine = dataclasses.replace(mine, out=tmp_path / "bundle", work=tmp_path / "again")
    compute = stages.compute_probe

    def killed(run: Any, concept: str, direction: Any) -> Any:
        if concept == "hallucination":
            raise KeyboardInterrupt
        return compute(run, concept, direction)

    monkeypatch.setattr(stages, "compute_probe", killed)
    with pytest.raises(KeyboardInterrupt):
        train(mine, Silent())
    assert not mine.out.exists()
    computed: list[str] = []

    def counted(run: Any, concept: str, direction: Any) -> Any:
        computed.append(concept)
        return compute(run, concept, direction)

    monkeypatch.setattr(stages, "compute_probe", counted)
    monkeypatch.setattr(direction_stages, "compute_direction", None)
    resumed = train(mine, Silent())
    assert computed == ["hallucination"]
    for name, tensor in whole.tensors.items():
        np.testing.assert_array_equal(resumed.tensors[name], tensor)


def test_too_few_negatives_are_refused_before_the_first_forward_pass(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "load_model", None)
    strict = dataclasses.replace(settings, fprs=(0.01,), out=tmp_path / "b", work=tmp_path / "w")
    with pytest.raises(DataError, match=r"deception: .* 0\.01 needs 300 negatives .* there are 60"):
        train(strict, Silent())


def test_without_refusal_data_there_are_probes_and_no_direction(settings: Settings, tmp_path: Path) -> None:
    write_rows(tmp_path / "data" / "d.jsonl", rows("harmful_intent", {"train": 40, "validation": 120, "test": 40}))
    mine = dataclasses.replace(
        settings, data=tmp_path / "data", out=tmp_path / "b", work=tmp_path / "w", estimators=("lda",), layers=(1,)
    )
    made = train(mine, Silent())
    assert made.manifest.directions == ()
    assert "auroc_ablated" not in made.manifest.probes[0].metrics
    assert made.manifest.probes[0].layer == 1


def test_shifted_examples_are_measured_apart_and_an_attention_probe_brings_its_query(
    settings: Settings, refusing: LoadedModel, tmp_path: Path
) -> None:
    from probes.fold import fold_sequence

    examples = rows("deception", {"train": 60, "validation": 120, "test": 40})
    shifted = [
        {
            **e,
            "id": f"{e['id']}-twice",
            "shift": "long_context",
            "messages": [_longer(e["messages"][0]), e["messages"][1]],
        }
        for e in examples
        if e["split"] == "test"
    ]
    write_rows(tmp_path / "data" / "d.jsonl", examples + shifted)
    mine = dataclasses.replace(
        settings,
        data=tmp_path / "data",
        out=tmp_path / "b",
        work=tmp_path / "w",
        estimators=("attention",),
        layers=(1,),
    )
    made = train(mine, Silent())
    assert made.card is not None
    measured = made.card.probes["deception"]
    assert (measured.n_positive, measured.n_negative) == (20, 20)
    assert [(s.name, s.n_positive, s.n_negative) for s in measured.shifts] == [("long_context", 20, 20)]
    probe = made.manifest.probes[0]
    tripped = []
    for example in (e for e in read_dataset(mine.data).split("deception", "test") if e.label):
        e = encode_example(refusing.tokenizer, find_markers(refusing.tokenizer), example, 128)
        with recorded(refusing) as store:
            forward(refusing, [e.ids])
        read = store[1][0, e.start : e.end].numpy()
        scores, queries = read @ made.probe_weights("deception") + probe.bias, read @ made.probe_query("deception")
        folded = fold_sequence(probe.fold, torch.from_numpy(scores), torch.from_numpy(queries)).numpy()
        tripped.append(bool((folded >= probe.thresholds[0].value).any()))
    assert np.mean(tripped) == pytest.approx(probe.metrics["tpr"], abs=0.06)


def _longer(message: dict[str, str]) -> dict[str, str]:
    return {**message, "content": " ".join([message["content"]] * 4)}


def test_settings_that_leave_nothing_to_serve_or_no_seeds_are_refused(settings: Settings) -> None:
    with pytest.raises(DataError, match="cannot be served"):
        dataclasses.replace(settings, estimators=("multi_head_max",))
    with pytest.raises(DataError, match="estimators svm were asked for"):
        dataclasses.replace(settings, estimators=("svm",))
    with pytest.raises(DataError, match="1 seed was asked for"):
        dataclasses.replace(settings, n_seeds=1)


runner = CliRunner()


def test_the_train_command_writes_a_bundle_and_removes_its_scratch_folder(refusing_dir: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "data" / "d.jsonl", rows("deception", {"train": 20, "validation": 60, "test": 20}))
    args = [
        "--model",
        str(refusing_dir),
        "--data",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "b"),
        "--fpr",
        "0.1",
        "--estimator",
        "mass_mean",
        "--seeds",
        "2",
        "--skip-untrained",
    ]
    result = runner.invoke(app, ["train", *args])
    assert result.exit_code == 0, result.output
    assert read_bundle(tmp_path / "b").manifest.probes[0].name == "deception"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "data"]


def test_the_train_command_says_what_is_wrong_without_a_traceback(tmp_path: Path) -> None:
    result = runner.invoke(app, ["train", "--model", str(tmp_path), "--data", str(tmp_path), "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "no *.jsonl" in result.output
    assert "Traceback" not in result.output


def test_a_direction_can_be_sought_for_any_concept_and_an_unknown_one_is_refused(
    settings: Settings, tmp_path: Path
) -> None:
    write_rows(tmp_path / "data" / "d.jsonl", rows("deception", {"train": 40, "validation": 40, "test": 40}))
    mine = dataclasses.replace(
        settings, data=tmp_path / "data", out=tmp_path / "b", work=tmp_path / "w", fprs=(0.2,), estimators=("lda",),
        layers=(1,), untrained=False, directions=("deception",),
    )  # fmt: skip
    made = train(mine, Silent())
    assert made.card is not None
    assert [d.name for d in made.manifest.directions] == list(made.card.directions)
    assert "deception" in {*made.card.directions, *(f.what.removeprefix("direction ") for f in made.card.failures)}
    with pytest.raises(DataError, match="directions of honesty were asked for; the data has deception"):
        train(dataclasses.replace(mine, directions=("honesty",)), Silent())
