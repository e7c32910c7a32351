"""One request that the engine follows: its plan, what its rules found, and what steers it.

Runs in: vLLM worker, on the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from monitor.frames import Head, Tail, encode_part
from monitor.policy.plan import DetectorPlan, GatePlan
from monitor.types import Steering, SteeringScope

FOREVER = 2**62


@dataclass(slots=True)
class Detector:
    """One rule's running state: where it tripped, and at which folded score."""

    plan: DetectorPlan
    probe: int
    trip_position: int | None = None
    trip_score: float | None = None


@dataclass(slots=True)
class FollowedRequest:
    """A request with a plan.

    Attributes:
        plan: what it carries. digest: of the plan. choice: 0-based index among n.
        n_prompt: prompt tokens. slot: its request slot.
        detectors: in the plan's order.
        added: steering of rules that tripped, each with the first position at which it acts.
        cache_misses: positions that a prefix-cache hit provided without kept scores.
        stopped: the rule that ended it, or None.
        head, tail: its constant and its seldom changing part of a frame, encoded.
        failed: why it must end although no rule says so (it cannot be steered as its plan says), or None.
        engine_id: vLLM's own id of it.
    """

    plan: GatePlan
    digest: str
    choice: int
    n_prompt: int
    slot: int
    detectors: list[Detector]
    head: bytes
    tail: bytes = b""
    added: list[tuple[int, Steering]] = field(default_factory=list)
    cache_misses: int = 0
    stopped: str | None = None
    failed: str | None = None
    engine_id: str = ""

    def changed(self, *, ended: bool = False) -> None:
        """Make the tail anew: a rule tripped, it was stopped or ended, kept scores were missing."""
        trips = tuple(
            [None if d.trip_position is None else (d.trip_position, d.trip_score or 0.0) for d in self.detectors]
        )
        self.tail = encode_part(Tail(trips, self.stopped, ended, self.cache_misses))

    def steering_at(self, position: int) -> tuple[tuple[Steering, ...], int]:
        """What acts on the token at this position, with strengths as they are there, and until which position.

        The same whenever the position is computed: a request that is preempted and computed again gets the same.
        """
        active, until = [], FOREVER
        for begin, steering in self._planned():
            first = begin + steering.start
            last = self.n_prompt if steering.scope is SteeringScope.PROMPT else FOREVER
            if position < first:
                until = min(until, first)
            elif position < last:
                until = min(until, last if steering.half_life is None else position + 1)
                active.append(_decayed(steering, position - first))
        return tuple(active), until

    def _planned(self) -> Iterator[tuple[int, Steering]]:
        for steering in self.plan.steering:
            yield (self.n_prompt if steering.scope is SteeringScope.RESPONSE else 0), steering
        yield from self.added


def all_steering(plan: GatePlan) -> tuple[Steering, ...]:
    """Every steering that the plan could apply."""
    return (*plan.steering, *(s for d in plan.detectors for s in d.steering))


def follow(
    plan: GatePlan, digest: str, choice: int, n_prompt: int, slot: int, probes: Sequence[str]
) -> FollowedRequest:
    """Begin to follow a request; ``probes`` are the bundle's, in the order of the gate."""
    index = {name: i for i, name in enumerate(probes)}
    detectors = [Detector(d, index[d.probe]) for d in plan.detectors]
    rules = tuple((d.plan.rule, d.probe) for d in detectors)
    head = encode_part(Head(plan.request_id, choice, digest, n_prompt, rules))
    request = FollowedRequest(plan, digest, choice, n_prompt, slot, detectors, head)
    request.changed()
    return request


def _decayed(steering: Steering, age: int) -> Steering:
    """With the strength that is left after ``age`` tokens: ``strength * 2 ** (-age / half_life)``."""
    if steering.half_life is None or age == 0:
        return steering
    return msgspec.structs.replace(steering, strength=steering.strength * 2.0 ** (-age / steering.half_life))
