"""What of a stream may go out, and when.

``hold`` releases a chunk once every token in it is scored; ``live`` once every token but its newest is, which
the engine's own order of work makes immediate. Neither releases anything at or after an enforced trip, except
that ``live`` may have released the tripping token itself. Where the rule says ``replace``, its text follows what
was released.

A reader task takes events off the engine's connection while the releaser waits for their scores: that later
events have arrived is how an overdue score is told from a slow engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from monitor.answers import CHAT_PATH, Chunk
from monitor.ending import CUT_REASON, cut_chunk, needed_positions, replaced_chunks, stopping_rule
from monitor.errors import EngineRefusedError, UpstreamError
from monitor.job import Job
from monitor.policy.plan import STOP_PREFIX

Event = dict[str, Any]


class StreamRelease:
    """Releases the chunks of one stream in order."""

    def __init__(self, job: Job, buffer: int) -> None:
        self._job = job
        self._queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue(buffer)
        self._engine_done = False
        self._running = set(range(job.plan.n))  # choices that the engine has not finished
        self._open = set(range(job.plan.n))  # choices whose last chunk has not been released
        self._told = [0] * job.plan.n  # first position whose token scores were not yet given, by choice
        self._finished: list[Chunk] = []  # last chunks of choices, waiting for the usage chunk
        self._seen: Event = {}  # the newest event
        self._usage: Event | None = None
        self._judged = False

    async def chunks(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Chunk, None]:
        """The released chunks; nothing before the prompt's verdict.

        Raises:
            BlockedError: the prompt tripped a rule that stops; before the first chunk.
            UnscoredError: it could not be scored and the policy says block; before the first chunk.
            EngineRefusedError: as the engine's stream raises it.
            UpstreamError: the same.
        """
        async with self._reading(events):
            while self._open or not self._running:
                event = await self._queue.get()
                if event is None or (isinstance(event, Exception) and not self._open):
                    break
                if isinstance(event, Exception):
                    raise event
                for payload in self._by_choice(event):
                    await self._judge_prompt()
                    for chunk in self._parts(await self._release(payload)):
                        if chunk.verdict is None or self._job.wishes.usage:
                            yield chunk
                        else:
                            self._finished.append(chunk)
            await self._judge_prompt()
            await self._drain()
        for index in sorted(self._open):
            await self._job.scored(index, self._job.n_prompt(index), self._job.overdue())  # the other choices' frames
            *parts, last = self._parts(self._silent_end(index))
            for chunk in parts:
                yield chunk
            self._finished.append(last)
        for chunk in self._ending():
            yield chunk

    def _parts(self, chunk: Chunk) -> Iterator[Chunk]:
        """The chunk, or more than one where it ends a choice whose rest a rule replaces."""
        cut = chunk.verdict is not None and chunk.payload["choices"][0]["finish_reason"] == CUT_REASON
        text = self._job.replacement(chunk.choice) if cut else None
        payloads = (chunk.payload,) if text is None else tuple(replaced_chunks(chunk.payload, text))
        last = len(payloads) - 1
        for part, payload in enumerate(payloads):
            scores = () if part else chunk.token_scores
            yield replace(chunk, payload=payload, token_scores=scores, verdict=chunk.verdict if part == last else None)

    async def _drain(self) -> None:
        """Take the engine's own usage after a trip: it ends what it stops at once."""
        if not self._open and self._running and not any(ending.blocked for ending in self._job.endings):
            with suppress(TimeoutError):
                async with asyncio.timeout(self._job.frame_timeout):
                    while isinstance(event := await self._queue.get(), dict):
                        self._usage = event if not event.get("choices") else self._usage

    async def _judge_prompt(self) -> None:
        """Wait for the verdict on the prompt, once, before anything is released."""
        if not self._judged:
            await self._job.prompt_scored(self._job.overdue())
            self._judged = True

    def _silent_end(self, index: int) -> Chunk:
        """The last chunk of a choice that the engine ended without one: vLLM omits chunks without tokens.

        Raises:
            UpstreamError: nothing says why it ended.
        """
        ending, usage = self._job.endings[index], self._usage
        if usage is None or ending.n_completion or not self._job.tripped_before(index, self._job.n_prompt(index)):
            raise UpstreamError("the engine's stream ended without a finish reason; see the engine's log")
        choice = {"index": index, "delta": {}} if self._job.path == CHAT_PATH else {"index": index, "text": ""}
        return self._cut({**usage, "choices": [choice]}, STOP_PREFIX + self._job.tripped_rule(index))

    @asynccontextmanager
    async def _reading(self, events: AsyncGenerator[Event, None]) -> AsyncIterator[None]:
        reader = asyncio.create_task(self._read(events), name=f"read {self._job.plan.request_id}")
        try:
            yield
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, events: AsyncGenerator[Event, None]) -> None:
        """Move events to the queue, noting how far the engine is; closes its connection when cancelled."""
        failure: Exception | None = None
        try:
            async with aclosing(events):
                async for event in events:
                    self._note_arrival(event)
                    await self._queue.put(event)
        except Exception as error:  # noqa: BLE001  # raised again by whoever takes it off the queue
            failure = error
        self._engine_done = True
        await self._queue.put(failure)

    def _note_arrival(self, event: Event) -> None:
        if "error" in event:
            raise _stream_error(event)
        usage = event.get("usage")
        if not isinstance(usage, dict):
            raise UpstreamError("the engine's stream carries no continuous usage; it must be vLLM 0.26 or newer")
        if not event.get("choices"):
            self._job.read_usage(event)
        for choice in event.get("choices", ()):
            index = choice.get("index", 0)
            if not 0 <= index < self._job.plan.n:
                raise UpstreamError(f"the engine sent choice {index} of {self._job.plan.n}")
            ending = self._job.endings[index]
            ending.n_prompt, ending.n_completion = usage["prompt_tokens"], usage["completion_tokens"]
            ending.stopped = stopping_rule(choice, self._job.plan)

    def _by_choice(self, event: Event) -> Iterator[Event]:
        """The event once for each of its choices that is still open."""
        self._seen = event
        if not event.get("choices"):
            self._usage = event
            return
        for choice in event["choices"]:
            if choice.get("finish_reason"):
                self._running.discard(choice.get("index", 0))
            if choice.get("index", 0) in self._open:
                yield {**event, "choices": [choice]}

    async def _release(self, payload: Event) -> Chunk:
        """One chunk, once it may go out: as it is, or cut."""
        job, choice = self._job, payload["choices"][0]
        index, count = choice.get("index", 0), payload["usage"]["completion_tokens"]
        finished = choice.get("finish_reason") is not None
        ending, n_prompt = job.endings[index], job.n_prompt(index)
        if count or finished:
            needed = needed_positions(
                n_prompt, count, choice, job.plan, stop_text=job.wishes.stop_text, stop_tokens=job.wishes.stop_tokens
            )
            overdue = job.overdue(lambda: finished or self._went_on(index, count))
            scored = await job.scored(index, needed, overdue)
            if not scored and ending.stopped is None:
                ending.blocked = True
                return self._cut(payload, None)
            if not scored or job.withheld(index, count, finished=finished):
                return self._cut(payload, STOP_PREFIX + (ending.stopped or job.tripped_rule(index)))
        job.released[index] = count
        if not finished:
            return self._chunk(payload, index, n_prompt + count)
        if ending.stopped:
            payload = {**payload, "choices": [{**choice, "finish_reason": CUT_REASON}]}
        await job.last_scored(index, job.overdue())
        job.note_late(index, choice)
        return self._last(payload, index)

    def _went_on(self, index: int, count: int) -> bool:
        """Whether the engine went on after this chunk, so that its scores should be here."""
        return self._engine_done or self._job.endings[index].n_completion > count or self._queue.full()

    def _cut(self, payload: Event, stop_reason: str | None) -> Chunk:
        choice = payload["choices"][0]
        return self._last(cut_chunk(payload, choice, stop_reason), choice.get("index", 0))

    def _last(self, payload: Event, index: int) -> Chunk:
        """The chunk that ends its choice."""
        self._open.discard(index)
        chunk = self._chunk(payload, index, self._job.session.choices[index].seen)
        return replace(chunk, verdict=self._job.verdict(index))

    def _chunk(self, payload: Event, index: int, end: int) -> Chunk:
        scores = self._job.token_scores(index, self._told[index], end)
        if scores:  # a score that is not here yet (the newest token's, under live) is told with a later chunk
            self._told[index] = scores[-1].position + 1
        if not self._job.wishes.continuous:
            payload = {name: value for name, value in payload.items() if name != "usage"}
        plan = self._job.plan
        return Chunk(payload, index, scores, request_id=plan.request_id, policy=plan.policy)

    def _ending(self) -> Iterator[Chunk]:
        """The last chunks of the choices, and the usage chunk if the caller asked for it.

        vLLM puts its fingerprint on the last chunks if no usage chunk follows; ours comes with a usage chunk in
        any case, so that the last chunks have to wait for it.
        """
        fingerprint = (self._usage or {}).get("system_fingerprint")
        added = {} if fingerprint is None or self._job.wishes.usage else {"system_fingerprint": fingerprint}
        for chunk in self._finished:
            yield replace(chunk, payload={**chunk.payload, **added})
        if self._job.wishes.usage:
            plan = self._job.plan
            yield Chunk(self._usage or self._own_usage(), -1, request_id=plan.request_id, policy=plan.policy)

    def _own_usage(self) -> Event:
        """A usage chunk for a stream that was cut before the engine sent its own."""
        n_prompt = max(ending.n_prompt for ending in self._job.endings)
        n_completion = sum(ending.n_completion for ending in self._job.endings)
        usage = {
            "prompt_tokens": n_prompt,
            "total_tokens": n_prompt + n_completion,
            "completion_tokens": n_completion,
        }
        shared = {name: value for name, value in self._seen.items() if name in ("id", "object", "created", "model")}
        return {**shared, "choices": [], "usage": usage}


def _stream_error(event: Event) -> EngineRefusedError | UpstreamError:
    """An error that vLLM sent inside a stream."""
    error = event["error"]
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, int) and 400 <= code < 500:
        return EngineRefusedError(f"the engine refused the request with status {code}", code, event)
    return UpstreamError("the engine failed in the middle of the stream; see the engine's log")
