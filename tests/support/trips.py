"""Rules that trip at known places: an observing run, thresholds from its offline folds, then the run that enforces.

Shared by the tests and by ``benchmarks.gate``. Every request generates greedily, so a token that rounding could decide
would make two right runs differ: each response is cut before the first such token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import torch

from monitor.policy.plan import STOP_PREFIX, DetectorPlan, GatePlan
from monitor.types import Action
from tests.support.engine import Collected, Engine
from tests.support.folds import decided_folds
from tests.support.parity import random_prompts
from tests.support.reference import Reference
from tests.support.staggered import Arrival, Choice, FrameLog, run_staggered
from tests.support.variants import make_params

LONGEST = 220
"""Response tokens, so that rules can trip up to the 200th."""
ROOM = {"max_model_len": 400}
"""Options of an engine in which the cases have room."""
NEVER = 1e9
_TIE = 3e-5  # of the standard deviation of a position's logits; rounding was seen at less than 1e-5
_MARGIN = 1e-3  # of the fold's standard deviation: how far a trip stands out from every earlier fold


@dataclass
class Case:
    """One prompt with its parameters, and what plain vLLM answers."""

    prompt: list[int]
    params: dict[str, Any]
    plain: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Trip:
    """A rule on ``probe`` with ``threshold`` trips ``case`` at ``position`` (absolute) and nowhere before."""

    case: int
    probe: str
    position: int
    threshold: float


@dataclass(frozen=True)
class Outcome:
    """What came of the run that enforces.

    Attributes:
        places: where the rules tripped offline, counted from the first response token (-1: the prompt's last).
        n_right: trips at the offline position, by the right rule, with exactly the tokens up to it released.
        n_after: tokens released after a trip. n_withheld: log probabilities of tokens that were not released.
        n_controls: requests whose rules never trip. n_equal: of those, equal to plain vLLM token for token.
        n_observed_equal: requests of the observing run that equal plain vLLM token for token.
        problems: what was wrong, in words.
    """

    places: tuple[int, ...]
    n_right: int
    n_after: int
    n_withheld: int
    n_controls: int
    n_equal: int
    n_observed_equal: int
    problems: tuple[str, ...]


def make_cases(n: int, seed: int) -> list[Case]:
    """``n`` prompts, the variants of :mod:`tests.support.variants` in turn."""
    return [Case(p, make_params(i, LONGEST)) for i, p in enumerate(random_prompts(n, seed))]


def answer_plainly(llm: Any, reference: Reference, cases: Sequence[Case]) -> list[Case]:
    """The cases with the answers of vLLM without the plugin, each cut before a token that rounding could decide.

    A case of which nothing is left is dropped.
    """
    delivered = run_staggered(llm, [Arrival(i, c.prompt, None, c.params) for i, c in enumerate(cases)])
    answered = []
    for case, received in zip(cases, delivered, strict=True):
        tokens = received.choices[0].tokens
        plain = tokens[: _first_tie(reference, case.prompt, tokens)]
        if not plain:
            continue
        params = {**case.params, "max_tokens": len(plain)}
        params["min_tokens"] = min(case.params.get("min_tokens", 0), len(plain))
        answered.append(Case(case.prompt, params, plain))
    return answered


@torch.no_grad()
def _first_tie(reference: Reference, prompt: Sequence[int], response: Sequence[int]) -> int:
    """Index of the first token whose logit another one's comes near; the length if there is none.

    Under a grammar the chosen token is not the highest one; a tie with a forbidden token then counts too.
    """
    logits = reference.model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    chosen = torch.tensor(response)[:, None]
    gaps = (logits - logits.gather(1, chosen)).abs().scatter(1, chosen, torch.inf).amin(1)
    ties = (gaps < _TIE * logits.std(1)).nonzero()
    return int(ties[0]) if len(ties) else len(response)


def run_gate(engine: Engine, reference: Reference, cases: Sequence[Case], n_trips: int) -> Outcome:
    """Observe all cases, let ``n_trips`` of them trip in one mixed run with the others, and judge."""
    watch = [DetectorPlan(p.name, p.name, NEVER, Action.STOP) for p in engine.bundle.manifest.probes]
    observed, frames = _run(engine, cases, [engine.plan(detectors=watch) for _ in cases])
    trips = choose_trips(reference, cases, [collected.matrix(reference.columns) for collected in frames], n_trips)
    plans = []
    for index in range(len(cases)):
        rules = [_armed(rule, trips[index]) if index in trips else rule for rule in watch]
        plans.append(engine.plan(detectors=rules, hold=index % 5 == 0))
    choices, frames = _run(engine, cases, plans)
    problems, n_right, n_after, n_withheld = [], 0, 0, 0
    for index, trip in trips.items():
        n_released = trip.position - len(cases[index].prompt) + 1
        n_after += max(0, len(choices[index].tokens) - n_released)
        n_withheld += max(0, len(choices[index].logprobs) - n_released)
        wrong = _problem(cases[index], trip, choices[index], frames[index])
        n_right += wrong is None
        problems += [f"case {index}: {wrong}"] if wrong is not None else []
    controls = [i for i in range(len(cases)) if i not in trips]
    changed = [i for i in controls if choices[i].tokens != cases[i].plain]
    problems += [f"control {i}: {choices[i].tokens}, plain {cases[i].plain}" for i in changed]
    return Outcome(
        places=tuple(sorted(t.position - len(cases[i].prompt) for i, t in trips.items())),
        n_right=n_right, n_after=n_after, n_withheld=n_withheld, n_controls=len(controls),
        n_equal=len(controls) - len(changed),
        n_observed_equal=sum(c.tokens == case.plain for c, case in zip(observed, cases, strict=True)),
        problems=tuple(problems),
    )  # fmt: skip


def choose_trips(reference: Reference, cases: Sequence[Case], scores: Sequence[np.ndarray], n: int) -> dict[int, Trip]:
    """One trip for each of ``n`` cases: an eighth on the prompt, the rest spread evenly over response tokens 1 to 200.

    Args:
        scores: of each case, ``(n_tokens, n_columns)`` as an observing run reported them.
        n: at most the number of cases.
    """
    possible = [trip for i, case in enumerate(cases) for trip in _possible_trips(reference, i, case.prompt, scores[i])]
    places = np.array([trip.position - len(cases[trip.case].prompt) for trip in possible])
    owners = np.array([trip.case for trip in possible])
    wanted = [*np.linspace(199, 0, n - n // 8).round().astype(int).tolist(), *[-1] * (n // 8)]
    free = np.ones(len(possible), dtype=bool)
    chosen = {}
    for place in wanted:
        nearest = int(np.where(free, np.abs(places - place), np.iinfo(int).max).argmin())
        chosen[int(owners[nearest])] = possible[nearest]
        free &= owners != owners[nearest]
    return chosen


def _possible_trips(reference: Reference, case: int, prompt: Sequence[int], scores: np.ndarray) -> Iterator[Trip]:
    """Where the fold stands out from all that was decided before it, with a threshold halfway between."""
    for column, probe in enumerate(reference.bundle.manifest.probes):
        margin = _MARGIN * float(scores[:, column].std())
        highest = -np.inf
        for position, fold in enumerate(decided_folds(reference, scores, prompt, probe)):
            if fold > highest + margin:  # never of a NaN: nothing is decided there
                threshold = (fold + max(highest, fold - 1.0)) / 2
                yield Trip(case, probe.name, position, float(threshold))
            highest = np.fmax(highest, fold)


def _armed(rule: DetectorPlan, trip: Trip) -> DetectorPlan:
    return msgspec.structs.replace(rule, threshold=trip.threshold) if rule.probe == trip.probe else rule


def _run(engine: Engine, cases: Sequence[Case], plans: Sequence[GatePlan]) -> tuple[list[Choice], list[Collected]]:
    """Three requests arrive with every step, so that prefill, decode and trips mix."""
    with FrameLog(engine) as log:
        arrivals = [Arrival(i // 3, c.prompt, p, c.params) for i, (c, p) in enumerate(zip(cases, plans, strict=True))]
        delivered = run_staggered(engine.llm, arrivals)
        log.wait({(plan.request_id, 0) for plan in plans})
    return [d.choices[0] for d in delivered], [log.found[plan.request_id, 0] for plan in plans]


def _problem(case: Case, trip: Trip, choice: Choice, collected: Collected) -> str | None:
    """What is wrong with a request that had to trip, in words."""
    state = next(d for d in collected.last.detectors if d.rule == trip.probe)
    n_released = trip.position - len(case.prompt) + 1
    n_logprobs = n_released if "logprobs" in case.params else 0
    if state.trip_position != trip.position:
        return f"tripped at {state.trip_position}, offline at {trip.position}"
    if (choice.finish_reason, choice.stop_reason) != ("stop", STOP_PREFIX + trip.probe):
        return f"ended with {choice.finish_reason}, {choice.stop_reason}"
    if choice.tokens != case.plain[:n_released]:
        return f"released {choice.tokens}, wanted {case.plain[:n_released]}"
    if len(choice.logprobs) != n_logprobs:
        return f"released {len(choice.logprobs)} log probabilities, wanted {n_logprobs}"
    return None
