"""What holds for all tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import settings

from monitor.cli.logs import VERDICT_LOGGER

# No timed tests: a machine that does other things as well must not make an example fail.
settings.register_profile("plumbline", deadline=None)
settings.load_profile("plumbline")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Handlers of a command that a test ran inside this process go with the stream that the test gave it."""
    loggers = [logging.getLogger(name) for name in (None, "monitor", VERDICT_LOGGER)]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate
