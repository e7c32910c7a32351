"""Start a real engine for tests."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from probes.bundle import Bundle


def start(model: Path, bundle: Bundle, scratch: Path, **options: object):
    before = dict(os.environ)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vLLM and its dependencies warn while they are imported
        from tests.support.engine import Engine

        engine = Engine(model, bundle, scratch, **options)
    os.environ.clear()
    os.environ.update(before)
    return engine
