"""Stand-ins for the guard, the receiver and the recorder: the real ones are tested with the engine."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence

from monitor import errors
from monitor.answers import Chunk, Finished
from monitor.fanout import Fanout
from monitor.frames import DetectorState
from monitor.session import ScoreUpdate
from monitor.types import Action, Detection, Mode, Operator, Status, Steering, TokenScore, UnscoredReason, Verdict

DETECTION = Detection(
    rule="harm",
    probe="harmful_intent",
    concept="harmful_intent",
    score=3.25,
    probability=0.97,
    threshold=1.5,
    tripped=True,
    position=7,
    action=Action.STOP,
)


def make_verdict(status=Status.TRIPPED, **changes):
    facts = {
        "request_id": "req-1",
        "choice": 0,
        "status": status,
        "action": Action.STOP if status is Status.TRIPPED else Action.ALLOW,
        "enforced": True,
        "mode": Mode.ENFORCE,
        "policy": "default",
        "revision": "abc123",
        "detections": (DETECTION,),
        "steering": (Steering("refusal", Operator.ABLATE, 0.5),),
        "n_prompt": 9,
        "n_completion": 0,
        "tokens_seen": 9,
        "tokens_scored": 8,
        "unscored": {UnscoredReason.NAN: 1},
        "created": 1_790_000_000.125,
    }
    return Verdict(**(facts | changes))


def passed_verdict(**changes):
    calm = Detection("harm", "harmful_intent", "harmful_intent", -2.0, 0.02, 1.5, False, None, Action.STOP)
    return make_verdict(Status.PASSED, **({"detections": (calm,), "tokens_scored": 9, "unscored": {}} | changes))


def make_update(n_tokens=1, **changes):
    facts = {
        "request_id": "req-1",
        "choice": 0,
        "n_prompt": 9,
        "token_scores": tuple(token(i) for i in range(n_tokens)),
        "detectors": (DetectorState("harm", 0.5, None, None), DetectorState("lies", None, 4, 2.0)),
        "seen": n_tokens,
        "scored": n_tokens,
        "stopped": None,
        "ended": False,
    }
    return ScoreUpdate(**(facts | changes))


def token(position, value=1.0):
    return TokenScore(position=position, scores={"harmful_intent": value, "deception": None})


def text_chunk(text, *scores, finish_reason=None, choice=0):
    payload = {"choices": [{"index": choice, "delta": {"content": text}, "finish_reason": finish_reason}]}
    return Chunk(payload=payload, choice=choice, token_scores=tuple(scores))


def request_errors():
    """Every class below RequestError, however deep."""
    found, todo = [], [errors.RequestError]
    while todo:
        below = todo.pop().__subclasses__()
        found += below
        todo += below
    return sorted(set(found), key=lambda cls: cls.__name__)


def make_error(cls):
    """An instance, whatever further arguments its class wants."""
    values = {"message": "what came and what was wanted", "verdict": make_verdict(), "status": 400, "body": {}}
    wanted = inspect.signature(cls.__init__).parameters
    return cls(values.pop("message"), **{name: value for name, value in values.items() if name in wanted})


class FakeGuard:
    """Answers from a script: exceptions are raised, events passed on, WAIT waits for ever."""

    WAIT = object()

    def __init__(self):
        self.script: Sequence[object] = ()
        self.calls: list[tuple] = []
        self.waiting = asyncio.Event()
        self.closed = asyncio.Event()

    async def check(self, messages, options, model=None):
        self.calls.append((messages, options, model))
        return await anext(self._play())

    async def stream(self, path, body, options):
        self.calls.append((path, body, options))
        async for item in self._play():
            yield item

    async def _play(self):
        try:
            for item in self.script:
                if item is self.WAIT:
                    self.waiting.set()
                    await asyncio.Event().wait()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.closed.set()


class FakeReceiver:
    def __init__(self):
        self.scores = Fanout[ScoreUpdate]()

    def subscribe_scores(self, size=1024):
        return self.scores.subscribe(size)


class FakeRecorder:
    def __init__(self):
        self.verdicts = Fanout[Verdict]()

    def subscribe_verdicts(self, size=1024):
        return self.verdicts.subscribe(size)


FINISHED = Finished(verdicts=(passed_verdict(n_completion=2),))
