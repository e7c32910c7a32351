"""The large proofs are cut evenly, none is lost, and what has passed is known."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.full.shards import ROOT, cut, read_records, state_name

MINUTES = st.lists(st.integers(1, 30).map(float), min_size=1, max_size=7)
SUITE = """
import pytest
def test_good(): pass
def test_bad(): assert False
def test_absent(): pytest.skip("not here")
@pytest.fixture
def broken():
    yield
    raise RuntimeError
def test_good_with_a_bad_end(broken): pass
"""


@given(minutes=MINUTES, n=st.integers(1, 9))
def test_every_test_is_in_exactly_one_shard(minutes, n):
    parts = cut(minutes, n)
    assert len(parts) == n
    assert [i for part in parts for i in part] == list(range(len(minutes)))


@settings(deadline=None)
@given(minutes=MINUTES, n=st.integers(1, 4))
def test_no_consecutive_cut_has_a_shorter_longest_shard(minutes, n):
    ends = itertools.combinations_with_replacement(range(len(minutes) + 1), n - 1)
    cuts = ([0, *inner, len(minutes)] for inner in ends)
    best = min(max(sum(minutes[a:b]) for a, b in itertools.pairwise(edges)) for edges in cuts)
    assert max(sum(minutes[i] for i in part) for part in cut(minutes, n)) == best


def test_each_test_is_recorded_as_it_ended(tmp_path: Path):
    suite, records = tmp_path / "test_suite.py", tmp_path / "records.jsonl"
    suite.write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-p", "tests.full.record", "--record", str(records), str(suite)]
    subprocess.run([*command, "--rootdir", str(tmp_path)], cwd=ROOT, check=False, capture_output=True)
    assert {name.partition("::")[2]: record.outcome for name, record in read_records(records).items()} == {
        "test_good": "passed", "test_bad": "failed", "test_absent": "skipped", "test_good_with_a_bad_end": "failed",
    }  # fmt: skip


def test_a_changed_source_asks_for_every_proof_again_and_a_document_for_none(tmp_path: Path):
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / "monitor").mkdir()
    empty = state_name(tmp_path)
    (tmp_path / "README.md").write_text("a document")
    assert state_name(tmp_path) == empty
    (tmp_path / "monitor" / "new.py").write_text("one = 1")
    untracked = state_name(tmp_path)
    assert untracked != empty
    subprocess.run(["git", "-C", tmp_path, "add", "."], check=True)
    assert state_name(tmp_path) == untracked
    (tmp_path / "monitor" / "new.py").write_text("one = 2")
    assert state_name(tmp_path) not in (empty, untracked)
