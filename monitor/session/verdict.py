"""From what a session knows to a verdict.

The three outcomes: *tripped* if a rule tripped; else *unscored* if anything that had to be scored was not;
else *passed*. A request that is blocked for want of scores is unscored, whatever else tripped.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from monitor.frames import DetectorState
from monitor.policy.plan import DetectorPlan
from monitor.session.state import ChoiceState, Session
from monitor.types import Action, Detection, Mode, Status, UnscoredReason, Verdict
from probes.types import Manifest, Probe

_STRENGTH = {action: rank for rank, action in enumerate(Action)}


@dataclass(slots=True)
class Ending:
    """How one choice ended, as the guard saw it.

    Attributes:
        n_prompt: prompt tokens, as the engine's answer said; used if no frame told.
        n_completion: response tokens, as the engine counted them.
        needed: positions that had to be scored.
        failures: what kept tokens from being scored, with token counts (0: the whole request).
        late: last tokens that ``live`` release let pass without a score.
        stopped: the rule that the engine named as its reason to stop.
        blocked: not answered, or cut, because it was unscored.
    """

    n_prompt: int = 0
    n_completion: int = 0
    needed: int = 0
    failures: dict[UnscoredReason, int] = field(default_factory=dict)
    late: int = 0
    stopped: str | None = None
    blocked: bool = False


def incomplete(state: ChoiceState, ending: Ending) -> bool:
    """Whether anything that had to be scored was not."""
    return bool(ending.failures) or state.seen < ending.needed or state.scored < state.seen


def unjudged(session: Session, choice: int, manifest: Manifest) -> bool:
    """Whether the prompt was read but a rule on it has no score: nothing was in its scope, or too little."""
    state = session.choices[choice]
    if state.n_prompt is None or state.seen < state.n_prompt:
        return False
    known = {detector.rule: detector.score for detector in state.detectors}
    on_prompt = (d.rule for d in session.plan.detectors if _probe(manifest, d.probe).scope.phase == "prompt")
    return any(known.get(rule) is None for rule in on_prompt)


def _probe(manifest: Manifest, name: str) -> Probe:
    probe = manifest.probe(name)
    assert probe is not None  # the plan was compiled against this manifest
    return probe


def build_verdict(session: Session, choice: int, ending: Ending, manifest: Manifest) -> Verdict:
    """The verdict on one choice.

    Args:
        session: its request.
        choice: its index.
        ending: how it ended.
        manifest: of the bundle; its calibration turns scores into probabilities.
    """
    plan, state = session.plan, session.choices[choice]
    known = {detector.rule: detector for detector in state.detectors}
    stopped = state.stopped or ending.stopped
    detections = tuple(_detection(d, known.get(d.rule), manifest, d.rule == stopped) for d in plan.detectors)
    tripped = [d.action for d in detections if d.tripped]
    silent_rule = unjudged(session, choice, manifest)
    if ending.blocked or ((silent_rule or incomplete(state, ending)) and not tripped):
        status = Status.UNSCORED
    else:
        status = Status.TRIPPED if tripped else Status.PASSED
    return Verdict(
        request_id=plan.request_id,
        choice=choice,
        status=status,
        action=Action.STOP if ending.blocked else max(tripped, key=_STRENGTH.__getitem__, default=Action.ALLOW),
        enforced=plan.enforce,
        mode=Mode.ENFORCE if plan.enforce else Mode.OBSERVE,
        policy=plan.policy,
        revision=plan.revision,
        detections=detections,
        steering=plan.steering,
        n_prompt=ending.n_prompt if state.n_prompt is None else state.n_prompt,
        n_completion=ending.n_completion,
        tokens_seen=state.seen,
        tokens_scored=max(0, state.scored - state.lost),
        unscored=_unscored(state, ending) or ({UnscoredReason.NAN: 0} if silent_rule else {}),
        created=time.time(),
    )


def _detection(plan: DetectorPlan, state: DetectorState | None, manifest: Manifest, stopped: bool) -> Detection:
    probe = _probe(manifest, plan.probe)
    position = None if state is None else state.trip_position
    tripped = position is not None or stopped
    score = None if state is None else (state.trip_score if tripped else state.score)
    return Detection(
        rule=plan.rule,
        probe=plan.probe,
        concept=probe.concept,
        score=score,
        probability=None if score is None else probe.calibration.probability(score),
        threshold=plan.threshold,
        tripped=tripped,
        position=position,
        action=plan.action,
    )


def _unscored(state: ChoiceState, ending: Ending) -> dict[UnscoredReason, int]:
    """All reasons: what the guard met, what the engine reported, and rows lost with a frame."""
    reasons = dict(ending.failures)
    missed = state.seen - state.scored
    by_cache = min(state.cache_misses, missed)
    for reason, tokens in (
        (UnscoredReason.CACHE_MISS, by_cache),
        (UnscoredReason.NAN, missed - by_cache),
        (UnscoredReason.FRAME_TIMEOUT, state.lost),
        (UnscoredReason.FINAL, ending.late),
    ):
        if tokens:
            reasons[reason] = reasons.get(reason, 0) + tokens
    return reasons
