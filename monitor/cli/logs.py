"""Log lines on stderr: for people, except verdicts, which are one JSON object a line for programs."""

from __future__ import annotations

import logging
import sys

VERDICT_LOGGER = "plumbline.verdict"


def set_up_logs(*, verbose: bool) -> None:
    """Configure the root logger and that of the verdicts."""
    people = logging.StreamHandler(sys.stderr)
    people.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[people], force=True)
    logging.getLogger("monitor").setLevel(logging.INFO)
    programs = logging.StreamHandler(sys.stderr)
    programs.setFormatter(logging.Formatter("%(message)s"))
    verdicts = logging.getLogger(VERDICT_LOGGER)
    verdicts.handlers[:] = [programs]
    verdicts.setLevel(logging.INFO)
    verdicts.propagate = False
