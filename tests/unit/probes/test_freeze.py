"""Frozen splits: written once, checked on every reading, changed only on request."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from test_splits import example

from probes.errors import DataError
from probes.train.data import read_dataset
from probes.train.examples import Labelled
from probes.train.freeze import FrozenData, Policy, freeze
from probes.train.progress import Silent
from probes.train.splits import Plan


def unlike(i: int) -> str:
    """A text of random letters that resembles no other."""
    letters = random.Random(i).choices("abcdefghijklmnopqrstuvwxyz", k=40)
    return " ".join("".join(letters[k : k + 8]) for k in range(0, 40, 8))


def conversations(n: int = 24) -> list[Labelled]:
    """Families of one conversation, labels and sources in turn, none like another."""
    return [example(unlike(i), i % 2, source="ab"[i % 2], family=str(i)) for i in range(n)]


def run(examples: list[Labelled], out: Path, plan: Plan | None = None, **policy: object) -> FrozenData:
    return freeze(examples, out, plan or Plan(), Policy(**policy), Silent())  # type: ignore[arg-type]


def test_what_is_written_is_read_again_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    done = run(conversations(), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert before.keys() == {"a.jsonl", "b.jsonl", "splits.json"}
    assert sorted(e.id for e in read_dataset(tmp_path).examples["c"]) == sorted(e.id for e in done.examples)
    run(conversations()[::-1], tmp_path)
    assert json.loads(before["splits.json"]) == json.loads((tmp_path / "splits.json").read_bytes())


def test_an_example_in_another_split_than_was_frozen_is_refused(tmp_path: Path) -> None:
    run(conversations(), tmp_path)
    lines = (tmp_path / "a.jsonl").read_text().replace('"split":"test"', '"split":"validation"', 1)
    (tmp_path / "a.jsonl").write_text(lines)
    with pytest.raises(DataError, match=r"is in split validation, but .*splits\.json froze it in test"):
        read_dataset(tmp_path)


def test_a_changed_a_new_and_a_missing_conversation_are_refused(tmp_path: Path) -> None:
    run(conversations(), tmp_path)
    path = tmp_path / "a.jsonl"
    before = path.read_text()
    path.write_text(before.replace('"content":"', '"content":"so ', 1))
    with pytest.raises(DataError, match="it is new, or its messages were changed"):
        read_dataset(tmp_path)
    path.write_text("".join(before.splitlines(keepends=True)[1:]))
    with pytest.raises(DataError, match=r"1 of the 24 conversations frozen in .* are gone"):
        read_dataset(tmp_path)


def test_a_lock_that_was_edited_is_refused(tmp_path: Path) -> None:
    run(conversations(), tmp_path)
    path = tmp_path / "splits.json"
    path.write_text(path.read_text().replace('"test"', '"train"', 1))
    with pytest.raises(DataError, match="was changed by hand"):
        read_dataset(tmp_path)
    path.write_text("{}")
    with pytest.raises(DataError, match="is not a lock of splits"):
        read_dataset(tmp_path)


def test_other_splits_than_were_frozen_are_refused_until_renewed(tmp_path: Path) -> None:
    run(conversations(), tmp_path)
    frozen = (tmp_path / "splits.json").read_bytes()
    with pytest.raises(DataError, match=r"0 conversations are new, 0 are gone, \d+ would move.*--renew"):
        run(conversations(), tmp_path, Plan(seed=1))
    assert (tmp_path / "splits.json").read_bytes() == frozen
    run(conversations(), tmp_path, Plan(seed=1), renew=True)
    assert (tmp_path / "splits.json").read_bytes() != frozen


def test_new_conversations_join_without_moving_old_ones(tmp_path: Path) -> None:
    old = {e.id: e.split for e in run(conversations(16), tmp_path).examples}
    with pytest.raises(DataError, match="8 conversations are new"):
        run(conversations(24), tmp_path)
    new = {e.id: e.split for e in run(conversations(24), tmp_path, extend=True).examples}
    assert len(new) == 24
    assert {id_: new[id_] for id_ in old} == old
    with pytest.raises(DataError, match="8 are gone"):
        run(conversations(16), tmp_path, extend=True)


def near_duplicates(tmp_path: Path) -> list[Labelled]:
    """The conversations, and for each one of the test split a near-copy that goes to train."""
    test = [e for e in run(conversations(), tmp_path / "before").examples if e.split == "test"]
    return [example(f"{e.messages[0].content} !", e.label, family=f"copy {i}") for i, e in enumerate(test)]


def test_near_duplicates_across_splits_are_refused_joined_or_dropped(tmp_path: Path) -> None:
    examples = [*conversations(), *near_duplicates(tmp_path)]
    with pytest.raises(DataError, match=r"pairs of conversations .* say almost the same(.|\n)*--duplicates join"):
        run(examples, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    joined = run(examples, tmp_path / "joined", duplicates="join")
    splits = {e.messages[0].content: e.split for e in joined.examples}
    assert len(splits) == len(examples)
    assert all(splits[text] == splits[text.removesuffix(" !")] for text in splits)
    dropped = run(examples, tmp_path / "dropped", duplicates="drop")
    assert dropped.dropped == len(examples) - len(dropped.examples) > 0
    for name in ("joined", "dropped"):
        read_dataset(tmp_path / name)


def test_dropping_spares_what_is_frozen(tmp_path: Path) -> None:
    out = tmp_path / "before"
    copies = near_duplicates(tmp_path)
    frozen = {e.id for e in read_dataset(out).examples["c"]}
    done = run([*conversations(), *copies], out, extend=True, duplicates="drop")
    assert frozen <= {e.id for e in done.examples}
    assert done.dropped > 0


def test_too_few_groups_for_three_splits_are_refused(tmp_path: Path) -> None:
    examples = [example(unlike(i), i % 2, source="one", family="one") for i in range(12)]
    with pytest.raises(DataError, match=r"split validation got labels \[\]; wanted both\. There are too few groups"):
        run(examples, tmp_path)


def test_ids_used_twice_and_files_of_another_split_are_refused(tmp_path: Path) -> None:
    examples = conversations()
    with pytest.raises(DataError, match="ids must differ"):
        run([*examples, examples[0].model_copy(update={"messages": example("other").messages})], tmp_path)
    (tmp_path / "old.jsonl").write_text("")
    with pytest.raises(DataError, match=r"holds old\.jsonl, which this split does not write"):
        run(examples, tmp_path)
