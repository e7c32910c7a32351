from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rpc_fakes import FINISHED, make_error, make_verdict, text_chunk, token

from monitor.errors import BlockedError, ConfigError, InvalidRequestError
from monitor.rpc import readiness
from monitor.rpc.server import MAX_MESSAGE_BYTES, start_grpc
from monitor.rpc.status import error_info
from monitor.v1 import guard_pb2, monitor_pb2

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NAMES = ["", "monitor.v1.GuardService", "monitor.v1.MonitorService"]
BUF = Path(sys.executable).parent / "buf"


async def buf_curl(house, path, *options):
    """The real buf, over reflection; exit status, output, standard error."""
    process = await asyncio.create_subprocess_exec(
        BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge", *options, f"http://{house.address}{path}",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 20)
    return process.returncode, out.decode(), err.decode()


async def call_with_buf(house, path, body):
    """Exit status, decoded messages, standard error."""
    status, out, err = await buf_curl(house, path, "--data", json.dumps(body))
    return status, _objects(out), err


def _objects(text):
    decoder, found = json.JSONDecoder(), []
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


async def test_health_follows_the_engine_for_every_service(house, monkeypatch):
    monkeypatch.setattr(readiness, "READY_SECONDS", 0.05)  # from the second look on
    stub = health_pb2_grpc.HealthStub(house.channel)

    async def states():
        return {(await stub.Check(health_pb2.HealthCheckRequest(service=name))).status for name in NAMES}

    async def become(status):
        async with asyncio.timeout(4):
            while await states() != {status}:
                await asyncio.sleep(0.05)

    assert await states() == {SERVING}
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=NAMES[1]))
    assert (await watch.read()).status == SERVING
    house.ready = False
    await become(NOT_SERVING)
    assert (await watch.read()).status == NOT_SERVING
    house.ready = True
    await become(SERVING)
    with pytest.raises(grpc.RpcError) as unknown:
        await stub.Check(health_pb2.HealthCheckRequest(service="monitor.v1.Nothing"))
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_readiness_check_that_fails_means_not_ready(house, caplog):
    def broken():
        raise OSError("no engine")

    server = await start_grpc(house.guard, house.receiver, house.recorder, port=0, ready=broken)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == NOT_SERVING
        assert "no engine" in caplog.text
    finally:
        await server.stop(0)


async def test_health_says_so_before_a_shutdown_and_does_not_hold_it_up(house):
    stub = health_pb2_grpc.HealthStub(house.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == SERVING
    started = time.monotonic()
    await house.server.stop(grace=30)
    assert time.monotonic() - started < 5
    assert (await watch.read()).status == NOT_SERVING


async def test_a_port_in_use_is_refused_with_what_to_do(house):
    with pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1:\d+ .*another"):
        await start_grpc(house.guard, house.receiver, house.recorder, port=house.server.port, ready=lambda: True)


async def test_a_message_over_the_limit_is_refused(house, failure):
    big = guard_pb2.Message(role="user", content="x" * (MAX_MESSAGE_BYTES + 1))
    error = await failure(house.guarding.Check(guard_pb2.CheckRequest(messages=[big])))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not house.guard.calls


async def test_a_running_generation_gets_its_grace_and_is_then_cancelled(house):
    house.guard.script = [text_chunk("a"), house.guard.WAIT]
    call = house.guarding.Generate(guard_pb2.GenerateRequest(prompt="x"))
    await call.read()
    started = time.monotonic()
    await house.server.stop(grace=0.5)
    assert 0.4 < time.monotonic() - started < 3
    await asyncio.wait_for(house.guard.closed.wait(), 5)
    assert await call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


async def test_new_calls_are_refused_during_a_shutdown(house, failure):
    house.guard.script = [text_chunk("a"), house.guard.WAIT]
    running = house.guarding.Generate(guard_pb2.GenerateRequest(prompt="x"))
    await running.read()
    stopping = asyncio.create_task(house.server.stop(grace=10))
    await asyncio.sleep(0.05)
    turns = [guard_pb2.Message(role="user", content="x")]
    for call in (
        house.guarding.Check(guard_pb2.CheckRequest(messages=turns)),
        house.guarding.Generate(guard_pb2.GenerateRequest(prompt="x")),
        house.monitoring.WatchScores(monitor_pb2.WatchScoresRequest()),
    ):
        error = await asyncio.wait_for(failure(call), 5)
        assert error_info(error).reason == "SHUTTING_DOWN"
    assert len(house.guard.calls) == 1
    running.cancel()
    await asyncio.wait_for(stopping, 5)


async def test_stopping_twice_at_once_is_stopping_once(house):
    await asyncio.wait_for(asyncio.gather(*(house.server.stop(grace=0) for _ in range(3))), 5)


async def test_a_generation_that_ends_within_the_grace_is_whole(house):
    house.guard.script = [text_chunk("a"), house.guard.WAIT]
    call = house.guarding.Generate(guard_pb2.GenerateRequest(prompt="x"))
    await call.read()
    stopping = asyncio.create_task(house.server.stop(grace=10))
    await asyncio.sleep(0.05)
    assert not stopping.done()
    call.cancel()  # the client lets go: nothing is left to wait for
    await asyncio.wait_for(stopping, 5)


async def test_reflection_lists_the_services(house):
    status, listed, _ = await buf_curl(house, "", "--list-services")
    assert status == 0
    assert sorted(listed.split()) == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "monitor.v1.GuardService",
        "monitor.v1.MonitorService",
    ]


async def test_reflection_can_be_switched_off(house):
    await house.stop()
    await house.start(reflect=False)
    status, listed, err = await buf_curl(house, "", "--list-services")
    assert status
    assert "monitor.v1" not in listed + err


async def test_buf_curl_checks(house):
    house.guard.script = [make_verdict()]
    body = {"messages": [{"role": "user", "content": "hello"}], "guard": {"policy": "strict", "mode": "MODE_ENFORCE"}}
    status, (answer,), err = await call_with_buf(house, "/monitor.v1.GuardService/Check", body)
    assert (status, err) == (0, "")
    verdict = answer["verdict"]
    assert (verdict["status"], verdict["action"], verdict["requestId"]) == ("STATUS_TRIPPED", "ACTION_STOP", "req-1")
    assert verdict["detections"][0]["probability"] == 0.97
    assert verdict["createTime"] == "2026-09-21T14:13:20.125Z"
    assert house.guard.calls[0][1].policy == "strict"


async def test_buf_curl_generates(house):
    house.guard.script = [text_chunk("good", token(8, 0.5)), text_chunk(" day", finish_reason="stop"), FINISHED]
    status, events, err = await call_with_buf(house, "/monitor.v1.GuardService/Generate", {"prompt": "x"})
    assert (status, err) == (0, "")
    assert events[0]["delta"]["tokenScores"] == [
        {"position": 8, "scores": [{"probe": "harmful_intent", "score": 0.5}, {"probe": "deception"}]}
    ]
    assert "".join(event["delta"].get("text", "") for event in events[:-1]) == "good day"
    assert events[-1]["finished"]["verdicts"][0]["status"] == "STATUS_PASSED"


async def test_buf_curl_sees_a_blocked_prompt_as_an_answer(house):
    house.guard.script = [make_error(BlockedError)]
    status, (event,), _ = await call_with_buf(house, "/monitor.v1.GuardService/Generate", {"prompt": "x"})
    assert status == 0
    assert event["finished"]["verdicts"][0]["status"] == "STATUS_TRIPPED"


async def test_buf_curl_shows_the_details_of_an_error(house):
    house.guard.script = [InvalidRequestError('unknown policy "strcit"; there are: strict')]
    body = {"messages": [{"role": "user", "content": "hello"}]}
    status, _, err = await call_with_buf(house, "/monitor.v1.GuardService/Check", body)
    assert status
    error = json.loads(err)
    assert (error["code"], error["message"]) == ("invalid_argument", 'unknown policy "strcit"; there are: strict')
    (detail,) = error["details"]
    info = error_details_pb2.ErrorInfo.FromString(base64.b64decode(detail["value"] + "=="))
    assert (detail["type"], info.reason) == ("google.rpc.ErrorInfo", "INVALID_GUARD_REQUEST")


async def test_buf_curl_watches_and_asks_for_health(house):
    status, answers, _ = await call_with_buf(house, "/grpc.health.v1.Health/Check", {})
    assert (status, answers) == (0, [{"status": "SERVING"}])

    watching = asyncio.create_task(
        call_with_buf(house, "/monitor.v1.MonitorService/WatchVerdicts", {"onlyTripped": True})
    )
    async with asyncio.timeout(10):
        while not house.recorder.verdicts:
            await asyncio.sleep(0.02)
    house.recorder.verdicts.publish(make_verdict())
    await asyncio.sleep(0.2)
    await house.server.stop(grace=10)
    status, (event,), err = await watching
    assert status
    assert event["verdict"]["policy"] == "default"
    assert json.loads(err)["code"] == "unavailable"


async def test_a_watch_without_a_client_ends_with_the_server(house):
    call = house.monitoring.WatchScores(monitor_pb2.WatchScoresRequest())
    await call.initial_metadata()
    started = time.monotonic()
    await house.server.stop(grace=0)
    assert time.monotonic() - started < 2
