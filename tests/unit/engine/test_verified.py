"""The table of parity results: what a result covers, and what may enter."""

from __future__ import annotations

import json

import msgspec
import pytest

from monitor.engine.verified import RESULTS, Result, Setup, read_results, record_result, untested
from monitor.errors import EngineSetupError

SETUP = Setup(vllm="0.32.0", runner="v1", device="cpu", scheduling="sync", mode="eager")


def result(scores: float = 0.01, **changes) -> Result:
    fields = msgspec.structs.asdict(SETUP) | changes
    return Result(**fields, scores=scores, logits=0.02, prompts=50, note="", date="2026-01-01")


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "verified.json"
    path.write_text("[]")
    return path


@pytest.mark.parametrize(
    "other",
    [
        {"vllm": "0.31.0"}, {"runner": "v2"}, {"device": "cuda"}, {"scheduling": "async"}, {"mode": "compiled"},
        {"parallel": "tp2"},
    ],
)  # fmt: skip
def test_a_result_speaks_for_nothing_that_differs_in_one_point(other):
    assert untested(SETUP, [result(**other)]) == str(SETUP)
    assert untested(SETUP, [result(**other), result()]) == ""


def test_patch_releases_of_one_minor_version_count_as_the_same():
    assert untested(SETUP, [result(vllm="0.32.4")]) == ""
    assert untested(SETUP, [result(vllm="0.320.4")]) != ""


def test_a_recorded_result_is_read_back_in_the_place_of_the_older_one(table):
    record_result(result(scores=0.5), table)
    record_result(result(mode="compiled"), table)
    record_result(result(scores=0.1, vllm="0.32.1"), table)
    assert sorted((r.mode, r.scores, r.vllm) for r in read_results(table)) == [
        ("compiled", 0.01, "0.32.0"), ("eager", 0.1, "0.32.1"),
    ]  # fmt: skip


@pytest.mark.parametrize("scores", [1.01, float("inf"), float("nan")])
def test_a_run_that_was_not_exact_is_never_recorded(table, scores):
    with pytest.raises(EngineSetupError, match="not recorded"):
        record_result(result(scores=scores), table)
    assert read_results(table) == ()


def test_a_table_that_was_edited_to_hold_one_is_refused(table):
    record_result(result(), table)
    table.write_text(table.read_text().replace("0.01", "7.0"))
    with pytest.raises(EngineSetupError, match="over the bound"):
        read_results(table)


@pytest.mark.parametrize("content", ["", "[{}]", '[{"runner": "v3"}]'])
def test_a_damaged_table_is_refused_with_what_to_do(table, content):
    table.write_text(content)
    with pytest.raises(EngineSetupError, match="install Plumbline again"):
        read_results(table)


def test_the_shipped_table_has_one_line_for_each_setup():
    lines = RESULTS.read_text().splitlines()
    assert len(lines) == len(json.loads(RESULTS.read_text())) + 2
    found = read_results()
    assert all(sum(a.covers(b) for a in found) == 1 for b in found)
