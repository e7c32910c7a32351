"""The demonstration itself, as a newcomer runs it."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.serve import BIN

pytestmark = pytest.mark.vllm


def test_the_demonstration_ends_with_everything_as_expected():
    done = subprocess.run(
        [str(BIN / "plumbline"), "demo"], capture_output=True, text=True, timeout=500, check=False, env=None
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Everything happened as expected." in done.stdout
    assert "10 of 10 as expected" in done.stdout
