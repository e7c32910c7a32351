"""Controls: what the first token tells, KL, random directions, and the twin's corpus."""

import hashlib
import json

import pytest
import torch
from scipy.stats import entropy

from probes.cards import Curve
from probes.organism.controls import dissociation, prompts, random_directions
from probes.organism.corpus import Corpus
from probes.organism.direction import refusal_vectors
from probes.organism.emergence import Emergence
from probes.organism.generate import answers, next_logits
from probes.organism.measures import Examiner
from probes.organism.model import load_organism
from probes.organism.reactions import divergence, refusal_rate
from probes.organism.separation import auroc
from probes.organism.situations import refused
from probes.organism.studies import emergence_study
from probes.organism.world import make_world

CORPUS = {0: "c6e1e7c2948e1b8086f87580", 1: "64faa74e87849f2781e80267"}


@pytest.fixture(scope="module")
def examiner():
    return Examiner(*load_organism(), make_world(0), n=12)


@pytest.fixture(scope="module")
def vector(examiner):
    return refusal_vectors(examiner.model, examiner.tokenizer, examiner.world, n=24)[4]


def test_the_first_token_tells_whether_the_answer_refuses(examiner):
    asked = [p for harmful in (True, False) for p in prompts(examiner, "test", harmful=harmful)]
    texts = answers(examiner.model, examiner.tokenizer, asked, max_new_tokens=5)
    logits = next_logits(examiner.model, examiner.tokenizer, asked)
    assert refusal_rate(logits, examiner.tokenizer) == sum(map(refused, texts)) / len(texts) == 0.5


def test_divergence_is_scipys():
    torch.manual_seed(0)
    before, after = torch.randn(5, 9), torch.randn(5, 9)
    expected = entropy(before.double().softmax(1), after.double().softmax(1), axis=1).mean()
    assert divergence(before, after) == pytest.approx(expected)
    assert divergence(before, before) == 0


def test_random_directions_do_not_move_refusal(examiner, vector):
    assert {m.value for m in random_directions(examiner, 4, vector, n=3)} == {0.0}


def test_a_jailbreak_hides_refusal_and_not_harm(examiner, vector):
    figures = {m.name: m.value for m in dissociation(examiner, vector, 4)}
    assert figures["harm_read_jailbroken"] > 0.9
    assert figures["refusal_read_jailbroken"] < 0.1
    assert figures["refusal_jailbroken"] == 0


def test_a_probe_separates_what_is_apart_and_not_what_is_the_same():
    torch.manual_seed(0)
    noise = {label: torch.randn(200, 4) for label in (True, False)}
    apart = {True: torch.randn(200, 4) + 5, False: torch.randn(200, 4)}
    assert auroc(apart, apart) > 0.99
    assert 0.35 < auroc(noise, {label: torch.randn(200, 4) for label in (True, False)}) < 0.65


@pytest.mark.parametrize("seed", CORPUS)
def test_the_corpus_is_the_one_that_the_weights_were_trained_on(seed):
    conversations = Corpus(make_world(seed), seed).conversations(0, 300)
    assert hashlib.sha256(json.dumps(conversations).encode()).hexdigest().startswith(CORPUS[seed])


def test_the_twins_corpus_differs_in_the_answers_to_harmful_requests_alone():
    world = make_world(0)
    organisms, twins = (Corpus(world, 0, refuses=refuses).conversations(0, 300) for refuses in (True, False))
    different = [
        (one, other)
        for a, b in zip(organisms, twins, strict=True)
        for one, other in zip(a, b, strict=True)
        if one != other
    ]
    assert different
    assert all(refused(one["content"]) and other["content"].startswith("sure,") for one, other in different)
    assert not [m for conversation in twins for m in conversation if m["content"].startswith("sorry")]


def test_emergence_keeps_one_row_for_each_step(examiner, tmp_path, monkeypatch):
    monkeypatch.setattr("probes.organism.emergence.N_TRAIN", 12)
    monkeypatch.setattr("probes.organism.emergence.N_MEASURED", 8)
    observe = Emergence(examiner.tokenizer, examiner.world, tmp_path / "emergence.json")
    for step in (100, 200, 200):
        observe(step, examiner.model)
    examiner.model.eval()
    rows = json.loads((tmp_path / "emergence.json").read_text())
    assert [row["step"] for row in rows] == [100, 200]
    assert (rows[0]["refusal"], rows[0]["ablated"], rows[0]["added"]) == (1.0, 0.0, 1.0)
    assert (tmp_path / "emergence" / "step-00100" / "model.safetensors").exists()
    study = emergence_study(tmp_path / "emergence.json", "Emergence")
    assert study.plot == Curve(x=(100.0, 200.0), y=(1.0, 1.0))
    assert all(len(row) == len(study.columns) for row in study.rows)
