"""Splits: whole groups, the wanted shares, the same result for the same data."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.errors import DataError
from probes.train.examples import SPLITS, Labelled, Message, messages_hash
from probes.train.families import derived_family, group_of, leading_words
from probes.train.splits import Plan, assign, with_splits


def example(text: str, label: int = 0, source: str = "s", family: str = "f", concept: str = "c") -> Labelled:
    return Labelled.model_validate(
        {
            "id": f"{concept} {source} {family} {text}",
            "concept": concept,
            "label": label,
            "messages": [{"role": "user", "content": text}],
            "source": source,
            "family": family,
        }
    )


SETS = st.lists(
    st.builds(
        example,
        st.integers(0, 40).map(str),
        st.integers(0, 1),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["", "x", "y", "z", "w"]),
        st.sampled_from(["harm", "lie"]),
    ),
    min_size=1,
    max_size=25,
)
FEW = settings(max_examples=30, deadline=None)  # building examples takes the time


@FEW
@given(SETS, st.integers(0, 5), st.sampled_from(["family", "source"]))
def test_a_group_is_never_in_two_splits(examples: list[Labelled], seed: int, by: str) -> None:
    splits = assign(examples, Plan(seed=seed, by=by))  # type: ignore[arg-type]
    found = defaultdict(set)
    for e in examples:
        found[group_of(e) if by == "family" else e.source].add(splits[messages_hash(e.messages)])
    assert all(len(seen) == 1 for seen in found.values())


@FEW
@given(SETS, st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(examples: list[Labelled], seed: int, rng: random.Random) -> None:
    shuffled = rng.sample(examples, len(examples))
    assert assign(examples, Plan(seed=seed)) == assign(shuffled, Plan(seed=seed))


@FEW
@given(SETS, SETS, st.integers(0, 5))
def test_frozen_conversations_stay_where_they_are(old: list[Labelled], new: list[Labelled], seed: int) -> None:
    frozen = assign(old, Plan(seed=0))
    try:
        splits = assign(old + new, Plan(seed=seed), frozen=frozen)
    except DataError as error:  # a new conversation may belong to two groups that are apart
        assert "joined what was apart" in str(error)
    else:
        assert {key: splits[key] for key in frozen} == frozen


def test_the_seed_changes_the_choice() -> None:
    examples = [example(str(i), i % 2, family=str(i)) for i in range(40)]
    assert assign(examples, Plan(seed=0)) != assign(examples, Plan(seed=1))


def test_each_label_of_each_concept_comes_near_to_its_share() -> None:
    rng = random.Random(0)
    examples = [
        example(f"{concept} {family} {i}", label, family=f"{label} {family}", concept=concept)
        for concept, label, n_families in (("harm", 0, 60), ("harm", 1, 25), ("lie", 0, 30), ("lie", 1, 40))
        for family in range(n_families)
        for i in range(rng.randint(1, 9))
    ]
    found = with_splits(examples, assign(examples, Plan(shares=(0.5, 0.2, 0.3))))
    for stratum, total in Counter((e.concept, e.label) for e in examples).items():
        counts = Counter(e.split for e in found if (e.concept, e.label) == stratum)
        for split, share in zip(SPLITS, (0.5, 0.2, 0.3), strict=True):
            assert counts[split] / total == pytest.approx(share, abs=0.05)


def test_three_groups_fill_three_splits() -> None:
    examples = [example(f"{source} {i}", i % 2, source) for source in "abc" for i in range(4)]
    assert set(assign(examples, Plan(by="source")).values()) == set(SPLITS)


def test_groups_that_share_a_conversation_or_must_be_together_are_one() -> None:
    examples = [example("same", source="a"), example("same", source="b"), example("x", source="b")]
    others = [example(str(i), i % 2, source=f"c{i}") for i in range(10)]
    pair = (messages_hash(others[0].messages), messages_hash(examples[2].messages))
    splits = assign(examples + others, Plan(), together=[pair])
    assert len({splits[messages_hash(e.messages)] for e in (*examples, others[0])}) == 1


def test_a_group_that_was_frozen_in_two_splits_is_refused() -> None:
    one, other = example("one"), example("other")
    frozen = {messages_hash(one.messages): "train", messages_hash(other.messages): "test"}
    with pytest.raises(DataError, match="frozen in test and train"):
        assign([one, other], Plan(), frozen=frozen)  # type: ignore[arg-type]


@pytest.mark.parametrize("shares", [(0.6, 0.3, 0.3), (1.0, 0.0, 0.0), (1.2, -0.1, -0.1)])
def test_shares_that_do_not_add_up_are_refused(shares: tuple[float, float, float]) -> None:
    with pytest.raises(DataError, match="three positive ones that add up to 1"):
        Plan(shares=shares)


def test_a_family_is_the_first_words_without_case_digits_and_punctuation() -> None:
    assert leading_words("  Give me 3 examples!") == leading_words("give me: 25 names") == "give me #"
    assert leading_words("Don't stop — me now") == "don't stop me"
    assert leading_words("…") == ""
    turns = [("system", "be kind"), ("user", "Tell me one thing"), ("assistant", "No, ask first")]
    assert derived_family([Message(role=r, content=c) for r, c in turns]) == "tell me one"  # type: ignore[arg-type]
    assert group_of(example("Write a poem", family="")) == ("s", "write a poem")
