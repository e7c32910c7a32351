"""The gate plan: a policy compiled for one request, signed, and carried inside the request.

The worker decides from the plan alone, so nothing has to be kept in step when a policy is reloaded: a
request runs to its end under the plan that it carries. On the wire it is one string,
``base64url(json).hex(hmac_sha256)``, under ``vllm_xargs["plumbline"]``.

Runs in: the monitor (signs) and the engine (verifies).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time

import msgspec

from monitor.errors import ConfigError, PlanError
from monitor.types import Action, Steering, SteeringScope

XARGS_KEY = "plumbline"
SALT_PREFIX = "plumbline-"
STOP_PREFIX = "plumbline:"
"""Of the ``stop_reason`` with which the engine ends a request; the rule's name follows."""


class DetectorPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rule: trip when the folded score of ``probe`` reaches ``threshold`` (logit).

    Attributes:
        rule: name of the policy's rule.
        probe: name of the bundle's probe; its fold and scope come from the bundle.
        threshold: logit on the folded score.
        action: what to do.
        steering: for ``Action.STEER``: applied from the next forward pass on; ``start`` and ``half_life`` count from
            there.
    """

    rule: str
    probe: str
    threshold: float
    action: Action
    steering: tuple[Steering, ...] = ()


class GatePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that the engine needs to know about one request.

    Attributes:
        request_id: the monitor's id; frames carry it back.
        policy: name. revision: hash of the policy file it was compiled from.
        bundle: digest of the bundle it was compiled for.
        expires: Unix time after which the engine refuses to start it.
        enforce: False in observe mode: trips are recorded, nothing is changed.
        hold: no token may be released before it is scored.
        score_last: the last token must be scored too (the engine runs one step more and drops its token).
        n: choices that the request asks for.
        detectors: the rules.
        steering: applied from the first token on, in either mode.
    """

    request_id: str
    policy: str
    revision: str
    bundle: str
    expires: float
    enforce: bool
    hold: bool
    n: int
    detectors: tuple[DetectorPlan, ...]
    steering: tuple[Steering, ...] = ()
    score_last: bool = False

    @property
    def digest(self) -> str:
        """Hash of everything but the request id and the expiry: equal plans decide equally."""
        same = msgspec.structs.replace(self, request_id="", expires=0.0)
        return hashlib.sha256(msgspec.json.encode(same, order="deterministic")).hexdigest()[:16]

    def for_request(self, request_id: str) -> GatePlan:
        """The same plan under another request id."""
        return msgspec.structs.replace(self, request_id=request_id)

    def cache_salt(self) -> str | None:
        """Salt for the prefix cache: bundle and every steering that could be applied; None without any.

        Block hashes do not cover steering, so blocks of steered requests must not be shared. Steerings of scope
        ``all`` are a function of the tokens up to a position and of that position (``start`` and ``half_life`` count
        from the first token, ``when`` reads the token itself), so requests with equal ones share blocks. What is
        steered in a part of the request only is shared with no other request at all: the tokens of a response are
        the prompt of the next turn, where the steering would act otherwise.
        """
        gates = tuple(d for d in self.detectors if d.action is Action.STEER)
        if not self.steering and not gates:
            return None
        everywhere = not gates and all(s.scope is SteeringScope.ALL for s in self.steering)
        text = msgspec.json.encode((self.bundle, self.steering, "" if everywhere else self.request_id))
        return SALT_PREFIX + hashlib.sha256(text).hexdigest()[:32]


def sign_plan(plan: GatePlan, key: bytes) -> str:
    """The plan as one signed string."""
    body = base64.urlsafe_b64encode(msgspec.json.encode(plan, order="deterministic"))
    return f"{body.decode()}.{hmac.new(key, body, hashlib.sha256).hexdigest()}"


def verify_plan(text: object, key: bytes, bundle: str, now: float | None = None) -> GatePlan:
    """Check signature, expiry and bundle of a signed plan.

    Args:
        text: what stood under ``vllm_xargs["plumbline"]``.
        key: the secret shared by monitor and engine (``PLUMBLINE_PLAN_KEY``).
        bundle: digest of the bundle that this engine runs.
        now: Unix time; the clock if None.

    Raises:
        PlanError: naming what is wrong.
    """
    if not isinstance(text, str) or text.count(".") != 1:
        raise PlanError("the gate plan is not a signed string; let the gateway set it")
    body, _, signature = text.partition(".")
    wanted = hmac.new(key, body.encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(signature.encode(), wanted.encode()):
        raise PlanError("the gate plan's signature is wrong: monitor and engine need the same PLUMBLINE_PLAN_KEY")
    try:
        plan = msgspec.json.decode(base64.urlsafe_b64decode(body), type=GatePlan)
    except (binascii.Error, msgspec.MsgspecError, ValueError) as error:
        raise PlanError(f"the gate plan cannot be read ({error}); run the same Plumbline on both sides") from error
    if plan.expires < (time.time() if now is None else now):
        raise PlanError(f"the gate plan of request {plan.request_id} has expired; check the clocks")
    if plan.bundle != bundle:
        raise PlanError(
            f"the gate plan is for bundle {plan.bundle[:12]}, this engine runs {bundle[:12]}; "
            "start monitor and engine with the same bundle"
        )
    return plan


def parse_key(text: str) -> bytes:
    """The secret shared by monitor and engine, from its hex form.

    Raises:
        ConfigError: not hex, or shorter than 16 bytes. The value itself is never shown.
    """
    try:
        key = bytes.fromhex(text)
    except ValueError as error:
        raise ConfigError("PLUMBLINE_PLAN_KEY is not hexadecimal; make one with `openssl rand -hex 32`") from error
    if len(key) < 16:
        raise ConfigError(f"PLUMBLINE_PLAN_KEY has {len(key)} bytes, wanted at least 16: `openssl rand -hex 32`")
    return key
