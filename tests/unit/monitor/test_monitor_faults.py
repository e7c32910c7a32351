"""Fault x on_unscored x streaming: what cannot be scored is never called safe."""

import asyncio
import socket

import openai
import pytest
from monitor_house import chat, eventually, finish_of, house, metric, silence, stream_chat, text_of
from stand_in import Script

from monitor.frames import Hello, encode_frame

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def answer(parts, streamed: bool, policy: str):
    """Text, finish reason and guard object; status and error code if it was refused."""
    try:
        if streamed:
            chunks = await stream_chat(parts, guard={"policy": policy})
            return text_of(chunks), finish_of(chunks), chunks[-1].guard
        done = await chat(parts, guard={"policy": policy})
        return done.choices[0].message.content, done.choices[0].finish_reason, done.guard
    except openai.APIStatusError as error:
        body = error.response.json()
        return error.response.status_code, body["error"]["code"], body.get("guard")


@pytest.mark.parametrize("streamed", [False, True])
async def test_taps_silent_from_the_start(served, streamed):
    await silence(served)
    status, code, guard = await answer(served, streamed, "standard")
    assert (status, code, guard["status"]) == (503, "guard_unscored", "unscored")
    assert guard["unscored"] == {"taps_silent": 0}
    assert served.engine.requests == []
    text, finish, guard = await answer(served, streamed, "open")
    assert (text, finish, guard["status"]) == ("one two three four ", "stop", "unscored")
    assert "taps_silent" in guard["unscored"]
    assert metric(served, "plumbline_unscored_total", reason="taps_silent", fail_mode="block") == 1
    assert metric(served, "plumbline_unscored_total", reason="taps_silent", fail_mode="allow") == 1
    assert metric(served, "plumbline_taps_alive") == 0
    async with served.http.get("/readyz") as response:
        assert (response.status, (await response.json())["taps"]) == (503, "not ready")


@pytest.mark.frames_lost
@pytest.mark.parametrize("policy", ["standard", "live"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_frames_missing_from_some_step_on_are_blocked(served, streamed, policy):
    served.engine.script = Script(lose_from=3)
    first, second, guard = await answer(served, streamed, policy)
    assert guard["status"] == "unscored"
    assert list(guard["unscored"]) == ["frame_timeout"]
    if streamed:  # positions 0..5 were scored: two response tokens, and one more in live release
        assert first == ("one two " if policy == "standard" else "one two three ")
        assert second == "content_filter"
    else:
        assert (first, second) == (503, "guard_unscored")


@pytest.mark.frames_lost
@pytest.mark.parametrize("streamed", [False, True])
async def test_frames_missing_are_let_through_and_counted_where_the_policy_allows(served, streamed):
    served.engine.script = Script(lose_from=3)
    text, finish, guard = await answer(served, streamed, "open")
    assert (text, finish, guard["status"]) == ("one two three four ", "stop", "unscored")
    assert guard["action"] == "allow"
    assert metric(served, "plumbline_unscored_total", reason="frame_timeout", fail_mode="allow") == 1


@pytest.mark.frames_lost
@pytest.mark.parametrize("streamed", [False, True])
async def test_all_frames_missing(served, streamed):
    served.engine.script = Script(lose_from=0)
    assert (await answer(served, streamed, "standard"))[:2] == (503, "guard_unscored")
    assert (await answer(served, streamed, "open"))[:2] == ("one two three four ", "stop")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_lost_frame_is_healed_by_the_next(served, streamed):
    served.engine.script = Script(lose=frozenset({2}))
    text, finish, guard = await answer(served, streamed, "standard")
    assert (text, finish, guard["status"]) == ("one two three four ", "stop", "passed")
    assert guard["unscored"] == {"frame_timeout": 1}  # its token scores are gone, the verdict holds
    assert guard["coverage"]["tokens_scored"] == guard["coverage"]["tokens_seen"] - 1
    assert metric(served, "plumbline_frames_dropped_total", reason="lost") == 1


@pytest.mark.frames_lost
async def test_a_lost_frame_with_a_trip_still_trips(served):
    served.engine.script = Script(scores={(6, "deception"): 5.0}, lose=frozenset({3}))
    chunks = await stream_chat(served)
    assert (text_of(chunks), finish_of(chunks)) == ("one two ", "content_filter")
    assert chunks[-1].guard["status"] == "tripped"  # the engine named the rule
    assert chunks[-1].guard["detections"][1]["position"] is None
    done = await chat(served)
    assert (done.choices[0].message.content, done.guard["status"]) == ("one two ", "tripped")


@pytest.mark.parametrize(("policy", "text", "finish"), [("standard", "one ", "content_filter"), ("open", None, "stop")])
async def test_engine_restart_in_the_middle_of_a_stream(served, policy, text, finish):
    served.engine.script = Script(new_epoch_at=2, pace=0.01)
    chunks = await stream_chat(served, guard={"policy": policy})
    assert text_of(chunks) == (text or "one two three four ")
    assert finish_of(chunks) == finish
    assert chunks[-1].guard["status"] == "unscored"
    assert "engine_restart" in chunks[-1].guard["unscored"]


async def test_nan_rows_are_unscored(served):
    served.engine.script = Script(nan=frozenset({6}))
    assert (await answer(served, False, "standard"))[:2] == (503, "guard_unscored")
    text, finish, guard = await answer(served, True, "standard")
    assert (text, finish, guard["unscored"]) == ("one two ", "content_filter", {"nan": 1})
    text, finish, guard = await answer(served, True, "open")
    assert (text, finish, guard["status"]) == ("one two three four ", "stop", "unscored")
    served.engine.script = Script(nan=frozenset({0}))
    assert (await answer(served, True, "standard"))[:2] == (503, "guard_unscored")


async def test_a_stop_strings_last_token_without_a_score(served):
    served.engine.script = Script(finish="string")
    text, finish, guard = await answer(served, True, "standard")
    assert (text, finish, guard["unscored"]) == ("one two three ", "content_filter", {"final": 1})
    text, finish, guard = await answer(served, True, "open")
    assert (text, finish, guard["status"]) == ("one two three four ", "stop", "unscored")
    served.engine.script = Script(finish="string", final_scored=True)
    text, finish, guard = await answer(served, True, "standard")
    assert (text, finish, guard["status"]) == ("one two three four ", "stop", "passed")


@pytest.mark.parametrize("policy", ["standard", "open"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_engine_down_is_502_whatever_the_policy_says(tmp_path, policy_file, policy, streamed):
    async with house(tmp_path, policy_file) as parts:
        await parts.engine.stop_http()
        with socket.socket() as nobody:  # keeps the port: a server of another test must not be found there
            nobody.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            nobody.bind(("127.0.0.1", int(parts.engine.url.rpartition(":")[2])))
            assert await answer(parts, streamed, policy) == (502, "engine_unavailable", None)
        assert metric(parts, "plumbline_requests_refused_total", code="engine_unavailable") == 1


@pytest.mark.frames_lost
async def test_a_connection_that_breaks_in_the_middle_of_a_stream(served):
    served.engine.script = Script(break_at=3, pace=0.02)
    with served.monitor.recorder.subscribe_verdicts() as verdicts:
        with pytest.raises(openai.APIError, match="engine"):
            await stream_chat(served)
        assert (await anext(verdicts)).n_completion > 0


async def test_the_engines_own_refusals_are_passed_on_unchanged(served):
    refusal = {"error": {"message": "max_tokens is too large", "type": "BadRequestError", "param": None, "code": 400}}
    served.engine.script = Script(refuse=(400, refusal))
    for streamed in (False, True):
        body = {"messages": [], "stream": streamed}
        async with served.http.post("/v1/chat/completions", json=body) as response:
            assert (response.status, await response.json()) == (400, refusal)
    served.engine.script = Script(refuse=(500, refusal))
    async with served.http.post("/v1/chat/completions", json={"messages": []}) as response:
        assert response.status == 502


@pytest.mark.frames_lost
async def test_a_slow_engine_is_not_an_unscored_one(served):
    """Frames later than frame_timeout are waited for as long as the engine has not gone on."""
    served.engine.script = Script(pace=0.4, tokens=("one ", "two "))
    chunks = await stream_chat(served)
    assert (text_of(chunks), chunks[-1].guard["status"]) == ("one two ", "passed")


async def test_taps_that_fall_silent_in_the_middle(served):
    served.engine.script = Script(hang_at=2)
    request = asyncio.create_task(answer(served, True, "standard"))
    await eventually(lambda: served.engine.plans)
    await silence(served)
    text, finish, guard = await request
    assert (text, finish) == ("one ", "content_filter")
    assert "taps_silent" in guard["unscored"]
    await eventually(lambda: served.engine.aborted)


async def test_another_bundle_counts_as_silent_and_is_reported(served, caplog):
    hello = Hello("other", 0, "f" * 64, served.engine.probes, "0.32.0", "ok")
    await served.engine.send(encode_frame(hello))
    await eventually(lambda: not served.monitor.receiver.taps_alive)
    assert "ffffffffffff" in caplog.text
    assert metric(served, "plumbline_frames_dropped_total", reason="foreign_bundle") >= 1


async def test_rubbish_on_the_frame_channel_is_counted_and_skipped(served):
    for data in (b"", b"\xff\x00", b"\x93\x01\x02\x03"):
        await served.engine.send(data)
    await eventually(lambda: metric(served, "plumbline_frames_dropped_total", reason="undecodable") == 3)
    assert (await chat(served)).guard["status"] == "passed"


@pytest.mark.frames_lost
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("policy", ["standard", "live"])
async def test_nothing_leaks_at_random_trip_positions(served, policy, seed):
    """Random trip, frame delay, network chunking, coalesced chunks and lost frames."""
    engine, rng = served.engine, served.engine.random
    rng.seed(seed)
    engine.chopped = True
    tokens = tuple(f"t{i} " for i in range(12))
    for _ in range(8):
        trip = rng.randrange(4, 16)
        engine.script = Script(
            tokens=tokens,
            finish="length",
            scores={(trip, "deception"): 9.0},
            delay=rng.choice([0.0, 0.02]),
            lose=frozenset({rng.randrange(1, 12)}) if rng.random() < 0.3 else frozenset(),
            coalesce=rng.choice([1, 1, 3]),
        )
        chunks = await stream_chat(served, guard={"policy": policy})
        released = len(text_of(chunks).split())
        allowed = trip - 4 + (1 if policy == "live" else 0)
        assert released <= allowed, (trip, engine.script)
        if not (policy == "live" and trip == 15):  # never fed forward without hold
            assert finish_of(chunks) == "content_filter"
