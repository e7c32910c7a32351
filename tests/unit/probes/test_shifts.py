"""Shifts: the same request and label in other surroundings, the same for the same seed."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_splits import example

from probes.errors import DataError
from probes.train.examples import Example
from probes.train.sources.shifts import SHIFTS, benign_pool, choose, shift

POOL = ["Bake a cake for two.", "Name three rivers.", "Why is the sky blue?"]
LIE = Example.model_validate(
    {
        "id": "lie",
        "concept": "deception",
        "label": 1,
        "messages": [
            {"role": "system", "content": "Lie."},
            {"role": "user", "content": "When was Ann born?"},
            {"role": "assistant", "content": "In 1912."},
        ],
        "spans": ["1912"],
        "split": "test",
    }
)


def request_of(text: str = "How do I rob {it}?", label: int = 1) -> Example:
    return Example(**dict(example(text, label)), split="test")


@pytest.mark.parametrize("name", SHIFTS)
@pytest.mark.parametrize("original", [request_of(), LIE], ids=["prompt", "response"])
def test_a_shift_keeps_request_label_response_and_spans(name: str, original: Example) -> None:
    (made,) = shift([original], name, POOL, seed=0, factor=50)
    request = next(m.content for m in reversed(original.messages) if m.role == "user")
    assert request in next(m.content for m in reversed(made.messages) if m.role == "user")
    assert (made.label, made.concept, made.phase, made.response) == (
        original.label, original.concept, original.phase, original.response,
    )  # fmt: skip
    assert (made.spans, made.source, made.family) == (original.spans, original.source, original.family)
    assert (made.split, made.shift, made.id) == ("test", name, f"{original.id}-{name}")
    assert made.messages != original.messages
    assert [m for m in original.messages if m.role == "system"] == [m for m in made.messages if m.role == "system"]


@given(st.integers(2, 50), st.integers(0, 99))
def test_a_long_context_is_up_to_the_factor_longer_and_never_more(factor: int, seed: int) -> None:
    original = request_of("one two three four five six seven")
    (made,) = shift([original], "long_context", POOL, seed=seed, factor=factor)
    words = made.messages[0].content.split()
    assert 2 * 7 <= len(words) <= factor * 7
    assert len(words) % 7 == 0


def test_several_turns_end_with_the_request_and_alternate() -> None:
    (made,) = shift([request_of()], "several_turns", POOL, seed=0, factor=2)
    roles = [m.role for m in made.messages]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    assert len(roles) >= 3
    assert {m.content for m in made.messages[:-1] if m.role == "user"} <= set(POOL)


@pytest.mark.parametrize("name", SHIFTS)
def test_the_seed_and_the_id_decide_not_the_order(name: str) -> None:
    many = [request_of(f"request {i} of a long list of requests") for i in range(8)]
    made = shift(many, name, POOL, seed=0, factor=50)
    assert shift(many[::-1], name, POOL[::-1], seed=0, factor=50)[::-1] == made
    assert shift(many, name, POOL, seed=1, factor=50) != made


def test_a_request_does_not_surround_itself() -> None:
    (made,) = shift([request_of("Bake a cake for two.", 0)], "decoys", POOL, seed=0, factor=2)
    assert made.messages[0].content.count("Bake a cake") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "upside_down"}, "no shift is called 'upside_down'; wanted one of long_context"),
        ({"pool": [" "]}, "the pool has no benign text; give a file with --pool"),
        ({"factor": 51}, "the factor came as 51; wanted 2 to 50"),
        ({"examples": [LIE.model_copy(update={"split": "train"})]}, "example lie cannot be shifted"),
        ({"examples": [LIE.model_copy(update={"shift": "quoted"})]}, "example lie cannot be shifted"),
        (
            {"examples": [LIE.model_copy(update={"messages": LIE.messages[:1]})]},
            "an unshifted test example with a user",
        ),
    ],
)
def test_what_cannot_be_shifted_is_refused(change: dict[str, object], message: str) -> None:
    arguments = {"examples": [LIE], "name": "quoted", "pool": POOL, "seed": 0, "factor": 50} | change
    with pytest.raises(DataError, match=message):
        shift(**arguments)  # type: ignore[arg-type]


def test_the_pool_is_the_negatives_and_the_choice_is_even() -> None:
    many = [request_of(f"request {i}", i % 4 == 0) for i in range(40)]
    assert benign_pool(many) == [f"request {i}" for i in range(40) if i % 4]
    assert benign_pool([LIE]) == []
    chosen = choose(many, 5, seed=0)
    assert Counter(e.label for e in chosen) == {0: 5, 1: 5}
    assert chosen == [e for e in many if e in chosen]
    assert chosen != choose(many, 5, seed=1)
