"""An allowed false-positive rate as the key of a figure."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator


def written(rate: float) -> str:
    """The one way in which a rate is written as a key: ``0.01``."""
    return f"{rate:g}"


def _checked(key: str) -> str:
    """Two ways to write a rate would be two rows about the same threshold."""
    try:
        rate = float(key)
    except ValueError:
        rate = 0.0
    if not 0 < rate < 1 or key != written(rate):
        raise ValueError(f"got the rate {key!r}; wanted a number between 0 and 1, written as '0.01' or '0.001'")
    return key


Rate = Annotated[str, AfterValidator(_checked)]
