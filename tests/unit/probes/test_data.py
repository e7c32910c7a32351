"""Labelled data: what is read, and what is refused with file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from probes.errors import DataError
from probes.train.data import read_dataset, read_unsplit
from tests.support.probe_samples import rows, write_rows


def good(concept: str = "harmful_intent") -> list[dict[str, Any]]:
    return rows(concept, {"train": 4, "validation": 4, "test": 4})


def test_examples_are_grouped_by_concept_and_split_in_file_order(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", good() + good("deception"))
    dataset = read_dataset(tmp_path)
    assert list(dataset.examples) == ["deception", "harmful_intent"]
    assert [e.id for e in dataset.split("harmful_intent", "test")] == [f"harmful_intent-test-{i}" for i in range(4)]
    assert dataset.counts()["deception"]["train/1"] == 2


def test_the_last_speaker_decides_what_the_label_is_about(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", good() + good("deception"))
    examples = read_dataset(tmp_path).examples
    assert {e.phase for e in examples["harmful_intent"]} == {"prompt"}
    assert {e.phase for e in examples["deception"]} == {"response"}
    assert examples["deception"][0].response.startswith("true")


def test_the_digest_follows_the_content_not_the_formatting(tmp_path: Path) -> None:
    write_rows(tmp_path / "one" / "a.jsonl", good())
    spaced = "\n\n".join(json.dumps(r, indent=None, separators=(" , ", " : ")) for r in good())
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "a.jsonl").write_text(spaced)
    write_rows(tmp_path / "three" / "a.jsonl", good()[::-1])
    digests = [read_dataset(tmp_path / n).digest for n in ("one", "two", "three")]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 2}, r"a\.jsonl:3: label: Input should be 0 or 1 \(came: 2\)"),
        ({"labl": 1}, r"a\.jsonl:3: labl: Extra inputs are not permitted"),
        ({"split": "dev"}, r"a\.jsonl:3: split: .*'train', 'validation' or 'test' \(came: 'dev'\)"),
        ({"messages": []}, r"a\.jsonl:3: messages: .*at least 1 item"),
        ({"messages": [{"role": "bot", "content": "x"}]}, r"a\.jsonl:3: messages\.0\.role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, r"a\.jsonl:3: .*a response needs a prompt"),
        ({"spans": ["soup"]}, r"a\.jsonl:3: .*spans are for responses"),
        ({"id": "harmful_intent-train-0"}, r"a\.jsonl:3: id 'harmful_intent-train-0' was used at .*a\.jsonl:1"),
        ({"concept": "Harm!"}, r"a\.jsonl:3: concept"),
        ({"shift": "quoted"}, r"a\.jsonl:3: .*shift 'quoted' in split train; shifted examples belong into the test"),
        ({"shift": "Two words"}, r"a\.jsonl:3: shift: String should match pattern"),
    ],
)
def test_a_bad_line_is_refused_naming_file_line_and_field(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    examples = good()
    examples[2] |= change
    write_rows(tmp_path / "a.jsonl", examples)
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path)


def test_shifted_examples_are_kept_apart_from_the_test_split(tmp_path: Path) -> None:
    quoted = [r | {"id": f"{r['id']}-q", "shift": "quoted"} for r in good() if r["split"] == "test"]
    for row in quoted:
        row["messages"] = [{"role": "user", "content": f"> {row['messages'][0]['content']}"}]
    write_rows(tmp_path / "a.jsonl", good() + quoted)
    dataset = read_dataset(tmp_path)
    assert len(dataset.split("harmful_intent", "test")) == 4
    assert [e.id for e in dataset.shifted("harmful_intent")["quoted"]] == [r["id"] for r in quoted]
    assert dataset.counts()["harmful_intent"] == {
        "train/0": 2, "train/1": 2, "validation/0": 2, "validation/1": 2, "test/0": 2, "test/1": 2,
        "quoted/0": 2, "quoted/1": 2,
    }  # fmt: skip


def test_shifted_examples_do_not_stand_in_for_a_missing_label(tmp_path: Path) -> None:
    examples = [r for r in good() if (r["split"], r["label"]) != ("test", 1)]
    shifted = [r | {"shift": "quoted"} for r in good() if (r["split"], r["label"]) == ("test", 1)]
    write_rows(tmp_path / "a.jsonl", examples + shifted)
    with pytest.raises(DataError, match=r"split test has labels \[0\]"):
        read_dataset(tmp_path)


def test_lines_without_a_split_are_sent_to_the_command_that_assigns_it(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [{k: v for k, v in r.items() if k != "split"} for r in good()])
    with pytest.raises(DataError, match=r"a\.jsonl:1: split is missing\. `plumbline data split`"):
        read_dataset(tmp_path)
    assert len(list(read_unsplit(tmp_path))) == len(good())


def test_a_line_that_is_not_json_is_refused_naming_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\n{"id": \n')
    with pytest.raises(DataError, match=r"a\.jsonl:2: not a JSON object"):
        read_dataset(tmp_path)


def test_a_span_that_the_response_lacks_is_refused(tmp_path: Path) -> None:
    examples = good("hallucination")
    examples[0]["spans"] = ["nowhere"]
    write_rows(tmp_path / "a.jsonl", examples)
    with pytest.raises(DataError, match="span 'nowhere' does not occur in the response"):
        read_dataset(tmp_path)


def test_the_same_conversation_in_two_splits_is_refused(tmp_path: Path) -> None:
    examples = good()
    examples[-1]["messages"] = examples[1]["messages"]
    write_rows(tmp_path / "a.jsonl", examples)
    with pytest.raises(DataError, match=r"a\.jsonl:12: the same conversation is in train .* and in test"):
        read_dataset(tmp_path)


def test_the_same_conversation_in_two_splits_of_two_concepts_is_refused(tmp_path: Path) -> None:
    refusals = good("refusal")
    refusals[-1]["messages"] = good()[0]["messages"]
    write_rows(tmp_path / "a.jsonl", good() + refusals)
    with pytest.raises(DataError, match=r"a\.jsonl:24: .* in train for harmful_intent .* and in test for refusal"):
        read_dataset(tmp_path)
    refusals[-1]["split"] = "train"
    refusals[0]["split"] = "test"
    write_rows(tmp_path / "a.jsonl", good() + refusals)
    assert set(read_dataset(tmp_path).examples) == {"harmful_intent", "refusal"}


def test_the_same_conversation_with_two_labels_is_refused(tmp_path: Path) -> None:
    examples = good()
    examples[1]["messages"] = examples[0]["messages"]
    write_rows(tmp_path / "a.jsonl", examples)
    with pytest.raises(DataError, match="the same conversation has label 0"):
        read_dataset(tmp_path)


def test_a_concept_about_prompts_and_responses_is_refused(tmp_path: Path) -> None:
    mixed = [r | {"concept": "deception"} for r in good()]
    write_rows(tmp_path / "a.jsonl", good("deception") + mixed)
    with pytest.raises(DataError, match="prompts or responses, not both"):
        read_dataset(tmp_path)


def test_a_split_with_one_label_only_is_refused(tmp_path: Path) -> None:
    examples = [r for r in good() if (r["split"], r["label"]) != ("validation", 1)]
    write_rows(tmp_path / "a.jsonl", examples)
    with pytest.raises(DataError, match=r"split validation has labels \[0\]"):
        read_dataset(tmp_path)


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \*\.jsonl"):
        read_dataset(tmp_path / "missing")
