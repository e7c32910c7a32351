"""``MonitorService``: token scores and verdicts of all requests, as they happen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from grpc import aio

from monitor.fanout import Subscription
from monitor.rpc.convert import SCORES_PER_MESSAGE, rule_state_to_proto, token_score_to_proto, verdict_to_proto
from monitor.rpc.shutdown import Shutdown
from monitor.rpc.status import answering, refuse
from monitor.session import ScoreUpdate
from monitor.types import Status, Verdict
from monitor.v1 import monitor_pb2 as pb
from monitor.v1 import monitor_pb2_grpc


class ScoreSource(Protocol):
    """What this service needs of the frame receiver."""

    def subscribe_scores(self) -> Subscription[ScoreUpdate]:
        """Score updates from now on."""
        ...


class VerdictSource(Protocol):
    """What this service needs of the recorder."""

    def subscribe_verdicts(self) -> Subscription[Verdict]:
        """Verdicts from now on."""
        ...


class MonitorService(monitor_pb2_grpc.MonitorServiceServicer):
    """Hands subscriptions to watchers.

    Each watcher has a bounded queue of its own: a slow one loses its oldest events and is told how many.
    Both methods write to the context (see ``GuardService.Generate`` for why) and end with UNAVAILABLE when
    a shutdown begins or the source ends.
    """

    def __init__(self, receiver: ScoreSource, recorder: VerdictSource, shutdown: Shutdown) -> None:
        self._receiver = receiver
        self._recorder = recorder
        self._shutdown = shutdown

    async def WatchScores(  # type: ignore[override]  # noqa: N802  # named by the .proto file
        self, request: pb.WatchScoresRequest, context: aio.ServicerContext[Any, pb.WatchScoresResponse]
    ) -> None:
        """Stream token scores as the engine makes them."""
        async with answering(context, "MonitorService.WatchScores"):
            updates = self._receiver.subscribe_scores()
            with self._shutdown.watcher(updates):
                await context.send_initial_metadata(())
                async for update in updates:
                    if request.request_id in ("", update.request_id):
                        for answer in _scores(update, list(request.probes), updates.dropped):
                            await context.write(answer)
            await refuse(context)

    async def WatchVerdicts(  # type: ignore[override]  # noqa: N802
        self, request: pb.WatchVerdictsRequest, context: aio.ServicerContext[Any, pb.WatchVerdictsResponse]
    ) -> None:
        """Stream verdicts as they are reached."""
        async with answering(context, "MonitorService.WatchVerdicts"):
            verdicts = self._recorder.subscribe_verdicts()
            with self._shutdown.watcher(verdicts):
                await context.send_initial_metadata(())
                async for verdict in verdicts:
                    if _wanted(request, verdict):
                        message = verdict_to_proto(verdict)
                        await context.write(pb.WatchVerdictsResponse(verdict=message, dropped=verdicts.dropped))
            await refuse(context)


def _wanted(request: pb.WatchVerdictsRequest, verdict: Verdict) -> bool:
    """Whether a verdict passes a watcher's filters."""
    tripped = verdict.status is Status.TRIPPED
    return request.policy in ("", verdict.policy) and (tripped or not request.only_tripped)


def _scores(update: ScoreUpdate, probes: Sequence[str], dropped: int) -> Iterator[pb.WatchScoresResponse]:
    """One update in messages of bounded size, at least one; only the last says that the choice ended."""
    tokens = [token_score_to_proto(token, probes or None) for token in update.token_scores]
    starts = range(0, max(len(tokens), 1), SCORES_PER_MESSAGE)
    for start in starts:
        last = start == starts[-1]
        yield pb.WatchScoresResponse(
            request_id=update.request_id,
            choice=update.choice,
            prompt_tokens=update.n_prompt,
            token_scores=tokens[start : start + SCORES_PER_MESSAGE],
            rules=[rule_state_to_proto(state) for state in update.detectors] if last else [],
            tokens_seen=update.seen,
            tokens_scored=update.scored,
            stopped_by=(update.stopped or "") if last else "",
            ended=update.ended and last,
            dropped=dropped,
        )
