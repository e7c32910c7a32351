"""The nouns of ``monitor``: what was detected, what was done, and how sure that is."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Action(StrEnum):
    """What a rule does when it trips, from weakest to strongest."""

    ALLOW = "allow"
    FLAG = "flag"
    STEER = "steer"
    REPLACE = "replace"
    STOP = "stop"

    @property
    def ends(self) -> bool:
        """Whether the engine ends the request when a rule with this action trips."""
        return self in (Action.REPLACE, Action.STOP)


class Mode(StrEnum):
    """``enforce`` acts; ``observe`` records what it would have done."""

    ENFORCE = "enforce"
    OBSERVE = "observe"


class Release(StrEnum):
    """``hold`` releases a token once it is scored; ``live`` releases it at once (one token late)."""

    HOLD = "hold"
    LIVE = "live"


class FailMode(StrEnum):
    """What happens to a request that could not be scored."""

    BLOCK = "block"
    ALLOW = "allow"


class Status(StrEnum):
    """The three outcomes. ``unscored`` is never ``passed``."""

    PASSED = "passed"
    TRIPPED = "tripped"
    UNSCORED = "unscored"


class Operator(StrEnum):
    """How a direction changes the residual stream; the formulas are in :mod:`monitor.engine.ops`."""

    ADD = "add"  # onto the output of the direction's layer
    CLAMP = "clamp"  # limit the projection of the output of the direction's layer
    ABLATE = "ablate"  # project every write to the stream: embedding, attention, MLP
    ABLATE_OUTPUT = "ablate_output"  # project the output of every layer: cheaper, and not quite the same


class SteeringScope(StrEnum):
    """The positions at which a steering acts."""

    ALL = "all"
    PROMPT = "prompt"
    RESPONSE = "response"


class UnscoredReason(StrEnum):
    """Why tokens or a request have no score; a closed set, used as a metric label."""

    TAPS_SILENT = "taps_silent"  # no handshake from the engine, or its heartbeat stopped
    ENGINE_RESTART = "engine_restart"  # the engine's epoch changed while the request ran
    FRAME_TIMEOUT = "frame_timeout"  # frames did not arrive in time
    NAN = "nan"  # the tap ran but its row is not a number, or did not run
    CACHE_MISS = "cache_miss"  # prefix-cache hit without kept scores
    FINAL = "final"  # sampled but never fed forward


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Steer each token only as far as a probe demands, in the same forward pass.

    The strength is multiplied by ``sigmoid(sharpness * (score - threshold))``, where ``score`` is this token's logit.
    A token without a score is steered in full: unscored is never safe.

    Attributes:
        probe: name in the bundle; its layer must not lie above the direction's.
        threshold: logit at which the steering has half its strength.
        sharpness: how quickly it sets in, per logit.
    """

    probe: str
    threshold: float
    sharpness: float = 10.0


class Steering(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One change of the residual stream by a named direction.

    Attributes:
        direction: name in the bundle, or ``folder:name`` of one that was loaded into the running engine (in a plan
            ``folder:name@digest``; see :mod:`monitor.policy.directions`).
        operator: ``add``, ``clamp``, ``ablate`` or ``ablate_output``.
        strength: multiplier; for ``add`` 1.0 is the difference of means, for the others 1.0 is the whole change.
        scope: at which positions; a rule that steers when it trips reaches the response only.
        start: first position of the scope at which it acts, counted from the scope's first token.
        half_life: tokens after which the strength has halved, counted from where it begins; None: constant.
        low, high: for ``clamp``: bounds of the projection, in units of the direction's magnitude.
        when: for ``add`` and ``clamp``: steer only tokens that this condition catches.
    """

    direction: str
    operator: Operator
    strength: float = 1.0
    scope: SteeringScope = SteeringScope.ALL
    start: int = 0
    half_life: float | None = None
    low: float | None = None
    high: float | None = None
    when: Condition | None = None


class Detection(msgspec.Struct, frozen=True):
    """One detector's result on one request.

    Attributes:
        rule: the policy's rule.
        probe: probe name in the bundle.
        concept: what the probe detects.
        score: folded score (logit); None if unscored.
        probability: calibrated; None if unscored.
        threshold: the cut that was applied, a logit.
        tripped: whether the folded score reached the threshold at any position.
        position: absolute token position where it tripped; None if it did not.
        action: what the rule demands.
    """

    rule: str
    probe: str
    concept: str
    score: float | None
    probability: float | None
    threshold: float
    tripped: bool
    position: int | None
    action: Action


class Verdict(msgspec.Struct, frozen=True):
    """What was decided about one choice of one request, and on what ground.

    Attributes:
        status: passed, tripped or unscored.
        action: what was done; in ``observe`` mode what would have been done.
        enforced: whether ``action`` was carried out (False in ``observe``).
        detections: one per rule.
        steering: what was applied from the start.
        n_prompt: prompt tokens. n_completion: response tokens as the engine counted them.
        tokens_seen: positions that went through the forward pass (or were found in the prefix cache).
        tokens_scored: of those, how many have a score.
        unscored: reasons with token counts (0: the whole request).
    """

    request_id: str
    choice: int
    status: Status
    action: Action
    enforced: bool
    mode: Mode
    policy: str
    revision: str
    detections: tuple[Detection, ...]
    steering: tuple[Steering, ...]
    n_prompt: int
    n_completion: int
    tokens_seen: int
    tokens_scored: int
    unscored: dict[UnscoredReason, int]
    created: float


class TokenScore(msgspec.Struct, frozen=True):
    """The scores of one token: ``position`` is absolute; NaN-free: None where unscored."""

    position: int
    scores: dict[str, float | None]
