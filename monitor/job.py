"""One request in hand: its plan, its session, and how each of its choices ends.

Shared by streaming (:mod:`monitor.release`) and whole answers (:mod:`monitor.guard`), so that both decide in
the same way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from monitor.body import Wishes
from monitor.errors import BlockedError, UnscoredError, UpstreamError
from monitor.policy.plan import GatePlan
from monitor.session import Ending, Overdue, Session, build_verdict, unjudged, wait_scored
from monitor.types import Action, TokenScore, UnscoredReason, Verdict
from probes.scope import OPEN_END
from probes.types import Manifest


@dataclass(slots=True)
class Job:
    """One request in hand.

    Attributes:
        path: of the engine's API. wishes: of the caller. session: what the frames say.
        blocks: whether what could not be scored is withheld (policy says block, and enforces).
        replacements: by rule: the text that takes the response's place once the rule has ended it.
        alive: whether the taps are. columns: order of the token scores. frame_timeout: seconds.
        untouched: the engine refused it before it began: there is nothing to give a verdict on.
        endings, verdicts, released: by choice; ``released`` counts response tokens.
    """

    path: str
    wishes: Wishes
    session: Session
    manifest: Manifest
    replacements: Mapping[str, str]
    blocks: bool
    alive: Callable[[], bool]
    columns: Callable[[], tuple[str, ...]]
    frame_timeout: float
    untouched: bool = False
    started: float = field(default_factory=time.perf_counter)
    endings: list[Ending] = field(default_factory=list)
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    released: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.endings = [Ending() for _ in self.session.choices]

    @property
    def followed(self) -> bool:
        """Whether the engine has said anything about it, in frames or in an answer."""
        return any(state.seen for state in self.session.choices) or any(e.n_prompt for e in self.endings)

    @property
    def plan(self) -> GatePlan:
        """The gate plan."""
        return self.session.plan

    def read_usage(self, answer: dict[str, Any]) -> None:
        """Take the prompt's length from a whole answer.

        Raises:
            UpstreamError: it has no usage.
        """
        usage = answer.get("usage")
        if not isinstance(usage, dict) or not isinstance(usage.get("prompt_tokens"), int):
            raise UpstreamError("the engine answered without usage; it must be vLLM 0.26 or newer")
        for ending in self.endings:
            ending.n_prompt = usage["prompt_tokens"]

    def n_prompt(self, choice: int) -> int:
        """Prompt tokens, from the frames or else from the engine's answer."""
        told = self.session.choices[choice].n_prompt
        return self.endings[choice].n_prompt if told is None else told

    def overdue(self, evident: Callable[[], bool] = lambda: True) -> Overdue:
        """A clock for missing scores, started when ``evident`` first says so."""
        return Overdue(self.frame_timeout, evident)

    async def scored(self, choice: int, needed: int, overdue: Overdue) -> bool:
        """Wait for the scores of the first ``needed`` positions; False if they are missing and must not be.

        What is missing is noted in the choice's ending either way.
        """
        ending = self.endings[choice]
        ending.needed = max(ending.needed, needed)
        if not ending.failures:  # given up before: what follows is not waited for
            reason = await wait_scored(self.session, (choice,), needed, self.alive, overdue)
            if reason is not None:
                self.note(choice, reason, max(0, needed - self.session.choices[choice].seen))
        state = self.session.choices[choice]
        covered = not ending.failures and state.solid >= needed
        trip = self.session.trip(choice)
        return covered or not self.blocks or (trip is not None and trip <= state.solid)

    async def settle(self, choice: int) -> None:
        """Wait for the last frame of a choice whose caller has gone, and note what is missing."""
        state, ending = self.session.choices[choice], self.endings[choice]
        reason = await wait_scored(self.session, (choice,), OPEN_END, self.alive, self.overdue())
        released = self.released.get(choice, 0) - (0 if self.plan.hold else 1)
        ending.needed = max(1, self.n_prompt(choice) + max(0, released))  # what was not released needs no score
        missing = max(0, ending.needed - state.seen)
        if reason is not None and (missing or not state.ended):
            self.note(choice, reason, missing)

    async def prompt_scored(self, overdue: Overdue) -> None:
        """Wait for the verdict on the prompt; returns where its response may begin, or is to be replaced.

        Raises:
            BlockedError: a rule that stops tripped on it.
            UnscoredError: it could not be scored and the policy says block.
        """
        choices = range(self.plan.n)
        n_prompt = max(ending.n_prompt for ending in self.endings)
        reason = await wait_scored(self.session, choices, n_prompt, self.alive, overdue)
        for choice, ending in enumerate(self.endings):
            stopped = ending.stopped is not None and ending.n_completion == 0
            if stopped or self.tripped_before(choice, self.n_prompt(choice)):
                if self.verdict(choice).action is Action.STOP:
                    raise self.blocked(choice)
                return
        first = max(choices, key=lambda choice: self.session.choices[choice].seen)
        if reason is not None:
            for choice in choices:
                self.note(choice, reason, max(0, n_prompt - self.session.choices[first].seen))
        solid = self.session.choices[first].solid >= n_prompt
        if self.blocks and (reason is not None or not solid or unjudged(self.session, first, self.manifest)):
            raise self.unscored(first, n_prompt)

    def tripped_before(self, choice: int, position: int) -> bool:
        """Whether a rule that ends the request tripped at a position below ``position``."""
        trip = self.session.trip(choice)
        return trip is not None and trip < position

    def withheld(self, choice: int, count: int, *, finished: bool) -> bool:
        """Whether text up to response token ``count`` may not go out because a rule ended it there.

        ``live`` release lets the token that tripped pass. A finish chunk may bring text that was held back.
        """
        end = self.n_prompt(choice) + count - (0 if self.plan.hold else 1)
        stopped = finished and self.plan.hold and self.endings[choice].stopped is not None
        return stopped or self.tripped_before(choice, end)

    def tripped_rule(self, choice: int) -> str:
        """The rule that tripped first, of those that end the request."""
        states = self.session.choices[choice].detectors
        trips = [d for d in states if d.rule in self.session.ending_rules and d.trip_position is not None]
        return min(trips, key=lambda d: d.trip_position or 0).rule

    def replacement(self, choice: int) -> str | None:
        """The text for a choice that a rule has ended: of the rule that replaces and tripped first, if none stops."""
        verdict = self.verdict(choice)
        if verdict.action is not Action.REPLACE:
            return None
        tripped = [d for d in verdict.detections if d.tripped and d.action is Action.REPLACE]
        return self.replacements[min(tripped, key=lambda d: (d.position is None, d.position)).rule]

    async def last_scored(self, choice: int, overdue: Overdue) -> None:
        """Under ``live``: wait for the newest token's score, or for the engine to say that there will be none.

        Text and frames come over different connections: without this a score on its way would be told as missing.
        """
        ending = self.endings[choice]
        if not self.plan.hold and not ending.failures:
            whole = self.n_prompt(choice) + ending.n_completion
            await wait_scored(self.session, (choice,), whole, self.alive, overdue)

    def note_late(self, choice: int, answer: dict[str, Any]) -> None:
        """Note the last token that ``live`` release let pass, if it carries text and has no score."""
        ending = self.endings[choice]
        by_token = answer.get("finish_reason") == "stop" and not isinstance(answer.get("stop_reason"), str)
        unseen = self.n_prompt(choice) + ending.n_completion - self.session.choices[choice].seen
        if not self.plan.hold and not by_token and not ending.failures and unseen == 1:
            ending.late = 1

    def blocked(self, choice: int) -> BlockedError:
        """The prompt tripped a rule that stops."""
        verdict = self.verdict(choice)
        rules = ", ".join(d.rule for d in verdict.detections if d.tripped)
        return BlockedError(f"blocked by policy {verdict.policy}: the prompt tripped {rules}", verdict)

    def unscored(self, choice: int, needed: int) -> UnscoredError:
        """The request may not be answered because it could not be scored."""
        ending = self.endings[choice]
        ending.needed = max(ending.needed, needed)
        ending.blocked = True
        verdict = self.verdict(choice)
        reasons = ", ".join(verdict.unscored) or "unknown"
        message = f"could not be scored ({reasons}), and policy {verdict.policy} blocks what is unscored"
        return UnscoredError(message, verdict)

    def refuse_silent(self) -> UnscoredError:
        """The taps are silent before the request has even begun."""
        for choice, ending in enumerate(self.endings):
            self.note(choice, UnscoredReason.TAPS_SILENT, 0)
            ending.blocked = True
        error = self.unscored(0, 0)
        self.all_verdicts()
        return error

    def verdict(self, choice: int) -> Verdict:
        """The final verdict on a choice; made once, then kept."""
        if choice not in self.verdicts:
            self.verdicts[choice] = build_verdict(self.session, choice, self.endings[choice], self.manifest)
        return self.verdicts[choice]

    def all_verdicts(self) -> tuple[Verdict, ...]:
        """The verdicts by choice index."""
        return tuple(self.verdict(choice) for choice in range(self.plan.n))

    def token_scores(self, choice: int, start: int, end: int) -> tuple[TokenScore, ...]:
        """Token scores of positions ``[start, end)``, if the caller asked for them."""
        if not self.session.keep_scores:
            return ()
        return tuple(self.session.choices[choice].token_scores(start, end, self.columns()))

    def note(self, choice: int, reason: UnscoredReason, tokens: int) -> None:
        """Note why tokens of a choice have no score (0 tokens: the whole request)."""
        failures = self.endings[choice].failures
        failures[reason] = max(tokens, failures.get(reason, 0))
