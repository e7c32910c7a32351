"""A whole (not streamed) answer: wait for its scores, then pass it on, cut it (and replace the rest), or refuse it.

A cut under ``hold`` keeps the text of the tokens before the trip, which vLLM's own tokenizer gives; where
that is not exactly a beginning of the answer, or the answer is more than text, nothing is kept.
"""

from __future__ import annotations

from typing import Any

from monitor.answers import Completion
from monitor.body import without_token_ids
from monitor.ending import CUT_REASON, cut_choice, kept_prefix, needed_positions, plain_text, stopping_rule, with_text
from monitor.errors import RequestError, UpstreamError
from monitor.job import Job
from monitor.session import Overdue
from monitor.upstream import Upstream
from probes.scope import OPEN_END


async def finish_whole(job: Job, answer: dict[str, Any], upstream: Upstream) -> Completion:
    """Turn the engine's answer into the caller's.

    Raises:
        BlockedError: the prompt tripped a rule that stops.
        UnscoredError: a choice could not be scored and the policy says block.
        UpstreamError: the answer lacks what vLLM always sends.
    """
    job.read_usage(answer)
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != job.plan.n:
        raise UpstreamError(f"the engine did not answer with {job.plan.n} choices")
    for choice in choices:
        ending = job.endings[choice.get("index", 0)]
        ending.stopped = stopping_rule(choice, job.plan)
        several = job.plan.n > 1
        if several and not isinstance(choice.get("token_ids"), list):
            raise UpstreamError("the engine answered several choices without their token ids")
        ending.n_completion = len(choice["token_ids"]) if several else answer["usage"]["completion_tokens"]
    overdue = job.overdue()
    await job.prompt_scored(overdue)
    done = [await _finish_choice(job, choice, answer, overdue, upstream) for choice in choices]
    body = {**answer, "choices": done}
    scores = {i: list(job.token_scores(i, 0, OPEN_END)) for i in range(job.plan.n)} if job.session.keep_scores else {}
    return Completion(body if job.wishes.token_ids else without_token_ids(body), job.all_verdicts(), scores)


async def _finish_choice(
    job: Job, choice: dict[str, Any], answer: dict[str, Any], overdue: Overdue, upstream: Upstream
) -> dict[str, Any]:
    index, plan = choice.get("index", 0), job.plan
    count = job.endings[index].n_completion
    ending, n_prompt = job.endings[index], job.n_prompt(index)
    needed = needed_positions(
        n_prompt, count, choice, plan, stop_text=job.wishes.stop_text, stop_tokens=job.wishes.stop_tokens
    )
    scored = await job.scored(index, needed, overdue)
    if not scored and ending.stopped is None:
        raise job.unscored(index, needed)
    await job.last_scored(index, overdue)
    job.note_late(index, choice)
    job.released[index] = count
    if not scored or job.withheld(index, count, finished=True):
        trip = job.session.trip(index)
        keep = max(0, count - 1 if trip is None else trip - n_prompt)
        if job.blocks:
            keep = min(keep, max(0, job.session.choices[index].solid - n_prompt))
        job.released[index] = keep
        choice = cut_choice(choice, await _kept_text(job, choice, keep, answer, upstream))
    elif ending.stopped:
        choice = {**choice, "finish_reason": CUT_REASON}
    text = job.replacement(index) if choice["finish_reason"] == CUT_REASON else None
    job.verdict(index)
    return choice if text is None else with_text(choice, text)


async def _kept_text(job: Job, choice: dict[str, Any], keep: int, answer: dict[str, Any], upstream: Upstream) -> str:
    """The text of the first ``keep`` response tokens, if it can be told for certain."""
    text, tokens = plain_text(choice), choice.get("token_ids")
    if not keep or text is None or job.wishes.echo or not isinstance(tokens, list):
        return ""
    try:
        decoded = await upstream.detokenize(str(answer.get("model", "")), tokens[:keep])
    except RequestError:
        return ""  # withholding more than necessary is safe; the engine's failure shows in its own answers
    return kept_prefix(text, decoded)
