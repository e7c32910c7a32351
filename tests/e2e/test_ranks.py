"""One monitor hears all data-parallel ranks of a real engine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.test_failures import hello, post
from tests.support.serve import serve_organism

pytestmark = pytest.mark.vllm


def test_requests_are_scored_on_whichever_rank_they_run(tmp_path: Path):
    """vLLM spreads concurrent requests, and the choices of one request, over its ranks."""
    ranks = ["--allow-untested", "--engine-arg=--data-parallel-size 2"]
    running = serve_organism(tmp_path / "log", *ranks)
    try:
        running.wait_ready(seconds=420)
        assert running.text().count("Plumbline reads layers") == 2
        bodies = [{**hello("watch"), "n": 1 + i % 2} for i in range(16)]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda body: post(running.url, body), bodies))
        assert [status for status, _ in answers] == [200] * 16
        assert [(a["guard"]["status"], a["guard"]["unscored"]) for _, a in answers] == [("passed", {})] * 16
        assert not [name for name, value in running.metrics().items() if "frames_dropped" in name and value]
    finally:
        running.stop()
