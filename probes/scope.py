"""Which positions a scope covers: always one interval of absolute positions.

    last_user   from the last user turn's first content token to the end of the prompt: the template
                tokens that follow belong to it, because there the model has read the whole turn
    prompt      [0, n_prompt)
    response    [n_prompt, end)
    all         [0, end)

Shared by training, calibration and the engine, so that a scope means the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from probes.types import RoleMarkers, Scope

OPEN_END = 2**31 - 1


def scope_interval(scope: Scope, prompt: Sequence[int], markers: RoleMarkers) -> tuple[int, int]:
    """First position and end (exclusive; ``OPEN_END`` if open) of ``scope``.

    Args:
        scope: which positions.
        prompt: token ids of the prompt, template included.
        markers: of the bundle's model. Without a user marker in the prompt, ``last_user`` is all of it.
    """
    match scope:
        case Scope.PROMPT:
            return 0, len(prompt)
        case Scope.RESPONSE:
            return len(prompt), OPEN_END
        case Scope.ALL:
            return 0, OPEN_END
        case Scope.LAST_USER:
            return _end_of_last(prompt, markers.user), len(prompt)


def _end_of_last(prompt: Sequence[int], marker: Sequence[int]) -> int:
    """Position after the last occurrence of ``marker`` that something follows; 0 if there is none."""
    width = len(marker)
    if width == 0:
        return 0
    wanted = tuple(marker)
    for start in range(len(prompt) - width - 1, -1, -1):
        if tuple(prompt[start : start + width]) == wanted:
            return start + width
    return 0
