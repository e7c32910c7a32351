"""Probe data: the two by two of deception, matched values, shifts within the language, families frozen."""

from collections import Counter, defaultdict

import pytest

from probes.organism import data as probe_data
from probes.organism import families as frozen_families
from probes.organism import shifted
from probes.organism.data import CONCEPTS, DataMaker, write_data
from probes.organism.families import check_frozen, families
from probes.organism.model import load_organism
from probes.organism.shifts import MAX_TOKENS, RESPONSE_TOKENS, SHIFTS, length, texts
from probes.organism.situations import Situations
from probes.organism.tokenizer import make_tokenizer
from probes.organism.world import make_world
from probes.train.data import read_dataset

MADE = ("long_context", "decoys")


@pytest.fixture(scope="module")
def world():
    return make_world(0)


@pytest.fixture(scope="module")
def examples(world):
    """A small set of each concept, answered by the shipped organism."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe_data, "N_EACH_LABEL", {"train": 12, "validation": 6, "test": 6})
        patch.setattr(probe_data, "N_SHIFTED", 2)
        patch.setattr(shifted, "SHIFTS", {name: SHIFTS[name] for name in MADE})
        maker = DataMaker(*load_organism(), world)
        return {concept: maker.examples(concept) for concept in CONCEPTS}


def test_what_is_written_can_be_read_and_is_locked(examples, world, tmp_path):
    write_data(examples, world, tmp_path)
    dataset = read_dataset(tmp_path)
    assert set(dataset.examples) == set(CONCEPTS)
    assert set(dataset.shifted("harmful_intent")) == set(MADE)
    (tmp_path / "refusal.jsonl").unlink()
    with pytest.raises(Exception, match="gone"):
        read_dataset(tmp_path)


def test_no_family_of_a_template_is_in_two_splits(examples):
    for rows in examples.values():
        splits = defaultdict(set)
        for e in rows:
            splits[e.family].add(e.split)
        assert all(len(found) == 1 for found in splits.values())


def test_truth_and_lie_are_told_equally_often_under_either_order(examples, world):
    truths = {p.name: p for p in world.people.known}
    cells = Counter()
    for e in examples["deception"]:
        person = truths.get(next((n for n in truths if n in e.messages[-2].content), ""))
        if person and e.split == "train":
            cells[e.label, e.spans[0] in dict(person.facts).values()] += 1
    assert len(cells) == 4
    assert len(set(cells.values())) == 1


def test_a_made_up_value_is_matched_by_the_same_value_where_it_is_true(examples):
    for split in ("train", "validation", "test"):
        values = {
            k: Counter(e.spans for e in examples["hallucination"] if e.split == split and not e.shift and e.label == k)
            for k in (0, 1)
        }
        assert values[0] == values[1] != Counter()


def test_refusal_pairs_differ_in_the_last_message_alone(examples):
    settings = {k: Counter(repr(e.messages[:-1]) for e in examples["refusal"] if e.label == k) for k in (0, 1)}
    assert settings[0] == settings[1]


def test_shifted_examples_are_test_examples_of_both_labels(examples):
    for concept in ("harmful_intent", "deception", "hallucination"):
        assert {e.split for e in examples[concept] if e.shift} == {"test"}
    assert {(e.shift, e.label) for e in examples["harmful_intent"] if e.shift} == {(s, k) for s in MADE for k in (0, 1)}


def test_long_contexts_are_long_and_leave_room_for_a_response(examples):
    for e in examples["harmful_intent"]:
        if e.shift == "long_context":
            n = length([m.model_dump() for m in e.messages])
            assert MAX_TOKENS - RESPONSE_TOKENS - 60 < n <= MAX_TOKENS - RESPONSE_TOKENS


def test_the_length_of_a_conversation_is_the_tokenizers(examples):
    tokenizer = make_tokenizer()
    for e in examples["harmful_intent"]:
        messages = [m.model_dump() for m in e.messages]
        ids = tokenizer.apply_chat_template(messages)["input_ids"]
        assert length(messages) == len(ids) - 1  # without the token at the very beginning


def test_shifts_use_the_words_of_the_language_only():
    tokenizer = make_tokenizer()
    for text in texts():
        plain = text.format(user="", request="", direct="", indirect="")
        assert "<unk>" not in tokenizer.tokenize(plain), text


def test_a_shift_keeps_what_is_asked(world):
    draw = Situations(world, "test", "shifts")
    asked = draw.asked(draw.system("neutral"), draw.rng.choice(world.known("test")))
    requested = draw.requested(draw.system("neutral"), harmful=True, wrapped=True)
    for rewrite in SHIFTS.values():
        assert asked.person.name in rewrite(world, asked, 0, draw.rng)[-1]["content"]
        assert requested.request.phrase in rewrite(world, requested, 1, draw.rng)[-1]["content"]


def test_families_are_in_one_split_each_and_frozen(world):
    splits = defaultdict(set)
    for split, family in families(world):
        splits[family].add(split)
    assert all(len(found) == 1 for found in splits.values())
    assert check_frozen(world) == frozen_families.FROZEN[0]


def test_a_changed_family_is_refused(world, monkeypatch):
    monkeypatch.setitem(frozen_families.FROZEN, 0, "0" * 64)
    with pytest.raises(ValueError, match="template families of world 0"):
        check_frozen(world)
