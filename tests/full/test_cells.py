"""Every way to run an engine that this machine can run: scores, steering and gate are the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from benchmarks.cells import CELLS, ROOT, run_cell

pytestmark = [pytest.mark.vllm, pytest.mark.full, pytest.mark.timeout(2400)]

# The integration tests of the gate start an engine of their own, which takes its ways from the environment.
GATE_CELLS = ("v1-async", "v2-eager", "v2-async")


@pytest.mark.parametrize("name", CELLS)
def test_scores_and_steered_logits_equal_those_of_transformers(name):
    done = run_cell(name, "--dry")
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.search(r"scores (\S+), logits (\S+) of the bound", done.stdout)
    assert found is not None, done.stdout
    assert float(found[1]) <= 1
    assert float(found[2]) <= 1


@pytest.mark.parametrize("name", GATE_CELLS)
def test_the_gate_and_the_prefix_cache_work_alike(name):
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "PLUMBLINE_ALLOW_UNTESTED": "1", **CELLS[name].env}
    tests = ["tests/integration/test_engine_gate.py", "tests/integration/test_engine_parity.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not compiled", *tests],
        cwd=ROOT, env=env, text=True, capture_output=True, timeout=1800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"\d\d passed", done.stdout), done.stdout[-300:]
