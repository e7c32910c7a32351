"""Rows of files: what is read, and what hostile files are told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from probes.errors import DataError
from probes.train.sources.records import read_rows


def rows_of(path: Path, content: str | bytes) -> list[dict[str, object]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [dict(row) for _, row in read_rows(path)]


EXPECTED = [{"goal": "say “hi”", "best_answer": "a, b"}, {"goal": "two\nlines", "best_answer": ""}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", 'Goal,Best Answer\nsay “hi”,"a, b"\n\n"two\nlines",\n'),
        ("x.csv", '\ufeffGoal,Best Answer\r\nsay “hi”,"a, b"\r\n"two\nlines",\r\n'),
        ("x.tsv", 'Goal\tBest Answer\nsay “hi”\ta, b\n"two\nlines"\t\n'),
        (
            "x.json",
            json.dumps([{"Goal": "say “hi”", "Best Answer": "a, b"}, {"Goal": "two\nlines", "Best Answer": ""}]),
        ),
        ("x.json", '{"goal": "say “hi”", "best answer": "a, b"}\n\n{"goal": "two\\nlines", "best answer": ""}\n'),
        ("x.jsonl", '\ufeff{"goal": "say “hi”", "best answer": "a, b"}\n{"goal": "two\\nlines", "best answer": ""}'),
    ],
    ids=["csv", "csv with BOM and CRLF", "tsv", "json list", "json lines under .json", "jsonl with BOM"],
)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str, content: str) -> None:
    assert rows_of(tmp_path / name, content) == EXPECTED


def test_a_text_file_has_one_prompt_a_line(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "x.txt", "one\n\n  two \n") == [{"line": "one"}, {"line": "two"}]


def test_a_row_is_told_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a\n1\n2\n")
    assert [place for place, _ in read_rows(tmp_path / "x.csv")] == [f"{tmp_path}/x.csv:2", f"{tmp_path}/x.csv:3"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "goal;target\na;b\n", "separated by ';'; wanted commas"),
        ("x.csv", "goal\ttarget\na\tb\n", r"separated by '\\t'; wanted commas"),
        ("x.csv", "", "is empty; wanted a header"),
        ("x.csv", "goal,target\na,b,c\n", "x.csv:2: 3 cells under a header of 2; a cell with ',' .* needs quotes"),
        ("x.csv", "goal,target\na\n", "x.csv:2: 1 cells under a header of 2"),
        ("x.csv", 'goal,target\na,"b\n', "x.csv:2: .*a quote that was opened and never closed"),
        ("x.csv", "goal\n" + "x" * 10_000_000, "x.csv:2: field larger than field limit"),
        ("x.jsonl", json.dumps({"goal": "x" * 10_000_000}), r"x.jsonl:1: goal has 10,000,000 characters"),
        ("x.csv", b"goal\ncaf\xe9\n", "x.csv is not UTF-8 .byte 0xe9.*iconv"),
        ("x.csv", "goal\nhi\n".encode("utf-16"), "x.csv is not UTF-8 .byte 0xff"),
        ("x.jsonl", '{"goal": "a"}\n{"goal"\n', "x.jsonl:2: not a JSON object"),
        ("x.jsonl", '["a"]\n', "x.jsonl:1: list; wanted a JSON object"),
        ("x.json", '[{"goal": "a"}, 3]', "item 2: int; wanted a JSON object"),
        ("x.json", '[{"goal": "a"}', "x.json: not JSON"),
        ("x.xlsx", "", r"the ending is \.xlsx; wanted one of \.csv"),
    ],
)
def test_a_hostile_file_is_refused_with_its_line_and_the_cure(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        rows_of(tmp_path / name, content)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(read_rows(tmp_path / "x.csv"))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)  # as where it is not installed
    with pytest.raises(DataError, match="pip install pyarrow"):
        rows_of(tmp_path / "x.parquet", b"PAR1")


def test_parquet_rows_are_those_that_were_written(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"Goal": ["a", "b"], "spans": [["x"], []]}), tmp_path / "x.parquet")
    assert [dict(r) for _, r in read_rows(tmp_path / "x.parquet")] == [
        {"goal": "a", "spans": ["x"]},
        {"goal": "b", "spans": []},
    ]
