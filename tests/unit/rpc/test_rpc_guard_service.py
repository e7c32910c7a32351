from __future__ import annotations

import asyncio

import grpc
import pytest
from rpc_fakes import FINISHED, make_error, make_verdict, passed_verdict, text_chunk, token

from monitor.answers import Chunk, Finished
from monitor.errors import BlockedError
from monitor.rpc.convert import token_score_from_proto, verdict_from_proto
from monitor.rpc.status import error_info
from monitor.types import Action, Mode, Operator, Status, Steering
from monitor.v1 import guard_pb2 as pb
from monitor.v1 import verdict_pb2

TURNS = [pb.Message(role="user", content="hello")]


async def test_check_hands_the_conversation_over_and_the_verdict_back(house):
    house.guard.script = [make_verdict()]
    guard = pb.GuardOptions(policy="strict", mode=verdict_pb2.MODE_ENFORCE)
    answer = await house.guarding.Check(pb.CheckRequest(messages=TURNS, guard=guard, model="m"))
    assert verdict_from_proto(answer.verdict) == make_verdict()
    messages, options, model = house.guard.calls[0]
    assert messages == [{"role": "user", "content": "hello"}]
    assert (options.policy, options.mode, model) == ("strict", Mode.ENFORCE, "m")


@pytest.mark.parametrize("status", Status)
async def test_all_three_outcomes_are_answers(house, status):
    house.guard.script = [make_verdict(status)]
    answer = await house.guarding.Check(pb.CheckRequest(messages=TURNS))
    assert verdict_from_proto(answer.verdict).status is status


async def test_generate_streams_text_and_scores_then_the_verdict_and_usage(house):
    usage = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}
    house.guard.script = [
        Chunk({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}, 0),
        text_chunk("good", token(8), token(9)),
        text_chunk(" day", token(10), finish_reason="length"),
        Chunk(usage, -1),
        FINISHED,
    ]
    steering = [verdict_pb2.Steering(direction="refusal", operator=verdict_pb2.OPERATOR_ABLATE)]
    request = pb.GenerateRequest(messages=TURNS, guard=pb.GuardOptions(steering=steering))
    events = [event async for event in house.guarding.Generate(request)]
    deltas = [event.delta for event in events[:-1]]
    assert all(event.WhichOneof("event") == "delta" for event in events[:-1])
    assert "".join(delta.text for delta in deltas) == "good day"
    scores = [token_score_from_proto(score) for delta in deltas for score in delta.token_scores]
    assert scores == [token(8), token(9), token(10)]
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == [pb.FINISH_REASON_LENGTH]
    assert deltas[-1].finish_reason == pb.FINISH_REASON_LENGTH
    finished = events[-1].finished
    assert [verdict_from_proto(verdict) for verdict in finished.verdicts] == list(FINISHED.verdicts)
    assert (finished.usage.prompt_tokens, finished.usage.completion_tokens) == (9, 2)
    _, body, options = house.guard.calls[0]
    assert body["stream"] is True
    assert options.token_scores
    assert options.steering == (Steering("refusal", Operator.ABLATE, 1.0),)
    assert house.guard.closed.is_set()


async def test_a_replaced_response_is_text_before_the_end(house):
    replaced = make_verdict(action=Action.REPLACE)
    house.guard.script = [
        text_chunk("one ", token(9)),
        text_chunk("[withheld]"),
        Chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": "content_filter"}]}, 0),
        Finished((replaced,)),
    ]
    *deltas, last = [event async for event in house.guarding.Generate(pb.GenerateRequest(messages=TURNS))]
    assert "".join(event.delta.text for event in deltas) == "one [withheld]"
    assert (deltas[-1].delta.text, deltas[-1].delta.finish_reason) == ("", pb.FINISH_REASON_CONTENT_FILTER)
    assert last.finished.verdicts[0].action == verdict_pb2.ACTION_REPLACE


async def test_choices_stay_apart_and_completions_have_text(house):
    house.guard.script = [
        Chunk({"choices": [{"index": 1, "text": "b", "finish_reason": None}]}, 1, (token(9),)),
        Chunk({"choices": [{"index": 0, "text": "a", "finish_reason": "abort"}]}, 0),
        Finished((passed_verdict(), passed_verdict(choice=1))),
    ]
    events = [event async for event in house.guarding.Generate(pb.GenerateRequest(prompt="x"))]
    assert [(event.delta.choice, event.delta.text, len(event.delta.token_scores)) for event in events[:-1]] == [
        (1, "", 1),
        (1, "b", 0),
        (0, "a", 0),
    ]
    assert events[2].delta.finish_reason == pb.FINISH_REASON_OTHER
    assert [verdict.choice for verdict in events[-1].finished.verdicts] == [0, 1]
    assert not events[-1].finished.HasField("usage")


async def test_a_blocked_prompt_is_a_verdict_and_the_stream_ends_ok(house):
    house.guard.script = [make_error(BlockedError)]
    call = house.guarding.Generate(pb.GenerateRequest(prompt="x"))
    events = [event async for event in call]
    assert await call.code() is grpc.StatusCode.OK
    assert [event.WhichOneof("event") for event in events] == ["finished"]
    assert [verdict_from_proto(verdict) for verdict in events[0].finished.verdicts] == [make_verdict()]


async def test_a_stream_without_a_verdict_is_a_failure_not_an_answer(house, failure):
    house.guard.script = [text_chunk("a", finish_reason="stop")]
    error = await failure(house.guarding.Generate(pb.GenerateRequest(prompt="x")))
    assert error.code() is grpc.StatusCode.INTERNAL


async def test_a_cut_response_says_content_filter_and_then_its_verdict(house):
    house.guard.script = [
        text_chunk("a"),
        text_chunk("", finish_reason="content_filter"),
        Finished((make_verdict(),)),
    ]
    events = [event async for event in house.guarding.Generate(pb.GenerateRequest(prompt="x"))]
    assert events[1].delta.finish_reason == pb.FINISH_REASON_CONTENT_FILTER
    assert events[2].finished.verdicts[0].status == verdict_pb2.STATUS_TRIPPED


async def test_the_scores_of_a_long_prompt_come_in_bounded_messages(house):
    tokens = [token(i) for i in range(100_000)]  # about 4.7 MB: more than one message may have
    house.guard.script = [text_chunk("a", *tokens), FINISHED]
    sizes, positions = [], []
    async for event in house.guarding.Generate(pb.GenerateRequest(prompt="x")):
        sizes.append(event.ByteSize())
        positions += [score.position for score in event.delta.token_scores]
    assert positions == list(range(100_000))
    assert max(sizes) < 64 * 1024


@pytest.mark.parametrize("method", ["check", "generate"])
async def test_a_request_that_makes_no_sense_never_reaches_the_guard(house, failure, method):
    if method == "check":
        call = house.guarding.Check(pb.CheckRequest())
    else:
        call = house.guarding.Generate(pb.GenerateRequest())
    error = await failure(call)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(error).reason == "INVALID_GUARD_REQUEST"
    assert "send" in error.details()
    assert not house.guard.calls


@pytest.mark.parametrize("script_head", [[], [text_chunk("a")]], ids=["before the first token", "in the stream"])
async def test_a_client_that_cancels_closes_the_guards_generator(house, script_head):
    house.guard.script = [*script_head, house.guard.WAIT]
    call = house.guarding.Generate(pb.GenerateRequest(prompt="x"))
    reading = asyncio.create_task(_drain(call))
    await asyncio.wait_for(house.guard.waiting.wait(), 5)
    assert not house.guard.closed.is_set()
    call.cancel()
    await asyncio.wait_for(house.guard.closed.wait(), 5)
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_a_client_that_stops_reading_and_cancels_closes_it_too(house):
    house.guard.script = [text_chunk("x" * 65_536)] * 1000  # far more than flow control lets through
    call = house.guarding.Generate(pb.GenerateRequest(prompt="x"))
    await call.read()
    await asyncio.sleep(0.2)
    assert not house.guard.closed.is_set(), "the server should be waiting for the reader"
    call.cancel()
    await asyncio.wait_for(house.guard.closed.wait(), 5)


async def test_clients_that_leave_in_mid_write_are_no_defects(house, caplog):
    house.guard.script = [text_chunk("x" * 20_000)] * 200
    for wait in range(30):
        house.guard.closed.clear()
        call = house.guarding.Generate(pb.GenerateRequest(prompt="x"))
        await call.read()
        await asyncio.sleep(wait / 5000)
        call.cancel()
        await asyncio.wait_for(house.guard.closed.wait(), 5)
    assert [record for record in caplog.records if record.name.startswith("monitor")] == []


@pytest.mark.parametrize("method", ["check", "generate"])
async def test_a_deadline_closes_the_guards_work(house, failure, method):
    house.guard.script = [house.guard.WAIT]
    if method == "check":
        call = house.guarding.Check(pb.CheckRequest(messages=TURNS), timeout=0.6)
    else:
        call = house.guarding.Generate(pb.GenerateRequest(prompt="x"), timeout=0.6)
    error = await failure(call)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(house.guard.closed.wait(), 5)


async def _drain(call):
    async for _ in call:
        pass
