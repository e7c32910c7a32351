"""A load of many different requests: what a busy engine sees, made from a seed."""

from __future__ import annotations

import numpy as np

from monitor.policy.plan import DetectorPlan
from monitor.types import Action, Operator, Steering, SteeringScope
from tests.support.engine import Engine
from tests.support.parity import random_prompts
from tests.support.staggered import Arrival

CRAMPED = {
    "enforce_eager": True, "block_size": 32, "max_num_batched_tokens": 64, "num_gpu_blocks_override": 24,
    "disable_log_stats": False,
}  # fmt: skip
"""Options of an engine with small chunks and a small KV cache: long prompts are chunked, requests are preempted."""
ADD, ABLATE = Operator.ADD, Operator.ABLATE
PROMPT, RESPONSE = SteeringScope.PROMPT, SteeringScope.RESPONSE
STEERINGS: tuple[tuple[Steering, ...], ...] = (
    (),
    (Steering("refusal", ADD),),
    (Steering("refusal", ABLATE),),
    (Steering("refusal", ADD, -0.6, PROMPT),),
    (Steering("refusal", ADD, 0.8, RESPONSE),),
    (Steering("other", ABLATE, 1.0, PROMPT),),
    (Steering("other", ABLATE, 1.0, RESPONSE),),
    (Steering("other", ADD, -0.5), Steering("refusal", ABLATE, 0.7)),
    (Steering("refusal", ADD, 1.0, PROMPT), Steering("refusal", ABLATE, 1.0, RESPONSE)),
    (Steering("refusal", ABLATE), Steering("other", ABLATE)),
    (Steering("other", ADD, 0.4, RESPONSE), Steering("refusal", ADD, 0.3)),
)
"""Ten different ones, and none."""
NEVER = 1e9


def make_arrivals(engine: Engine, n: int, seed: int) -> list[Arrival]:
    """``n`` requests that arrive over ``4 n`` steps.

    Prompts share prefixes and some are repeated; a third samples, a seventh has several choices, a sixth is given up
    on the way. What is given up generates greedily, so that tokens which the caller never saw can be computed again.
    """
    rng = np.random.default_rng(seed)
    prefixes = [p + p[::-1] for p in random_prompts(8, seed=seed, longest=50)]
    arrivals: list[Arrival] = []
    for tail in random_prompts(n, seed=seed + 1, longest=60):
        shared = prefixes[rng.integers(len(prefixes))] if rng.random() < 0.6 else []
        prompt = [*shared, *tail]
        if arrivals and rng.random() < 0.1:
            prompt = list(arrivals[rng.integers(len(arrivals))].prompt)
        choices = int(rng.integers(2, 4)) if rng.random() < 0.15 else 1
        sampled = choices > 1 or rng.random() < 0.3
        params = {"max_tokens": int(rng.integers(1, 60)), "n": choices, "temperature": float(sampled)}
        steering = STEERINGS[rng.integers(len(STEERINGS))]
        plan = engine.plan(detectors=_rules(engine, rng), steering=steering, n=choices, hold=bool(rng.random() < 0.2))
        abort_after = int(rng.integers(params["max_tokens"])) if not sampled and rng.random() < 0.25 else None
        arrivals.append(Arrival(int(rng.integers(4 * n)), prompt, plan, params, abort_after))
    return arrivals


def _rules(engine: Engine, rng: np.random.Generator) -> list[DetectorPlan]:
    """Rules on about half of the probes, named as these: some stop at what never comes, some flag at once."""
    kinds = ((NEVER, Action.STOP), (NEVER, Action.FLAG), (-NEVER, Action.FLAG))
    probes = [p for p in engine.bundle.manifest.probes if rng.random() < 0.6]
    return [DetectorPlan(p.name, p.name, *kinds[rng.integers(len(kinds))]) for p in probes]
