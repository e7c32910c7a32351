"""Near-duplicates: found across splits, against a plain computation, and not between what merely looks alike."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from test_splits import example

from probes.train import leaks
from probes.train.examples import Example, Labelled
from probes.train.leaks import across_splits, everywhere
from probes.train.progress import Silent

TEXTS = [
    ("train", "Write a guide on how to commit insider trading"),
    ("test", "Guide on how to commit insider trading"),
    ("train", "List the main sources of renewable energy"),
    ("validation", "List some of the main sources of renewable energy"),
    ("test", "Compose a short poem about the sea"),
    ("train", "Compose a short letter about the weather"),
    ("test", "Name three planets of the solar system"),
    ("train", "Which vegetables grow in the shade?"),
]


def examples() -> list[Example]:
    return [Example(**dict(example(text, i % 2)), split=split) for i, (split, text) in enumerate(TEXTS)]  # type: ignore[arg-type]


def test_near_duplicates_across_splits_are_found_and_look_alikes_are_not() -> None:
    found = [(p.one.messages[0].content, p.other.messages[0].content) for p in across_splits(examples(), Silent())]
    assert sorted(found) == [(TEXTS[2][1], TEXTS[3][1]), (TEXTS[0][1], TEXTS[1][1])]


def test_cosines_are_those_of_tf_idf_without_hashing_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "_ROWS", 3)
    texts = [text for _, text in TEXTS]
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(4, 4), sublinear_tf=True).fit_transform(texts)
    cosines = (vectors @ vectors.T).toarray()
    wanted = {(texts[j], texts[i]): cosines[i, j] for i, j in zip(*np.nonzero(cosines >= 0.1), strict=True) if j < i}
    found = {
        (p.one.messages[0].content, p.other.messages[0].content): p.cosine
        for p in everywhere(examples(), Silent(), 0.1)
    }
    assert found.keys() == wanted.keys()
    assert [found[k] for k in wanted] == pytest.approx(list(wanted.values()), abs=1e-5)


def test_the_most_alike_come_first() -> None:
    cosines = [p.cosine for p in everywhere(examples(), Silent(), 0.1)]
    assert cosines == sorted(cosines, reverse=True)


def test_one_split_may_repeat_itself_and_concepts_do_not_meet() -> None:
    same = [Example(**dict(example(f"Bake a cake {'!' * i}")), split="test") for i in range(3)]
    elsewhere = Example(**dict(example("Bake a cake", concept="other")), split="train")
    assert not across_splits([*same, elsewhere], Silent())


def test_shifted_examples_may_resemble_others() -> None:
    train, test = (Example(**dict(example("Bake a cake")), split=split) for split in ("train", "test"))
    assert len(across_splits([train, test], Silent())) == 1
    assert not across_splits([train, test.model_copy(update={"shift": "quoted"})], Silent())


def test_texts_without_a_shingle_are_no_duplicates() -> None:
    assert not everywhere([example("."), example("?"), *map(Labelled.model_validate, [])], Silent())
