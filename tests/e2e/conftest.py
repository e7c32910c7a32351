"""One ``plumbline serve`` on the organism, shared by all tests that do not break it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.serve import Served, serve_organism


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    running = serve_organism(tmp_path_factory.mktemp("serve") / "log")
    try:
        yield running.wait_ready()
    finally:
        running.stop()
