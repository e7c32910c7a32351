from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

import msgspec
import pytest
from rpc_fakes import DETECTION, make_error, make_update, make_verdict, passed_verdict
from typer.testing import CliRunner

from monitor.cli import app
from monitor.errors import InvalidRequestError, UnscoredError
from monitor.types import Action, Mode, Status, Verdict

PATIENCE = 60
"""Seconds to wait for another process; only a failure takes so long."""


async def plumbline(*words, **more):
    """Run the command in a thread of its own; the server needs this one."""
    env = {"COLUMNS": "160", "TERM": "dumb"}
    return await asyncio.to_thread(CliRunner().invoke, app, [*words], env=env, **more)


async def start_watch(house, *words):
    """Run `watch` as a process."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from monitor.cli import app; app()", "watch", "--address", house.address, *words,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("verdict", "exit_code", "word"),
    [
        (passed_verdict(), 0, "PASSED"),
        (make_verdict(), 1, "TRIPPED"),
        (make_verdict(Status.UNSCORED), 3, "UNSCORED"),
    ],
)
async def test_check_tells_the_three_outcomes_apart(house, verdict, exit_code, word):
    house.guard.script = [verdict]
    result = await plumbline("check", "hello", "--address", house.address)
    assert result.exit_code == exit_code, result.output
    assert word in result.output
    assert house.guard.calls[0][0] == [{"role": "user", "content": "hello"}]


async def test_check_shows_every_detection_against_its_threshold(house):
    calm = msgspec.structs.replace(
        DETECTION, rule="lies", probe="deception", score=None, probability=None, tripped=False, position=None
    )
    house.guard.script = [make_verdict(detections=(DETECTION, calm), mode=Mode.OBSERVE, enforced=False)]
    result = await plumbline("check", "hello", "--address", house.address)
    head, facts, reasons, columns, harm, lies = result.stdout.strip().splitlines()
    assert "stop" in head
    assert "not carried out" in head
    assert "default" in facts
    assert "8 of 9 tokens scored" in facts
    assert "nan (1)" in reasons
    assert columns.split() == ["rule", "probe", "probability", "score", "threshold", "tripped"]
    assert harm.split() == ["harm", "harmful_intent", "0.970", "+3.25", "+1.50", "yes", "at", "token", "7"]
    assert lies.split() == ["lies", "deception", "unscored", "unscored", "+1.50", "-"]


async def test_check_sends_system_policy_and_model_and_reads_standard_input(house):
    house.guard.script = [passed_verdict()]
    words = ["--system", "be careful", "--policy", "strict", "--model", "m", "--address", house.address]
    result = await plumbline("check", "-", *words, input="from a pipe")
    assert result.exit_code == 0, result.output
    messages, options, model = house.guard.calls[0]
    assert messages == [{"role": "system", "content": "be careful"}, {"role": "user", "content": "from a pipe"}]
    assert (options.policy, model) == ("strict", "m")


async def test_check_prints_the_verdict_as_json(house):
    house.guard.script = [make_verdict()]
    result = await plumbline("check", "hello", "--json", "--address", house.address)
    assert result.exit_code == 1
    assert msgspec.json.decode(result.stdout, type=Verdict) == make_verdict()


@pytest.mark.parametrize("text", ["[bold]x[/bold]", "[/]", "ünïcode 漢字"])
async def test_names_are_never_read_as_markup(house, text):
    house.guard.script = [make_verdict(policy=text, detections=(msgspec.structs.replace(DETECTION, rule=text),))]
    result = await plumbline("check", text, "--address", house.address)
    assert result.exit_code == 1, result.output
    assert result.stdout.count(text) == 2


@pytest.mark.parametrize("error", [InvalidRequestError, UnscoredError, ZeroDivisionError])
async def test_check_explains_an_error(house, error):
    house.guard.script = [ZeroDivisionError()] if error is ZeroDivisionError else [make_error(error)]
    result = await plumbline("check", "hello", "--address", house.address)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert ("internal error" if error is ZeroDivisionError else "what was wanted") in result.stderr
    assert "Traceback" not in result.output


async def test_check_says_how_to_start_a_server_that_is_not_there(house):
    await house.server.stop(0)
    result = await plumbline("check", "hello", "--address", house.address)
    assert result.exit_code == 2
    assert f"no Plumbline server at {house.address}" in result.stderr
    assert "plumbline serve --model" in result.stderr


async def test_check_gives_up_after_its_timeout(house):
    house.guard.script = [house.guard.WAIT]
    result = await plumbline("check", "hello", "--address", house.address, "--timeout", "0.6")
    assert result.exit_code == 2
    assert "no answer" in result.stderr
    await asyncio.wait_for(house.guard.closed.wait(), PATIENCE)


async def test_watch_prints_a_line_for_each_verdict(house):
    running = asyncio.create_task(plumbline("watch", "--tripped", "--limit", "2", "--address", house.address))
    await _watched(house.recorder.verdicts)
    house.recorder.verdicts.publish(passed_verdict())
    house.recorder.verdicts.publish(make_verdict())
    house.recorder.verdicts.publish(make_verdict(action=Action.FLAG, choice=1, enforced=False))
    result = await asyncio.wait_for(running, PATIENCE)
    first, second = result.stdout.strip().splitlines()
    assert "req-1#0  tripped   stop  policy default  harmful_intent 0.970@7  unscored: nan (1)" in first
    assert "req-1#1  tripped   flag (observed)" in second
    assert f"watching {house.address}" in result.stderr


async def test_watch_prints_the_highest_score_of_each_step(house):
    words = ["--scores", "--request", "req-1", "--limit", "1", "--address", house.address]
    running = asyncio.create_task(plumbline("watch", *words))
    await _watched(house.receiver.scores)
    house.receiver.scores.publish(make_update(request_id="another"))
    house.receiver.scores.publish(make_update(3, ended=True))
    result = await asyncio.wait_for(running, PATIENCE)
    words = " ".join(result.stdout.split())
    assert words == "req-1#0 prompt token 0..2 harmful_intent +1.00 deception unscored lies tripped at 4 end"


async def test_watch_prints_json_lines(house):
    running = asyncio.create_task(plumbline("watch", "--json", "--limit", "1", "--address", house.address))
    await _watched(house.recorder.verdicts)
    house.recorder.verdicts.publish(make_verdict(policy=":bomb: [red]" + "x" * 300))
    result = await asyncio.wait_for(running, PATIENCE)
    event = json.loads(result.stdout)
    assert event["verdict"]["status"] == "STATUS_TRIPPED"
    assert event["verdict"]["policy"].startswith(":bomb: [red]x")
    assert event["dropped"] == "0"


async def test_watch_survives_a_restart_of_the_server_and_ends_on_ctrl_c(house):
    port = house.server.port
    process = await start_watch(house)
    try:
        await _watched(house.recorder.verdicts)
        assert b"watching" in await asyncio.wait_for(process.stderr.readline(), PATIENCE)
        await house.server.stop(grace=10)
        said = await asyncio.wait_for(process.stderr.readline(), PATIENCE)
        assert b"shutting down" in said
        assert b"trying again in" in said
        await house.channel.close()
        await house.start(port=port)
        await _watched(house.recorder.verdicts)
        house.recorder.verdicts.publish(make_verdict(request_id="after"))
        assert b"after#0" in await asyncio.wait_for(process.stdout.readline(), PATIENCE)
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
        rest = (await process.stderr.read()).decode()
        assert rest.strip().endswith("stopped")
        assert "Traceback" not in rest
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_watch_waits_for_a_server_that_is_not_there_yet(house):
    port = house.server.port
    await house.stop()
    process = await start_watch(house, "--limit", "1")
    try:
        said = (await asyncio.wait_for(process.stderr.readline(), PATIENCE)).decode()
        assert "no Plumbline server" in said
        assert "plumbline serve" in said
        await house.start(port=port)
        await _watched(house.recorder.verdicts)
        house.recorder.verdicts.publish(make_verdict())
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    await process.communicate()


async def _watched(source):
    """Wait until somebody has subscribed."""
    async with asyncio.timeout(PATIENCE):
        while not source:
            await asyncio.sleep(0.02)
