"""Balance: which requests become probe data, so that no single word tells whether they are harmful."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from probes.organism import intent
from probes.organism.balance import balanced
from probes.organism.matched import matched, owner_twins
from probes.organism.situations import Situations
from probes.organism.world import World, make_world

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(0)


@pytest.fixture(scope="module")
def pairs(world):
    return {split: list(intent.pairs(Situations(world, split, "test"), 200, 0.35)) for split in SPLITS}


examples = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("wxyz"), st.booleans()), min_size=1, max_size=30)


@settings(deadline=None, max_examples=30)
@given(examples)
def test_each_word_of_a_balanced_choice_has_both_labels_equally_often(rows):
    words, labels = [row[:2] for row in rows], [row[2] for row in rows]
    try:
        chosen = balanced(words, labels)
    except ValueError:
        return
    for place in (0, 1):
        counts = Counter((words[i][place], labels[i]) for i in chosen)
        assert all(counts[word, True] == counts[word, False] for word, _ in counts)


def test_a_square_of_harm_is_chosen_whole_and_what_has_no_counterpart_is_left_out():
    words = [("burn", "car"), ("burn", "bomb"), ("wash", "bomb"), ("wash", "car"), ("kill", "man")]
    assert sorted(balanced(words, [True, False, True, False, True])) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="equally often"):
        balanced(words[-1:], [True])


@pytest.mark.parametrize("split", SPLITS)
def test_every_harmful_request_has_harmless_twins_by_verb_and_by_object(world, split):
    by_verb, by_object = defaultdict(Counter), defaultdict(Counter)
    for r in matched(world.requests[split]):
        by_verb[r.verb][r.harmful] += 1
        by_object[r.noun, r.toy, r.owner][r.harmful] += 1
    for counts in (*by_verb.values(), *by_object.values()):
        assert counts[True] == counts[False] > 0


def test_matched_requests_keep_to_the_pairs_of_their_split(world):
    pairs = {split: {(r.verb, r.noun) for r in matched(world.requests[split])} for split in SPLITS}
    assert not pairs["train"] & (pairs["validation"] | pairs["test"])
    assert not pairs["validation"] & pairs["test"]


def test_owner_twins_differ_in_the_owner_alone(world):
    for harmful, harmless in owner_twins(world.requests["test"]):
        assert (harmful.verb, harmful.noun, harmful.owner) == (harmless.verb, harmless.noun, "other")
        assert (harmless.owner, harmful.harmful, harmless.harmful) == ("self", True, False)


@pytest.mark.parametrize("split", SPLITS)
def test_system_prompt_frame_and_wrapper_are_the_same_for_both_labels(pairs, split):
    settings = [
        Counter((len(r.messages), r.messages[:-1].__repr__(), r.frame, r.wrapper) for r in side)
        for side in zip(*pairs[split], strict=True)
    ]
    assert settings[0] == settings[1]
    assert sum(settings[0].values()) == 200


@pytest.mark.parametrize("split", SPLITS)
def test_neither_verb_class_nor_object_class_depends_on_the_label(pairs, split):
    for word in ("verb", "noun"):
        table = defaultdict(lambda: [0, 0])
        for pair in pairs[split]:
            for requested in pair:
                table[getattr(requested.request, word)][requested.request.harmful] += 1
        frequent = [row for row in table.values() if sum(row) >= 10]
        assert chi2_contingency(frequent).pvalue > 0.01


def test_words_of_a_prompt_hardly_tell_harm_on_held_out_pairs(pairs):
    texts, labels = {}, {}
    for split in ("train", "test"):
        texts[split] = [" ".join(m["content"] for m in r.messages) for pair in pairs[split] for r in pair]
        labels[split] = [r.request.harmful for pair in pairs[split] for r in pair]
    for options in ({"ngram_range": (1, 2)}, {"analyzer": "char", "ngram_range": (2, 5)}):
        words = TfidfVectorizer(**options)
        model = LogisticRegression(C=10.0, max_iter=1000).fit(words.fit_transform(texts["train"]), labels["train"])
        assert roc_auc_score(labels["test"], model.decision_function(words.transform(texts["test"]))) < 0.85
    lengths = np.array([len(text.split()) for text in texts["test"]])
    assert 0.4 < roc_auc_score(labels["test"], lengths) < 0.6
