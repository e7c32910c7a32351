"""Engine and monitor as one service, with a stand-in for the engine's process."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest
from monitor_samples import DIGEST, MANIFEST

from monitor import supervise as module
from monitor.config import MonitorSettings
from monitor.engine_process import data_parallel_ranks, engine_command, engine_environment
from monitor.errors import ConfigError, EngineExitedError
from monitor.supervise import EngineOptions, beside, supervise

HERE = Path(__file__).parent
UNUSUAL = f"61.{os.getpid()}"
ENGINE = """
import asyncio, os, subprocess, sys
sys.path.insert(0, {here!r})
from monitor_samples import DIGEST, PROBES
from stand_in import StandIn

async def main():
    subprocess.Popen(["sleep", "{unusual}"])  # a grandchild, as vLLM has
    print("loading", flush=True)
    engine = StandIn(os.environ["PLUMBLINE_FRAMES"], DIGEST, bytes.fromhex(os.environ["PLUMBLINE_PLAN_KEY"]), PROBES)
    await engine.start({port})
    await asyncio.sleep({lives})

asyncio.run(main())
sys.exit(7)
"""


@pytest.fixture
def fake(monkeypatch):
    """Replaces vLLM by the stand-in; returns how to set how long it lives."""
    life = {"lives": 60}

    def command(_model, port, _names, _extra):
        return [sys.executable, "-c", ENGINE.format(here=str(HERE), port=port, unusual=UNUSUAL, **life)]

    bundle = SimpleNamespace(manifest=MANIFEST, digest=DIGEST, path=HERE)
    monkeypatch.setattr(module, "engine_command", command)
    monkeypatch.setattr(module, "read_bundle", lambda _path, **_: bundle)
    monkeypatch.setattr(module, "resolve_model", Path)
    monkeypatch.setattr(module, "check_model", lambda _bundle, _model: None)
    return life


def options(tmp_path):
    return EngineOptions(model="m", port=0, arguments=("--max-model-len 64",), names=(), log=tmp_path / "engine.log")


@asynccontextmanager
async def started(tmp_path, policy_file, capsys):
    settings = MonitorSettings(port=0, grpc_port=0, drain_timeout=1)
    run = asyncio.create_task(supervise(options(tmp_path), HERE, policy_file, settings, verbose=False))
    said = ""
    async with asyncio.timeout(20):
        while "/metrics" not in said and not run.done():
            said += capsys.readouterr().err
            await asyncio.sleep(0.05)
    url = said.split("ready")[1].split()[0].removesuffix("/v1") if "ready" in said else ""
    yield run, url


def group_is_gone():
    """Whether the engine's grandchild, with its unusual argument, has ended too."""
    done = subprocess.run(["ps", "-eo", "args"], check=True, capture_output=True, text=True)
    return f"sleep {UNUSUAL}" not in done.stdout


async def test_one_command_serves_and_a_signal_ends_all(fake, tmp_path, policy_file, capsys):
    async with started(tmp_path, policy_file, capsys) as (run, url), aiohttp.ClientSession() as http:
        async with http.post(f"{url}/v1/chat/completions", json={"messages": []}) as response:
            assert (await response.json())["guard"]["status"] == "passed"
        async with http.get(f"{url}/readyz") as response:
            assert response.status == 200
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(run, 15)
    assert group_is_gone()
    assert "loading" in (tmp_path / "engine.log").read_text()


async def test_an_engine_that_ends_stops_all_with_its_reason(fake, tmp_path, policy_file, capsys):
    fake["lives"] = 1.0
    async with started(tmp_path, policy_file, capsys) as (run, _):
        with pytest.raises(EngineExitedError, match="status 7") as caught:
            await asyncio.wait_for(run, 15)
    assert "loading" in str(caught.value)
    assert group_is_gone()


async def test_an_engine_that_never_starts_is_told_with_its_log(fake, tmp_path, policy_file, capsys):
    fake["lives"] = "1/0"
    async with started(tmp_path, policy_file, capsys) as (run, _):
        with pytest.raises(EngineExitedError, match="ZeroDivisionError: division by zero"):
            await asyncio.wait_for(run, 15)


async def test_bad_policies_are_told_before_the_engine_starts(fake, tmp_path):
    settings = MonitorSettings(port=0, grpc_port=0)
    with pytest.raises(ConfigError, match="nothing"):
        await supervise(options(tmp_path), HERE, tmp_path / "nothing.yaml", settings, verbose=False)


async def test_the_sidecar_refuses_to_start_without_a_key(fake, policy_file):
    with pytest.raises(ConfigError, match="PLUMBLINE_PLAN_KEY"):
        await beside(HERE, policy_file, MonitorSettings(port=0, grpc_port=0))


def test_the_plugin_cannot_be_left_out_of_the_environment():
    made = engine_environment({"VLLM_PLUGINS": "other", "HOME": "/h"}, "/b", "ipc://x", "ab")
    assert made["VLLM_PLUGINS"] == "other,plumbline"
    assert made["HOME"] == "/h"
    assert made["PLUMBLINE_BUNDLE"] == "/b"
    assert engine_environment({"VLLM_PLUGINS": ""}, "/b", "x", "k")["VLLM_PLUGINS"] == "plumbline"
    assert "VLLM_PLUGINS" not in engine_environment({}, "/b", "x", "k")


@pytest.mark.parametrize(
    ("arguments", "ranks"),
    [
        (["--data-parallel-size", "2", "--enforce-eager"], 2),
        (["--data_parallel_size=3"], 3),
        (["--dtype", "float32", "-dp", "4"], 4),
        (["--data-parallel-size-local", "2"], None),
        (["--enforce-eager"], None),
    ],
)
def test_the_engine_is_told_how_many_ranks_it_has(arguments, ranks):
    assert data_parallel_ranks(arguments) == ranks


async def test_the_engine_gets_what_the_options_say(fake, tmp_path, policy_file, capsys, monkeypatch):
    """Seen by a stand-in that ends at once and tells its environment."""
    telling = (
        "import os; raise SystemExit('TestError: ' + repr(sorted(v for v in os.environ.items() if 'PLUMB' in v[0])))"
    )
    monkeypatch.setattr(module, "engine_command", lambda *_: [sys.executable, "-c", telling])
    given = replace(options(tmp_path), allow_untested=True, arguments=("--data-parallel-size 2",))
    settings = MonitorSettings(port=0, grpc_port=0, directions=tmp_path)
    with pytest.raises(EngineExitedError) as caught:
        await supervise(given, HERE, policy_file, settings, verbose=False)
    for name, value in (("ALLOW_UNTESTED", "1"), ("DIRECTIONS", str(tmp_path)), ("RANKS", "2"), ("BUNDLE", str(HERE))):
        assert f"('PLUMBLINE_{name}', '{value}')" in str(caught.value)


def test_the_engine_listens_on_the_loopback_interface_only():
    command = engine_command("/m", 1234, ("organism",), ("--max-model-len", "64"))
    assert "vllm" in command[2] and "/m" in command
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[-2:] == ["--max-model-len", "64"]
