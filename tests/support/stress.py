"""Many requests that come and go as they like, against transformers: is any token missing, wrong, or someone else's?

Shared by the tests and by ``benchmarks.stress``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.support.engine import Collected, Engine
from tests.support.folds import offline_folds
from tests.support.load import make_arrivals
from tests.support.reference import Reference
from tests.support.scoped import scoped_run
from tests.support.staggered import Arrival, Delivered, FrameLog, metric, run_staggered


@dataclass
class Stress:
    """What became of the requests.

    Attributes:
        n_requests: sent. n_choices: begun, each of ``n > 1`` on its own. n_aborted: of those, given up by the caller.
        n_tokens: positions compared with transformers.
        n_missing: positions that went through the engine and were not reported, or without a score.
        n_misattributed: reported positions whose scores are not this request's, or that belong to no request.
        n_wrong_folds: final detector states that are not the fold of the reported scores.
        worst_share: worst deviation of a score, as a share of the bound that counts as equal.
        n_preemptions, n_cached: by vLLM's own counters; ``n_cached`` in tokens.
        n_lost_frames: by sequence number.
    """

    n_requests: int = 0
    n_choices: int = 0
    n_aborted: int = 0
    n_tokens: int = 0
    n_missing: int = 0
    n_misattributed: int = 0
    n_wrong_folds: int = 0
    worst_share: float = 0.0
    n_preemptions: int = 0
    n_cached: int = 0
    n_lost_frames: int = 0


def run_stress(engine: Engine, reference: Reference, n: int, seed: int) -> Stress:
    """Send the load of ``seed`` and judge every reported position of every choice.

    Raises:
        TimeoutError: a request that began has no end frame.
        AssertionError: a position was reported twice.
    """
    arrivals = make_arrivals(engine, n, seed)
    preempted, cached = metric(engine.llm, "vllm:num_preemptions"), metric(engine.llm, "vllm:prefix_cache_hits")
    with FrameLog(engine) as log:
        delivered = run_staggered(engine.llm, arrivals)
        log.wait({key for a, d in zip(arrivals, delivered, strict=True) for key in _must_have_frames(a, d)})
    result = Stress(
        n_requests=n,
        n_preemptions=int(metric(engine.llm, "vllm:num_preemptions") - preempted),
        n_cached=int(metric(engine.llm, "vllm:prefix_cache_hits") - cached),
        n_lost_frames=log.n_lost,
    )
    for arrival, received in zip(arrivals, delivered, strict=True):
        for choice in range(arrival.plan.n):
            # Without frames: given up before it was scheduled. Every other one has ended, or the wait had raised.
            if (collected := log.found.pop((arrival.plan.request_id, choice), None)) is not None:
                _judge(result, reference, arrival, received, choice, collected)
    result.n_misattributed += sum(len(c.tokens) for c in log.found.values())  # of requests that nobody sent
    return result


def _must_have_frames(arrival: Arrival, received: Delivered) -> set[tuple[str, int]]:
    """All choices of a request that was not given up, and of one that was, those of which a token was seen."""
    choices = received.choices if received.aborted else range(arrival.plan.n)
    return {(arrival.plan.request_id, choice) for choice in choices}


def _judge(
    result: Stress, reference: Reference, arrival: Arrival, received: Delivered, choice: int, collected: Collected
) -> None:
    """Compare one choice with transformers, and count."""
    prompt, plan, bundle = arrival.prompt, arrival.plan, reference.bundle
    reported = set(collected.tokens)
    ids = _fed_tokens(reference, arrival, received, choice, max(reported, default=-1) + 1)
    missing = set(range(len(ids))) - reported
    unscored = [position for position, row in collected.tokens.items() if np.isnan(row).any()]
    result.n_choices += 1
    result.n_aborted += received.aborted
    result.n_missing += len(missing) + len(unscored)
    result.n_misattributed += len(reported - set(range(len(ids))))
    if any((part.plan, part.n_prompt) != (plan.digest, len(prompt)) for part in collected.parts):
        result.n_misattributed += len(reported)
    if missing or not ids:
        return
    scores = collected.matrix(reference.columns)[: len(ids)]
    wanted, _ = scoped_run(reference, ids[: len(prompt)], ids[len(prompt) :], plan.steering)
    shares = np.abs(scores - wanted) / (1e-3 * np.maximum(np.abs(wanted), wanted.std(0)))
    result.n_tokens += len(ids)
    result.n_misattributed += int((shares > 1).any(1).sum())
    result.worst_share = max(result.worst_share, float(shares.max()))
    for state in collected.last.detectors:  # each rule has its probe's name
        fold = offline_folds(reference, scores, prompt, bundle.manifest.probe(state.rule))[-1]
        score = np.nan if state.score is None else state.score
        result.n_wrong_folds += not np.isclose(score, fold, rtol=1e-6, atol=1e-9, equal_nan=True)


def _fed_tokens(reference: Reference, arrival: Arrival, received: Delivered, choice: int, n_reported: int) -> list[int]:
    """Token ids that went through the forward pass.

    Of a request that was given up more may have been computed than the caller saw: its next tokens come from
    transformers, as far as ``n_reported`` says.
    """
    response = received.choices[choice].tokens if choice in received.choices else []
    ids = [*arrival.prompt, *response]
    if not received.aborted:
        return ids if arrival.plan.hold else ids[:-1]  # the last sampled token is fed forward for a hold only
    n_at_least = len(ids) - 1 if response else 0
    n_at_most = len(arrival.prompt) + arrival.params["max_tokens"]
    while len(ids) < min(n_reported, n_at_most):
        _, logits = scoped_run(reference, arrival.prompt, ids[len(arrival.prompt) :], arrival.plan.steering)
        ids.append(int(logits[-1].argmax()))
    return ids[: max(n_reported, n_at_least)]
