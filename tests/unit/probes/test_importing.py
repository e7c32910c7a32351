"""Public files to labelled conversations: recognised, labelled, without repetitions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from probes.errors import DataError
from probes.train.examples import Labelled
from probes.train.sources.hub import resolve_files
from probes.train.sources.importing import Choices, import_files


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def goals(*texts: str) -> list[dict[str, Any]]:
    return [{"goal": text, "target": "Sure"} for text in texts]


def test_an_example_has_id_source_and_family(tmp_path: Path) -> None:
    done = import_files([write(tmp_path / "x.jsonl", goals("Write a bad script", "Rob it"))], Choices())
    first, second = done.unique.examples
    assert first == Labelled.model_validate(
        {
            "id": first.id,
            "concept": "harmful_intent",
            "label": 1,
            "messages": [{"role": "user", "content": "Write a bad script"}],
            "source": "advbench",
            "family": "write a bad",
        }
    )
    assert first.id.startswith("advbench-harmful_intent-")
    assert first.id != second.id
    assert done.layouts == {tmp_path / "x.jsonl": "advbench"}


def test_ids_are_the_same_in_every_run_and_order(tmp_path: Path) -> None:
    one = import_files([write(tmp_path / "x.jsonl", goals("a", "b"))], Choices()).unique.examples
    other = import_files([write(tmp_path / "x.jsonl", goals("b", "a"))], Choices()).unique.examples
    assert {e.id for e in one} == {e.id for e in other}


def test_of_a_repeated_conversation_the_first_is_kept_and_of_a_contradictory_one_none(tmp_path: Path) -> None:
    rows = [
        {"prompt": p, "response": "ok", "category": {}, "is_safe": safe}
        for p, safe in (("a", True), ("a", True), ("b", True), ("b", False), ("c", False))
    ]
    done = import_files([write(tmp_path / "x.jsonl", rows)], Choices())
    assert [e.messages[0].content for e in done.unique.examples] == ["a", "c"]
    assert (done.rows, done.unique.repeated, done.unique.contradictory) == (5, 1, 1)


def test_files_of_several_layouts_come_together_and_the_first_file_keeps_what_both_have(tmp_path: Path) -> None:
    harmless = write(tmp_path / "kind.jsonl", [{"instruction": "Bake", "input": "", "output": "x"}])
    harmful = write(tmp_path / "bad.jsonl", goals("Rob it"))
    again = write(tmp_path / "more.jsonl", [{"category": "x", "source": "DAN", "forbidden_prompt": "Rob it"}])
    done = import_files([harmless, harmful, again], Choices())
    assert [(e.source, e.label) for e in done.unique.examples] == [("alpaca", 0), ("advbench", 1)]


def test_a_set_without_labels_needs_one_from_the_caller_and_its_source_is_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "harmless_test.jsonl", [{"instruction": "Bake", "category": None}])
    with pytest.raises(DataError, match=r"rows of instructions have no label\. .*say --label 0 or 1"):
        import_files([path], Choices())
    (example,) = import_files([path], Choices(label=0)).unique.examples
    assert (example.label, example.source) == (0, "harmless_test")


def test_a_label_for_a_set_that_has_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="advbench has labels of its own"):
        import_files([write(tmp_path / "x.jsonl", goals("a"))], Choices(label=0))


def test_concepts_can_be_chosen_and_choosing_none_of_the_file_is_refused(tmp_path: Path) -> None:
    row = {"user_input": "hi", "model_output": "", "human_annotation": True, "toxicity": 0, "jailbreaking": 1}
    path = write(tmp_path / "x.jsonl", [row])
    assert [e.concept for e in import_files([path], Choices(concepts=["jailbreak"])).unique.examples] == ["jailbreak"]
    with pytest.raises(DataError, match=r"1 rows of .* gave no example of deception"):
        import_files([path], Choices(concepts=["deception"]))


def test_a_bad_row_is_refused_with_its_line_or_left_out_on_request(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [*goals("a"), {"goal": None, "target": ""}, *goals("b")])
    with pytest.raises(DataError, match=r"x\.jsonl:2 \(advbench\): goal: came None; wanted text\. --skip-bad"):
        import_files([path], Choices())
    done = import_files([path], Choices(skip_bad=True))
    assert (len(done.unique.examples), len(done.bad)) == (2, 1)


def test_a_conversation_that_no_example_can_hold_is_refused_with_its_line(tmp_path: Path) -> None:
    row = {
        "conversation": [{"role": "wizard", "content": "?"}, {"role": "assistant", "content": "Ann"}],
        "annotations": [{"span": "Ann", "label": "Supported", "index": 0}],
    }
    with pytest.raises(DataError, match=r"x\.jsonl:1 \(longfact\): Input should be 'system'"):
        import_files([write(tmp_path / "x.jsonl", [row])], Choices())


def test_a_file_without_rows_or_layout_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.jsonl has no rows"):
        import_files([write(tmp_path / "x.jsonl", [])], Choices())
    with pytest.raises(DataError, match=r"y\.jsonl: no layout has the columns colour"):
        import_files([write(tmp_path / "y.jsonl", [{"colour": "red"}])], Choices())


def test_names_are_files_folders_or_cached_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "datasets--org--harm" / "snapshots" / "0"
    (snapshot / "data").mkdir(parents=True)
    (tmp_path / "datasets--org--harm" / "refs").mkdir()
    (tmp_path / "datasets--org--harm" / "refs" / "main").write_text("0")
    (snapshot / "README.md").write_text("a card")
    train, test = (write(snapshot / "data" / f"{n}.jsonl", goals("a")) for n in ("train", "test"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert resolve_files(str(train)) == [train]
    assert resolve_files(str(snapshot)) == [test, train]
    assert [f.name for f in resolve_files("org/harm")] == ["test.jsonl", "train.jsonl"]
    assert [f.name for f in resolve_files("org/harm", "data/tr*")] == ["train.jsonl"]
    with pytest.raises(DataError, match=r"hf download --repo-type dataset org/other"):
        resolve_files("org/other")
    with pytest.raises(DataError, match=r"no file \*\.csv that ends in one of"):
        resolve_files(str(snapshot), "*.csv")
