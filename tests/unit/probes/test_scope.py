"""Scopes as intervals of positions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from probes.scope import OPEN_END, scope_interval
from probes.types import RoleMarkers, Scope

MARKERS = RoleMarkers(user=(7, 8), assistant=(9,), end=(1,))
PROMPT = [0, 7, 8, 3, 3, 1, 9, 4, 1, 7, 8, 5, 6, 1, 9]


def test_last_user_begins_after_the_last_user_marker_and_includes_what_opens_the_response() -> None:
    assert scope_interval(Scope.LAST_USER, PROMPT, MARKERS) == (11, 15)


def test_without_a_user_marker_last_user_is_the_whole_prompt() -> None:
    assert scope_interval(Scope.LAST_USER, PROMPT, RoleMarkers()) == (0, 15)
    assert scope_interval(Scope.LAST_USER, [1, 2, 3], MARKERS) == (0, 3)


def test_prompt_and_response_part_the_positions_between_them() -> None:
    assert scope_interval(Scope.PROMPT, PROMPT, MARKERS) == (0, 15)
    assert scope_interval(Scope.RESPONSE, PROMPT, MARKERS) == (15, OPEN_END)
    assert scope_interval(Scope.ALL, PROMPT, MARKERS) == (0, OPEN_END)


@given(st.lists(st.integers(0, 3), max_size=12), st.lists(st.integers(0, 3), min_size=1, max_size=3))
def test_last_user_agrees_with_a_search_in_text(prompt: list[int], marker: list[int]) -> None:
    start, end = scope_interval(Scope.LAST_USER, prompt, RoleMarkers(user=tuple(marker)))
    found = "".join(map(str, prompt[:-1])).rfind("".join(map(str, marker)))  # one that ends the prompt opens no turn
    assert (start, end) == (found + len(marker) if found >= 0 else 0, len(prompt))
