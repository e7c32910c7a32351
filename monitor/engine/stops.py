"""What the worker tells the scheduler to end, and how it travels: an attribute of the step's output.

Runs in: vLLM worker (writes) and engine core (reads); it survives the pickling between them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

_ATTRIBUTE = "plumbline_stops"


class Stop(NamedTuple):
    """End one request with nothing released.

    Attributes:
        rule: the rule that tripped; None if it is an error. error: what went wrong.
    """

    rule: str | None
    error: str | None = None


def attach_stops(output: Any, stops: dict[str, Stop]) -> None:
    """Hang stops, by vLLM's request id, on a ``ModelRunnerOutput``."""
    if stops:
        setattr(output, _ATTRIBUTE, stops)


def attached_stops(output: Any) -> dict[str, Stop]:
    """The stops that hang on a ``ModelRunnerOutput``."""
    return getattr(output, _ATTRIBUTE, None) or {}
