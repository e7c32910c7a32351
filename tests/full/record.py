"""A pytest plugin that writes down how each test ended, at once, so that an interrupted run loses nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", type=Path, help="append one JSON line for each test that has ended to this file")


def pytest_configure(config: pytest.Config) -> None:
    if (path := config.getoption("record")) is not None:
        config.pluginmanager.register(Recorder(path))


class Recorder:
    """Adds up a test's setup, call and teardown."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seconds = 0.0
        self._outcomes: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "setup":
            self._seconds, self._outcomes = 0.0, []
        self._seconds += report.duration
        self._outcomes.append(report.outcome)
        if report.when == "teardown":
            outcome = next((o for o in ("failed", "skipped") if o in self._outcomes), "passed")
            line = {"test": report.nodeid, "outcome": outcome, "seconds": round(self._seconds, 1)}
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")
