"""A prefix-cache hit costs no recompute and gives every fold, on every scope, the cold run's result."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from monitor.policy.plan import DetectorPlan
from monitor.types import Action, Operator, Steering, SteeringScope
from probes.bundle import Bundle
from probes.types import FoldKind, FoldSpec, Scope
from tests.support.folds import offline_folds
from tests.support.load import CRAMPED, NEVER
from tests.support.parity import ABLATE, ADD, random_prompts, score_share
from tests.support.reference import Reference
from tests.support.scoped import scoped_run
from tests.support.staggered import metric
from tests.support.start import start
from tests.support.tiny import USER, make_bundle

pytestmark = [pytest.mark.vllm, pytest.mark.full, pytest.mark.timeout(3600)]

BLOCK = CRAMPED["block_size"]
EVERY_FOLD_AND_SCOPE = tuple(
    (f"{kind}_{scope}", index % 4, FoldSpec(kind=kind), scope)
    for index, (kind, scope) in enumerate(itertools.product(FoldKind, Scope))
)
ON_PROMPT = (Steering("refusal", Operator.ADD, 1.0, SteeringScope.PROMPT),)
ON_RESPONSE = (Steering("refusal", Operator.ABLATE, 1.0, SteeringScope.RESPONSE),)


@pytest.fixture(scope="module")
def bundle(model, tmp_path_factory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "every", model, specs=EVERY_FOLD_AND_SCOPE)


@pytest.fixture(scope="module")
def reference(model, bundle) -> Reference:
    return Reference(model, bundle)


@pytest.fixture(scope="module")
def engine(model, bundle, tmp_path_factory) -> Iterator[object]:
    running = start(model, bundle, tmp_path_factory.mktemp("cramped"), **CRAMPED)
    yield running
    running.close()


@dataclass
class Answer:
    """One request and what became of it; ``n_cached`` is vLLM's own count of prompt tokens found in the cache."""

    prompt: list[int]
    steering: tuple[Steering, ...]
    response: list[int]
    scores: np.ndarray
    folds: dict[str, float]
    trips: dict[str, int | None]
    n_cached: int


def ask(
    engine, reference, prompts: Sequence[Sequence[int]], steering: tuple[Steering, ...] = (), max_tokens=4
) -> list[Answer]:
    """Run prompts in one batch with a rule on every probe; vLLM's metric must agree with its outputs."""
    names = [p.name for p in engine.bundle.manifest.probes]
    watch = [DetectorPlan(name, name, -NEVER, Action.FLAG) for name in names]
    plans = [engine.plan(detectors=watch, steering=steering) for _ in prompts]
    before = metric(engine.llm, "vllm:prefix_cache_hits")
    outputs, frames = engine.generate(prompts, plans, max_tokens=max_tokens)
    answers = []
    for prompt, plan, output in zip(prompts, plans, outputs, strict=True):
        collected = frames[plan.request_id, 0]
        states = collected.last.detectors
        answers.append(
            Answer(
                list(prompt), steering, list(output.outputs[0].token_ids), collected.matrix(reference.columns),
                {s.rule: s.score for s in states}, {s.rule: s.trip_position for s in states}, output.num_cached_tokens,
            )
        )  # fmt: skip
    assert metric(engine.llm, "vllm:prefix_cache_hits") - before == sum(a.n_cached for a in answers)
    return answers


def assert_as_if_cold(answer: Answer, reference: Reference) -> None:
    """Scores and folds are those of transformers, which has no cache; rules tripped where they first may."""
    wanted, _ = scoped_run(reference, answer.prompt, answer.response[:-1], answer.steering)
    assert score_share(answer.scores, wanted) <= 1
    for column, probe in enumerate(reference.bundle.manifest.probes):
        fold = float(offline_folds(reference, wanted, answer.prompt, probe)[-1])
        bound = 1e-3 * max(abs(fold), float(wanted[:, column].std()))
        assert answer.folds[probe.name] == pytest.approx(fold, abs=bound), probe.name
        on_response = probe.scope is Scope.RESPONSE
        assert answer.trips[probe.name] == len(answer.prompt) - (not on_response), probe.name


def words(n: int, seed: int) -> list[int]:
    """A prompt of ``n`` tokens, whose second half is the last user turn."""
    tokens = np.random.default_rng(seed).integers(7, 300, size=n).tolist()
    tokens[n // 2] = USER
    return tokens


@pytest.mark.parametrize("n_prompt", [BLOCK + 1, 2 * BLOCK, 70, 128, 190])
def test_a_repeated_prompt_hits_and_every_fold_is_the_cold_ones(n_prompt, engine, reference):
    prompt = words(n_prompt, seed=n_prompt)
    (cold,), (warm,) = ask(engine, reference, [prompt]), ask(engine, reference, [prompt])
    assert (cold.n_cached, warm.n_cached) == (0, (n_prompt - 1) // BLOCK * BLOCK)
    assert np.array_equal(cold.scores[: warm.n_cached], warm.scores[: warm.n_cached])
    for answer in (cold, warm):
        assert_as_if_cold(answer, reference)


@pytest.mark.parametrize("n_blocks", [1, 2, 3, 5])
@pytest.mark.parametrize("extra", [0, 13])
def test_a_partly_cached_prompt_has_the_cold_result(n_blocks, extra, engine, reference):
    shared = words(n_blocks * BLOCK + extra, seed=100 * n_blocks + extra)
    ask(engine, reference, [[*shared, *words(20, seed=1)]])
    answers = ask(engine, reference, [[*shared, *words(n, seed=n)] for n in (2, 19, 40)])
    assert [a.n_cached for a in answers] == [n_blocks * BLOCK] * 3
    for answer in answers:
        assert_as_if_cold(answer, reference)


@pytest.mark.parametrize("n_prompt", [BLOCK, 60, 100])
def test_identical_prompts_in_one_step_all_have_the_cold_result(n_prompt, engine, reference):
    prompt = words(n_prompt, seed=200 + n_prompt)
    for answer in [*ask(engine, reference, [prompt] * 3), *ask(engine, reference, [prompt] * 3)]:
        assert_as_if_cold(answer, reference)


def test_a_prompt_of_which_some_blocks_were_evicted_has_the_cold_result(engine, reference):
    n_prompt, cached = 6 * BLOCK + 8, []
    for n_others in range(8):
        prompt = words(n_prompt, seed=300 + n_others)
        ask(engine, reference, [prompt])
        for other in range(n_others):
            ask(engine, reference, [words(150, seed=1000 + 10 * n_others + other)])
        (again,) = ask(engine, reference, [prompt])
        cached.append(again.n_cached)
        assert_as_if_cold(again, reference)
    assert cached[0] == 6 * BLOCK
    assert any(0 < n < 6 * BLOCK for n in cached), cached
    assert cached[-1] == 0


def test_each_steering_of_one_prompt_has_its_own_cold_result_and_only_finds_its_own_blocks(engine, reference):
    prompt, seen = words(90, seed=400), set()
    for steering in ((), ADD, (), ABLATE, ON_PROMPT, ADD, ON_RESPONSE, (), ON_PROMPT, ABLATE, ADD, ON_RESPONSE, ()):
        (answer,) = ask(engine, reference, [prompt], steering)
        shareable = all(s.scope is SteeringScope.ALL for s in steering)
        assert answer.n_cached == (2 * BLOCK if shareable and steering in seen else 0), steering
        assert_as_if_cold(answer, reference)
        seen.add(steering)


@pytest.mark.parametrize("steering", [(), ADD, ABLATE])
def test_the_next_turns_of_a_conversation_find_the_turns_before_them(steering, engine, reference):
    conversation, n_known = words(40, seed=500), 0
    for turn in range(3):
        (answer,) = ask(engine, reference, [conversation], steering, max_tokens=40)
        assert answer.n_cached == n_known // BLOCK * BLOCK  # the response's blocks too
        assert_as_if_cold(answer, reference)
        n_known = len(conversation) + len(answer.response) - 1  # the last token was never fed forward
        conversation = [*conversation, *answer.response, USER, *words(9, seed=510 + turn)]


@pytest.mark.parametrize(("seed", "steering"), [(600, ON_PROMPT), (602, ON_RESPONSE)])
def test_the_next_turn_never_finds_a_turn_of_which_a_part_was_steered(seed, steering, engine, reference):
    first = words(40, seed)
    (answer,) = ask(engine, reference, [first], steering, max_tokens=40)
    conversation = [*first, *answer.response, USER, *words(9, seed + 1)]
    for following in (steering, (), ADD):
        (next_answer,) = ask(engine, reference, [conversation], following)
        assert next_answer.n_cached == 0
        assert_as_if_cold(next_answer, reference)


@pytest.mark.parametrize("seed", range(4))
def test_any_mix_of_prefixes_and_steerings_has_the_cold_results(seed, engine, reference):
    rng = np.random.default_rng(seed)
    trunks, n_cached = random_prompts(4, seed=700 + seed, longest=100), 0
    for _ in range(40):
        prompts = []
        for _ in range(3):
            trunk = trunks[rng.integers(len(trunks))]
            prompts.append([*trunk[: rng.integers(1, len(trunk) + 1)], *words(int(rng.integers(2, 50)), seed=seed)])
        trunks[rng.integers(len(trunks))] = max(prompts, key=len)[:150]
        for answer in ask(engine, reference, prompts, ((), ADD, ABLATE, ON_PROMPT)[rng.integers(4)], max_tokens=2):
            assert_as_if_cold(answer, reference)
            n_cached += answer.n_cached
    assert n_cached > 0
