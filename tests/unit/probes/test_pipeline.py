"""The whole run on a tiny model that refuses: data in, verified bundle out, and resumed when interrupted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from probe_samples import CONCEPTS, rows, write_rows
from typer.testing import CliRunner

from probes.bundle import Bundle, check_model, read_bundle
from probes.cli import app
from probes.errors import DataError
from probes.template import find_markers
from probes.train import run as running
from probes.train import stages
from probes.train.data import read_dataset
from probes.train.encode import encode_example
from probes.train.model import LoadedModel, forward, recorded
from probes.train.pipeline import train
from probes.train.progress import Silent
from probes.train.settings import Settings


@pytest.fixture(scope="module")
def settings(refusing_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("run")
    return Settings(
        model=refusing_dir,
        data=data_dir,
        out=folder / "bundle",
        work=folder / "work",
        name="tiny",
        model_name="tiny",
        fprs=(0.05, 0.1),
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
    assert probe.metrics["auroc"] > 0.95


def test_thresholds_keep_their_false_positive_rate_on_the_validation_negatives(bundle: Bundle) -> None:
    for probe in bundle.manifest.probes:
        assert [t.fpr for t in probe.thresholds] == [0.05, 0.1]
        assert all(t.measured_fpr <= t.fpr and t.n_negatives == 120 for t in probe.thresholds)
        assert sum(probe.reference.counts) == 120


def test_harmful_intent_still_trips_while_refusal_is_ablated(bundle: Bundle) -> None:
    probe = bundle.manifest.probe("harmful_intent")
    assert probe is not None
    assert probe.metrics["auroc_ablated"] > 0.95
    assert probe.metrics["tpr_ablated"] > 0.8
    assert abs(float(bundle.probe_weights("harmful_intent") @ bundle.direction_vector("refusal"))) < 1e-5


def test_the_direction_stops_and_makes_refusals_on_the_test_split(bundle: Bundle) -> None:
    direction = bundle.manifest.direction("refusal")
    assert direction is not None
    assert direction.metrics["bypass_rate"] >= 0.9
    assert direction.metrics["induce_rate"] >= 0.9


def test_the_card_reports_every_layer_and_the_controls(bundle: Bundle) -> None:
    card: Any = bundle.manifest.card
    assert {row["layer"] for row in card["probes"]["deception"]["layers"]} == {0, 1, 2}
    assert card["data"]["counts"]["deception"]["test/1"] == 60
    probe = bundle.manifest.probe("deception")
    assert probe is not None
    assert {"auroc_text_baseline", "auroc_length_baseline", "auroc_low", "auroc_high"} <= probe.metrics.keys()


def test_an_interrupted_run_goes_on_and_repeats_no_finished_stage(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for concept in CONCEPTS:
        write_rows(tmp_path / "data" / f"{concept}.jsonl", rows(concept, {"train": 60, "validation": 60, "test": 20}))
    mine = dataclasses.replace(settings, data=tmp_path / "data", fprs=(0.1,), work=tmp_path / "work")
    whole = train(dataclasses.replace(mine, out=tmp_path / "whole"), Silent())
    mine = dataclasses.replace(mine, out=tmp_path / "bundle", work=tmp_path / "again")
    compute = stages._compute_probe

    def killed(run: Any, concept: str, direction: Any) -> Any:
        if concept == "hallucination":
            raise KeyboardInterrupt
        return compute(run, concept, direction)

    monkeypatch.setattr(stages, "_compute_probe", killed)
    with pytest.raises(KeyboardInterrupt):
        train(mine, Silent())
    assert not mine.out.exists()
    computed: list[str] = []

    def counted(run: Any, concept: str, direction: Any) -> Any:
        computed.append(concept)
        return compute(run, concept, direction)

    monkeypatch.setattr(stages, "_compute_probe", counted)
    monkeypatch.setattr(stages, "_compute_direction", None)
    resumed = train(mine, Silent())
    assert computed == ["hallucination", "harmful_intent"]
    for name, tensor in whole.tensors.items():
        np.testing.assert_array_equal(resumed.tensors[name], tensor)


def test_too_few_negatives_are_refused_before_the_first_forward_pass(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "load_model", None)
    strict = dataclasses.replace(settings, fprs=(0.01,), out=tmp_path / "b", work=tmp_path / "w")
    with pytest.raises(DataError, match=r"deception: .* 0\.01 needs 300 negatives .* there are 120"):
        train(strict, Silent())


def test_without_refusal_data_there_are_probes_and_no_direction(settings: Settings, tmp_path: Path) -> None:
    write_rows(tmp_path / "data" / "d.jsonl", rows("harmful_intent", {"train": 40, "validation": 120, "test": 40}))
    mine = dataclasses.replace(settings, data=tmp_path / "data", out=tmp_path / "b", work=tmp_path / "w")
    made = train(mine, Silent())
    assert made.manifest.directions == ()
    assert "auroc_ablated" not in made.manifest.probes[0].metrics


runner = CliRunner()


def test_show_prints_the_figures_in_80_columns(bundle: Bundle) -> None:
    result = runner.invoke(app, ["bundle", "show", str(bundle.path)], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    for word in ("harmful_intent", "AUROC", "TPR, refusal ablated", "refusal", "KL on answered"):
        assert word in result.output


def test_verify_accepts_its_model_and_refuses_another_with_exit_code_1(bundle: Bundle, other_model_dir: Path) -> None:
    good = runner.invoke(app, ["bundle", "verify", str(bundle.path)])
    assert good.exit_code == 0
    assert bundle.digest in good.output
    bad = runner.invoke(app, ["bundle", "verify", str(bundle.path), "--model", str(other_model_dir)])
    assert bad.exit_code == 1
    assert "differ" in bad.output


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
