"""Nouns of ``monitor.types`` to messages of ``monitor.v1`` and back.

Round trips are exact, with two exceptions: a NaN score becomes an absent field and comes back as None
(both mean unscored), and times are rounded to nanoseconds. Token scores are single precision on the wire,
as the engine computes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from monitor.errors import InvalidRequestError
from monitor.frames import DetectorState
from monitor.rpc.enums import ACTIONS, MODES, OPERATORS, STATUSES, STEERING_SCOPES, UNSCORED_REASONS
from monitor.types import Condition, Detection, Steering, SteeringScope, TokenScore, Verdict
from monitor.v1 import monitor_pb2
from monitor.v1 import verdict_pb2 as pb

SCORES_PER_MESSAGE = 256  # tokens; keeps the scores of a long prompt far below the limit of a message


def steering_to_proto(steering: Steering) -> pb.Steering:
    """Steering to its message."""
    return pb.Steering(
        direction=steering.direction,
        operator=OPERATORS.to_proto(steering.operator),
        strength=steering.strength,
        scope=STEERING_SCOPES.to_proto(steering.scope),
        start=steering.start,
        half_life=steering.half_life,
        low=steering.low,
        high=steering.high,
        when=None if steering.when is None else _condition_to_proto(steering.when),
    )


def steering_from_proto(message: pb.Steering) -> Steering:
    """Steering from its message; what is absent is as :class:`Steering` has it.

    Raises:
        InvalidRequestError: no direction or operator is named, or the strength is not a finite number.
    """
    operator = OPERATORS.from_proto(message.operator)
    if not message.direction or operator is None:
        raise InvalidRequestError(
            "a steering needs a direction of the bundle and an operator; "
            f"got direction {message.direction!r} and operator {message.operator}, "
            'send for example {"direction": "refusal", "operator": "OPERATOR_ABLATE"}'
        )
    strength = message.strength if message.HasField("strength") else 1.0
    if not math.isfinite(strength):
        raise InvalidRequestError(f"steering strength must be a finite number, got {strength}")
    scope = STEERING_SCOPES.from_proto(message.scope)
    if scope is None and message.scope:
        raise InvalidRequestError(f"steering scope {message.scope} is of a later version than this server")
    return Steering(
        direction=message.direction,
        operator=operator,
        strength=strength,
        scope=scope or SteeringScope.ALL,
        start=message.start,
        half_life=message.half_life if message.HasField("half_life") else None,
        low=message.low if message.HasField("low") else None,
        high=message.high if message.HasField("high") else None,
        when=_condition_from_proto(message.when) if message.HasField("when") else None,
    )


def _condition_to_proto(condition: Condition) -> pb.Condition:
    return pb.Condition(probe=condition.probe, threshold=condition.threshold, sharpness=condition.sharpness)


def _condition_from_proto(message: pb.Condition) -> Condition:
    if not message.HasField("sharpness"):
        return Condition(message.probe, message.threshold)
    return Condition(message.probe, message.threshold, message.sharpness)


def token_score_to_proto(token: TokenScore, probes: Iterable[str] | None = None) -> pb.TokenScore:
    """One token's scores to their message.

    Args:
        token: position and score of each probe.
        probes: keep only these; all if None.
    """
    keep = token.scores if probes is None else [name for name in probes if name in token.scores]
    return pb.TokenScore(
        position=token.position,
        scores=[pb.ProbeScore(probe=name, score=_scored(token.scores[name])) for name in keep],
    )


def token_score_from_proto(message: pb.TokenScore) -> TokenScore:
    """One token's scores from their message."""
    return TokenScore(
        position=message.position,
        scores={entry.probe: entry.score if entry.HasField("score") else None for entry in message.scores},
    )


def rule_state_to_proto(state: DetectorState) -> monitor_pb2.RuleState:
    """Where a rule stands, to its message."""
    return monitor_pb2.RuleState(rule=state.rule, score=_scored(state.score), trip_position=state.trip_position)


def detection_to_proto(detection: Detection) -> pb.Detection:
    """One rule's result to its message."""
    return pb.Detection(
        rule=detection.rule,
        probe=detection.probe,
        concept=detection.concept,
        score=_scored(detection.score),
        probability=_scored(detection.probability),
        threshold=detection.threshold,
        tripped=detection.tripped,
        position=detection.position,
        action=ACTIONS.to_proto(detection.action),
    )


def detection_from_proto(message: pb.Detection) -> Detection:
    """One rule's result from its message.

    Raises:
        ValueError: the action is one that this version does not know.
    """
    return Detection(
        rule=message.rule,
        probe=message.probe,
        concept=message.concept,
        score=message.score if message.HasField("score") else None,
        probability=message.probability if message.HasField("probability") else None,
        threshold=message.threshold,
        tripped=message.tripped,
        position=message.position if message.HasField("position") else None,
        action=ACTIONS.known(message.action),
    )


def verdict_to_proto(verdict: Verdict) -> pb.Verdict:
    """A verdict to its message."""
    message = pb.Verdict(
        request_id=verdict.request_id,
        choice=verdict.choice,
        status=STATUSES.to_proto(verdict.status),
        action=ACTIONS.to_proto(verdict.action),
        enforced=verdict.enforced,
        mode=MODES.to_proto(verdict.mode),
        policy=verdict.policy,
        revision=verdict.revision,
        detections=[detection_to_proto(detection) for detection in verdict.detections],
        steering=[steering_to_proto(steering) for steering in verdict.steering],
        prompt_tokens=verdict.n_prompt,
        completion_tokens=verdict.n_completion,
        tokens_seen=verdict.tokens_seen,
        tokens_scored=verdict.tokens_scored,
        unscored=[
            pb.UnscoredTokens(reason=UNSCORED_REASONS.to_proto(reason), count=count)
            for reason, count in verdict.unscored.items()
        ],
    )
    fraction, seconds = math.modf(verdict.created)
    message.create_time.FromNanoseconds(int(seconds) * 10**9 + round(fraction * 1e9))
    return message


def verdict_from_proto(message: pb.Verdict) -> Verdict:
    """A verdict from its message.

    Raises:
        ValueError: an enum holds a value that this version does not know.
    """
    return Verdict(
        request_id=message.request_id,
        choice=message.choice,
        status=STATUSES.known(message.status),
        action=ACTIONS.known(message.action),
        enforced=message.enforced,
        mode=MODES.known(message.mode),
        policy=message.policy,
        revision=message.revision,
        detections=tuple(detection_from_proto(detection) for detection in message.detections),
        steering=tuple(steering_from_proto(steering) for steering in message.steering),
        n_prompt=message.prompt_tokens,
        n_completion=message.completion_tokens,
        tokens_seen=message.tokens_seen,
        tokens_scored=message.tokens_scored,
        unscored={UNSCORED_REASONS.known(entry.reason): entry.count for entry in message.unscored},
        created=message.create_time.seconds + message.create_time.nanos / 1e9,
    )


def _scored(score: float | None) -> float | None:
    """None where there is no score; protobuf leaves a None out."""
    return None if score is None or math.isnan(score) else score
