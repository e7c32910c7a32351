"""One request from plan to verdict; used by HTTP and gRPC alike.

    options + policy ──► gate plan ──► engine (plan in vllm_xargs)
                            │               │
                         session ◄─ frames ─┘
                            │
                  release or cut, verdict, record

Errors, from all three calls (:mod:`monitor.errors`):
    InvalidRequestError, LoosensPolicyError: options or body are not acceptable.
    DirectionsError: the policy steers with a loaded direction that cannot be used.
    BlockedError: the prompt tripped a rule that stops; ``.verdict`` (not from :meth:`Guard.check`).
    UnscoredError: could not be scored and the policy says block; ``.verdict`` (not from :meth:`Guard.check`).
    EngineRefusedError: vLLM's own 4xx; ``.status``, ``.body``.
    UpstreamError: the engine is down or failed.

Runs in: the monitor, one event loop.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, Protocol

from monitor.answers import CHAT_PATH, COMPLETIONS_PATH, Chunk, Completion, Finished
from monitor.body import engine_body, read_wishes
from monitor.errors import InvalidRequestError, RequestError
from monitor.job import Job
from monitor.policy.compile import check_raw_prompt, compile_plan
from monitor.policy.options import GuardOptions
from monitor.policy.steering import Names
from monitor.policy.store import PolicyStore
from monitor.record.recorder import Recorder
from monitor.release import StreamRelease
from monitor.session import Receiver, SessionTable
from monitor.types import UnscoredReason, Verdict
from monitor.upstream import Upstream
from monitor.whole import finish_whole

__all__ = ["CHAT_PATH", "COMPLETIONS_PATH", "Chunk", "Completion", "Finished", "Guard", "GuardOptions"]


class GuardSettings(Protocol):
    """The part of the settings that matters here; seconds, and events."""

    @property
    def plan_ttl(self) -> float: ...
    @property
    def frame_timeout(self) -> float: ...
    @property
    def stream_buffer(self) -> int: ...


class Guard:
    """Compiles the plan, follows the frames, releases what was scored, records the verdict."""

    def __init__(
        self,
        *,
        store: PolicyStore,
        sessions: SessionTable,
        receiver: Receiver,
        upstream: Upstream,
        recorder: Recorder,
        names: Names,
        digest: str,
        key: bytes,
        settings: GuardSettings,
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._receiver = receiver
        self._upstream = upstream
        self._recorder = recorder
        self._names = names
        self._digest = digest
        self._key = key
        self._settings = settings
        self._settling: set[asyncio.Task[None]] = set()

    async def complete(self, path: str, body: Mapping[str, Any], options: GuardOptions) -> Completion:
        """Answer one request as a whole; ``body["stream"]`` must be absent or false."""
        with self._job(path, body, options, stream=False) as job:
            needs_ids = job.plan.n > 1 or (job.plan.hold and bool(job.session.ending_rules))
            sent = engine_body(body, job.wishes, job.plan, self._key, need_token_ids=needs_ids)
            answer = await self._upstream.post(path, sent)
            return await finish_whole(job, answer, self._upstream)

    async def stream(
        self, path: str, body: Mapping[str, Any], options: GuardOptions
    ) -> AsyncGenerator[Chunk | Finished, None]:
        """Answer one request as a stream; raises before the first item if the prompt is blocked.

        Close it (``aclose``) or cancel its task to abort the engine's request; the verdict is recorded anyway.
        """
        with self._job(path, body, options, stream=True) as job:
            sent = engine_body(body, job.wishes, job.plan, self._key, need_token_ids=False)
            release = StreamRelease(job, self._settings.stream_buffer)
            async with aclosing(release.chunks(self._upstream.stream(path, sent))) as chunks:
                async for chunk in chunks:
                    yield chunk
            yield Finished(job.all_verdicts())

    async def check(
        self, messages: Sequence[Mapping[str, Any]], options: GuardOptions, model: str | None = None
    ) -> Verdict:
        """Score a conversation without generating; a tripped or unscored one is a normal answer."""
        body: dict[str, Any] = {"messages": list(messages), "max_tokens": 1, "temperature": 0.0}
        if model is not None:
            body["model"] = model
        with self._job(CHAT_PATH, body, options, stream=False, checking=True) as job:
            if not self._receiver.taps_alive:
                job.note(0, UnscoredReason.TAPS_SILENT, 0)
                job.endings[0].blocked = job.blocks
                return job.verdict(0)
            sent = engine_body(body, job.wishes, job.plan, self._key, need_token_ids=False)
            answer = await self._upstream.post(CHAT_PATH, sent)
            job.read_usage(answer)
            if not await job.scored(0, job.n_prompt(0), job.overdue()):
                job.endings[0].blocked = True
            return job.verdict(0)

    async def close(self) -> None:
        """Wait for the verdicts of requests whose callers have gone."""
        await asyncio.gather(*self._settling, return_exceptions=True)

    @contextmanager
    def _job(
        self, path: str, body: Mapping[str, Any], options: GuardOptions, *, stream: bool, checking: bool = False
    ) -> Iterator[Job]:
        """Plan and session of one request; its verdicts are recorded on the way out, however it ends."""
        try:
            job = self._admit(path, body, options, stream=stream, checking=checking)
        except RequestError as error:
            self._recorder.refused(error.code)
            raise
        self._recorder.began()
        try:
            if not checking and job.blocks and not self._receiver.taps_alive:
                raise job.refuse_silent()
            yield job
        except RequestError as error:
            self._recorder.refused(error.code)
            job.untouched = not job.verdicts and not job.followed
            raise
        finally:
            self._finish(job)

    def _admit(self, path: str, body: Mapping[str, Any], options: GuardOptions, *, stream: bool, checking: bool) -> Job:
        """Check the request and open its session.

        Raises:
            InvalidRequestError: options or body make no sense.
            LoosensPolicyError: options would weaken the policy.
            DirectionsError: a loaded direction that the policy needs is unusable.
        """
        if path not in (CHAT_PATH, COMPLETIONS_PATH):
            raise InvalidRequestError(f"path: got {path!r}, wanted {CHAT_PATH} or {COMPLETIONS_PATH}")
        wishes = read_wishes(path, body)
        if wishes.stream is not stream:
            raise InvalidRequestError(f"stream: got {wishes.stream}, this call wants {stream}")
        snapshot = self._store.snapshot
        policy = snapshot.select(options.policy)
        if path == COMPLETIONS_PATH:
            check_raw_prompt(policy, self._names.manifest)
        plan = compile_plan(
            policy,
            options,
            names=self._names,
            digest=self._digest,
            revision=snapshot.revision,
            request_id=f"pl-{secrets.token_hex(12)}",
            n=wishes.n,
            expires=time.time() + self._settings.plan_ttl,
            hold=False if checking else None,
        )
        return Job(
            path=path,
            wishes=wishes,
            session=self._sessions.open(plan, keep_scores=options.token_scores),
            manifest=self._names.manifest,
            replacements=policy.replacements,
            blocks=policy.blocks_unscored and plan.enforce,
            alive=lambda: self._receiver.taps_alive,
            columns=lambda: self._sessions.columns,
            frame_timeout=self._settings.frame_timeout,
        )

    def _finish(self, job: Job) -> None:
        """Record what is decided; wait in the background for the rest, whose caller has gone."""
        if len(job.verdicts) == job.plan.n or job.untouched:
            self._record(job)
            return
        task = asyncio.get_running_loop().create_task(self._settle(job), name=f"settle {job.plan.request_id}")
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settle(self, job: Job) -> None:
        """Give the engine's last frames time to arrive, then record."""
        for choice in range(job.plan.n):
            if choice not in job.verdicts:
                await job.settle(choice)
                if job.followed:  # otherwise it never began: nothing to give a verdict on
                    job.verdict(choice)
        self._record(job)

    def _record(self, job: Job) -> None:
        self._sessions.close(job.session)
        self._recorder.ended()
        for choice, verdict in sorted(job.verdicts.items()):
            tripped = {detection.rule for detection in verdict.detections if detection.tripped}
            by_rule = (d.steering for d in job.plan.detectors if d.rule in tripped and job.plan.enforce)
            self._recorder.record(
                verdict,
                sum(by_rule, job.plan.steering),
                released=job.released.get(choice, 0),
                seconds=time.perf_counter() - job.started,
                blocks=job.blocks,
            )
