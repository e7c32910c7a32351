from __future__ import annotations

import asyncio
import time

import grpc
import pytest
from rpc_fakes import make_update, make_verdict, passed_verdict, token

from monitor.fanout import Fanout
from monitor.rpc.convert import verdict_from_proto
from monitor.rpc.shutdown import Shutdown
from monitor.rpc.status import error_info
from monitor.v1 import monitor_pb2 as pb


async def watching(call):
    """From here on the server has subscribed."""
    await asyncio.wait_for(call.initial_metadata(), 5)
    return call


async def take(call, n):
    return [await asyncio.wait_for(call.read(), 5) for _ in range(n)]


async def test_verdicts_reach_every_watcher(house):
    calls = [await watching(house.monitoring.WatchVerdicts(pb.WatchVerdictsRequest())) for _ in range(3)]
    verdicts = [make_verdict(request_id=f"req-{i}") for i in range(5)]
    for verdict in verdicts:
        house.recorder.verdicts.publish(verdict)
    for call in calls:
        events = await take(call, 5)
        assert [verdict_from_proto(event.verdict) for event in events] == verdicts
        assert {event.dropped for event in events} == {0}


async def test_verdicts_are_filtered_by_policy_and_outcome(house):
    request = pb.WatchVerdictsRequest(policy="strict", only_tripped=True)
    call = await watching(house.monitoring.WatchVerdicts(request))
    house.recorder.verdicts.publish(make_verdict(policy="default"))
    house.recorder.verdicts.publish(passed_verdict(policy="strict"))
    house.recorder.verdicts.publish(make_verdict(policy="strict", request_id="the one"))
    (event,) = await take(call, 1)
    assert event.verdict.request_id == "the one"


async def test_scores_carry_positions_rules_and_the_end(house):
    call = await watching(house.monitoring.WatchScores(pb.WatchScoresRequest()))
    house.receiver.scores.publish(make_update(2, ended=True, stopped="lies"))
    (event,) = await take(call, 1)
    assert (event.request_id, event.choice, event.prompt_tokens) == ("req-1", 0, 9)
    assert [score.position for score in event.token_scores] == [0, 1]
    assert {entry.probe: entry.HasField("score") for entry in event.token_scores[0].scores} == {
        "harmful_intent": True,
        "deception": False,
    }
    harm, lies = event.rules
    assert (harm.rule, harm.score, harm.HasField("trip_position")) == ("harm", 0.5, False)
    assert (lies.HasField("score"), lies.trip_position) == (False, 4)
    assert (event.tokens_seen, event.tokens_scored, event.stopped_by, event.ended) == (2, 2, "lies", True)


async def test_scores_are_filtered_by_request_and_probe(house):
    request = pb.WatchScoresRequest(request_id="mine", probes=["deception"])
    call = await watching(house.monitoring.WatchScores(request))
    house.receiver.scores.publish(make_update())
    house.receiver.scores.publish(make_update(request_id="mine"))
    (event,) = await take(call, 1)
    assert event.request_id == "mine"
    assert [entry.probe for entry in event.token_scores[0].scores] == ["deception"]


async def test_an_update_without_tokens_still_says_what_it_has_to_say(house):
    call = await watching(house.monitoring.WatchScores(pb.WatchScoresRequest()))
    house.receiver.scores.publish(make_update(0, ended=True))
    (event,) = await take(call, 1)
    assert event.ended
    assert not event.token_scores


async def test_a_long_prompt_comes_in_several_messages_and_ends_once(house):
    call = await watching(house.monitoring.WatchScores(pb.WatchScoresRequest()))
    house.receiver.scores.publish(make_update(token_scores=tuple(token(i) for i in range(1000)), ended=True))
    events = await take(call, 4)
    assert [score.position for event in events for score in event.token_scores] == list(range(1000))
    assert [event.ended for event in events] == [False, False, False, True]
    assert [len(event.rules) for event in events] == [0, 0, 0, 2]


async def test_a_watcher_that_does_not_read_loses_the_oldest_and_is_told_how_many(house):
    call = await watching(house.monitoring.WatchVerdicts(pb.WatchVerdictsRequest()))
    big = make_verdict(revision="x" * 65_536)
    started = time.monotonic()
    for i in range(2000):
        house.recorder.verdicts.publish(make_verdict(request_id=f"req-{i}", revision=big.revision))
        if i % 100 == 0:
            await asyncio.sleep(0.005)
    assert time.monotonic() - started < 10, "publishing must not wait for a watcher"
    house.recorder.verdicts.publish(make_verdict(request_id="newest"))
    seen, last = 0, await call.read()
    while last.verdict.request_id != "newest":
        seen, last = seen + 1, await asyncio.wait_for(call.read(), 5)
    assert last.dropped > 0
    assert last.dropped + seen == 2000, "every event was either delivered or counted"


async def test_a_watcher_that_leaves_is_forgotten(house):
    call = await watching(house.monitoring.WatchVerdicts(pb.WatchVerdictsRequest()))
    assert house.recorder.verdicts
    call.cancel()
    async with asyncio.timeout(5):
        while house.recorder.verdicts:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("source_ends", [False, True], ids=["server stops", "source ends"])
async def test_watchers_end_at_once_with_a_reason_to_come_back(house, failure, source_ends):
    verdicts = await watching(house.monitoring.WatchVerdicts(pb.WatchVerdictsRequest()))
    scores = await watching(house.monitoring.WatchScores(pb.WatchScoresRequest()))
    started = time.monotonic()
    if source_ends:
        house.recorder.verdicts.close()
        house.receiver.scores.close()
    else:
        await house.server.stop(grace=30)
    for call in (verdicts, scores):
        error = await asyncio.wait_for(failure(call), 5)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert error_info(error).reason == "SHUTTING_DOWN"
    assert time.monotonic() - started < 5
    assert not house.recorder.verdicts
    assert not house.receiver.scores


async def test_what_is_queued_is_delivered_before_the_stream_ends(house):
    call = await watching(house.monitoring.WatchVerdicts(pb.WatchVerdictsRequest()))
    for i in range(20):
        house.recorder.verdicts.publish(make_verdict(request_id=f"req-{i}"))
    stopping = asyncio.create_task(house.server.stop(grace=30))
    assert [event.verdict.request_id for event in await take(call, 20)] == [f"req-{i}" for i in range(20)]
    assert await call.code() is grpc.StatusCode.UNAVAILABLE
    await asyncio.wait_for(stopping, 5)


async def test_a_watcher_that_does_not_read_does_not_hold_up_the_shutdown(house):
    call = await watching(house.monitoring.WatchVerdicts(pb.WatchVerdictsRequest()))
    for _ in range(100):
        house.recorder.verdicts.publish(make_verdict(revision="x" * 65_536))
    await asyncio.sleep(0.2)
    started = time.monotonic()
    await house.server.stop(grace=30)
    assert time.monotonic() - started < 5
    assert not house.recorder.verdicts
    call.cancel()


async def test_a_watcher_that_comes_during_the_shutdown_is_sent_home():
    shutdown, source = Shutdown(), Fanout()
    shutdown.begin()
    late = source.subscribe()
    with shutdown.watcher(late):
        assert [item async for item in late] == []
    assert not source
