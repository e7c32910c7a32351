"""``plumbline data`` as a person types it: import, split, check, shift, and what goes wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from test_freeze import unlike
from typer.testing import CliRunner, Result

from probes.data_cli import app
from probes.train.data import read_dataset
from probes.train.sources.table import LAYOUTS

PAGE = Path(__file__).parents[3] / "docs" / "data.md"


def plumbline_data(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """AdvBench-like goals and harmless instructions, imported."""
    goals = [[unlike(i), "Sure"] for i in range(12)]
    with (tmp_path / "advbench.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["goal", "target"], *goals])
    kind = [{"instruction": unlike(i), "category": None} for i in range(12, 24)]
    (tmp_path / "harmless.json").write_text(json.dumps(kind))
    for name, label in (("advbench.csv", []), ("harmless.json", ["--label", 0])):
        out = tmp_path / "raw" / f"{name}.jsonl"
        assert plumbline_data("import", tmp_path / name, "--out", out, *label).exit_code == 0
    return tmp_path / "raw"


def test_import_split_check_and_shift_follow_each_other(raw: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    split = plumbline_data("split", raw, "--out", data, "--shares", 0.5, 0.25, 0.25)
    assert split.exit_code == 0, split.output
    assert "harmful_intent: test/0 3, test/1 3, train/0 6, train/1 6, validation/0 3, validation/1 3" in split.output
    check = plumbline_data("check", data)
    assert check.exit_code == 0, check.output
    assert "no near-duplicates across splits (cosine ≥ 0.8); frozen in splits.json" in check.output
    shift = plumbline_data("shift", data, "--shift", "quoted", "--shift", "decoys", "--per-label", 2)
    assert shift.exit_code == 0, shift.output
    assert {name: len(es) for name, es in read_dataset(data).shifted("harmful_intent").items()} == {
        "decoys": 4,
        "quoted": 4,
    }
    assert plumbline_data("check", data).exit_code == 0
    again = plumbline_data("split", raw, "--out", data, "--shares", 0.5, 0.25, 0.25)
    assert again.exit_code == 0, again.output


def test_import_says_what_it_took_and_what_it_left_out(raw: Path, tmp_path: Path) -> None:
    twice = [tmp_path / "advbench.csv", tmp_path / "advbench.csv"]
    done = plumbline_data("import", *twice, "--out", tmp_path / "x.jsonl")
    assert f"{tmp_path}/advbench.csv: advbench" in done.output
    assert "12 of harmful_intent/1, from 24 rows" in done.output
    assert "left out: 12 repeated" in done.output


def test_an_error_is_a_message_and_exit_code_1(raw: Path, tmp_path: Path) -> None:
    wrong = plumbline_data("import", tmp_path / "harmless.json", "--out", tmp_path / "x.jsonl")
    assert wrong.exit_code == 1
    assert "error: " in wrong.output
    assert "say --label 0 or 1" in wrong.output
    assert "Traceback" not in wrong.output
    assert not (tmp_path / "x.jsonl").exists()


def test_check_finds_a_leak_that_was_put_in_by_hand(raw: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    plumbline_data("split", raw, "--out", data)
    (data / "splits.json").unlink()
    lines = (data / "harmless.jsonl").read_text().splitlines()
    line = next(json.loads(text) for text in lines if '"split":"test"' in text)
    line["messages"][0]["content"] += " Now"
    (data / "leak.jsonl").write_text(json.dumps(line | {"id": "leak", "split": "train"}))
    found = plumbline_data("check", data)
    assert found.exit_code == 1
    assert "1 pairs of conversations in different splits say almost the same" in found.output
    assert "leak [train]" in found.output


def test_a_pool_of_ones_own_stands_around_the_requests(raw: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    plumbline_data("split", raw, "--out", data)
    (tmp_path / "pool.txt").write_text("\ufeffalpha alpha\n\nbeta beta\n")
    done = plumbline_data("shift", data, "--shift", "decoys", "--pool", tmp_path / "pool.txt")
    assert done.exit_code == 0, done.output
    (shifted,) = read_dataset(data).shifted("harmful_intent").values()
    assert all("alpha" in e.messages[0].content or "beta" in e.messages[0].content for e in shifted)


def test_the_page_lists_exactly_the_layouts_with_their_columns_concepts_and_rule() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in PAGE.read_text().split("\n## Public sets\n")[1].split("\n## ")[0].splitlines()
        if line.startswith("| `")
    ]
    assert rows == [
        [
            f"`{layout.name}`",
            layout.title,
            ", ".join(f"`{c}`" for c in sorted(layout.columns)),
            ", ".join(f"`{c}`" for c in layout.concepts),
            layout.rule,
            layout.licence,
        ]
        for layout in LAYOUTS.values()
    ]


def test_every_layout_is_listed_for_people() -> None:
    listed = plumbline_data("layouts").output
    assert all(name[:8] in listed for name in LAYOUTS)
