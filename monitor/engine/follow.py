"""Which requests are followed, and under which plan.

Runs in: vLLM worker, on the host.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import msgspec

from monitor.engine.ledger import NewRequest
from monitor.engine.loaded import LoadedDirections
from monitor.engine.request import FollowedRequest, follow
from monitor.engine.settings import EngineSettings
from monitor.errors import PlanError
from monitor.policy.plan import XARGS_KEY, GatePlan, verify_plan

log = logging.getLogger(__name__)

_CHOICE = re.compile(r"(\d+)_")


class Followers:
    """The followed requests by slot.

    Args:
        settings: key and default plan. bundle: its digest. probes: in the order of the gate.
        loaded: directions that are loaded into the running engine.

    Attributes:
        by_slot: the followed requests.
        unscored: slots of requests, followed or not, that no probe of the bundle may judge.
        adapted: those of them that run with an adapter.
        ending: slots of the followed requests that must end: a rule stopped them, or they cannot be steered.
        spreads: whether an adapter may change the other requests of its steps too, so that they are unscored as well:
            vLLM's CPU kernel gives tokens without an adapter the one in the last slot.
    """

    def __init__(self, settings: EngineSettings, bundle: str, probes: Sequence[str], loaded: LoadedDirections) -> None:
        self._settings, self._bundle, self._probes, self._loaded = settings, bundle, probes, loaded
        self._default = self._read(settings.default_plan) if settings.default_plan is not None else None
        self._default_digest = self._default.digest if self._default is not None else ""
        self.by_slot: dict[int, FollowedRequest] = {}
        self.unscored: set[int] = set()
        self.adapted: set[int] = set()
        self.ending: set[int] = set()
        self.spreads = False

    def open(self, new: NewRequest) -> FollowedRequest | None:
        """Begin with a new request; None if it has no plan and there is no default plan.

        A plan that steers in a way that this worker cannot is stopped before its first token.
        """
        if new.unscored is not None:
            self.unscored.add(new.slot)
            self.adapted.add(new.slot)
        text = new.extra_args.get(XARGS_KEY)
        if text is not None:
            plan = self._read(text)
            digest = plan.digest
        elif self._default is not None:
            plan, digest = self._default.for_request(new.request_id), self._default_digest
        else:
            return None
        choice = int(match[1]) if plan.n > 1 and (match := _CHOICE.match(new.request_id)) else 0
        request = follow(plan, digest, choice, len(new.prompt), new.slot, self._probes)
        request.engine_id = new.request_id
        self.by_slot[new.slot] = request
        try:
            self._loaded.hold(new.slot, plan)
        except PlanError as error:
            log.error("request %s cannot be steered and is ended: %s", plan.request_id, error)  # noqa: TRY400  # not a bug of ours
            request.plan = msgspec.structs.replace(plan, steering=())
            request.failed = str(error)
            self.ending.add(new.slot)
        return request

    def close(self, slot: int) -> FollowedRequest | None:
        """The request in this slot ended; returns it if it was followed."""
        self.unscored.discard(slot)
        self.adapted.discard(slot)
        self.ending.discard(slot)
        self._loaded.release(slot)
        return self.by_slot.pop(slot, None)

    def _read(self, text: object) -> GatePlan:
        """A plan whose expiry the engine core checked when it admitted the request; it may have waited since."""
        return verify_plan(text, self._settings.plan_key, self._bundle, now=0.0)
