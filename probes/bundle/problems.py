"""What pydantic found wrong, in one line."""

from __future__ import annotations

from pydantic import ValidationError

_SHOWN = 3


def problems(error: ValidationError) -> str:
    """The first problems, each as ``probes.0.layer: Input should be ...``; no values, which may be of any size."""
    found = [
        f"{'.'.join(map(str, one['loc']))}: {one['msg']}" if one["loc"] else one["msg"]
        for one in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more
