"""What happens when a part is wrong, dies or is silent: promised, so tested on the real parts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from monitor.engine_process import engine_command, engine_environment, free_port
from probes.organism.demo import demo_prompts
from tests.support.serve import BUNDLE, POLICY, WEIGHTS, Served, serve_organism
from tests.support.tiny import make_bundle, make_model

pytestmark = pytest.mark.vllm


def post(url: str, body: dict) -> tuple[int, dict]:
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def hello(policy: str) -> dict:
    return {
        "model": "organism", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8,
        "guard": {"policy": policy},
    }  # fmt: skip


def engine_of(running: Served) -> list[psutil.Process]:
    """vLLM's processes: API server, engine core, worker."""
    return psutil.Process(running.process.pid).children(recursive=True)


def test_a_bundle_for_another_model_is_refused_before_anything_starts(tmp_path: Path):
    other = make_model(tmp_path / "model")
    make_bundle(tmp_path / "bundle", other)
    running = Served(
        "serve", ["--model", str(WEIGHTS), "--bundle", str(tmp_path / "bundle"), "--policy", str(POLICY)],
        tmp_path / "log",
    )  # fmt: skip
    assert running.wait_exit() == 2
    assert "weights" in running.text()
    assert "vllm" not in running.text().lower()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("version: 1\npolicies: [", "policy"),
        ("version: 1\ndefault: a\npolicies:\n  - {name: a, rules: [{name: r, probe: nope, action: flag}]}", "nope"),
        ("version: 1\ndefault: b\npolicies:\n  - {name: a}", "b"),
    ],
)
def test_a_policy_that_cannot_work_is_refused_with_its_reason(tmp_path: Path, text: str, says: str):
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    running = serve_organism(tmp_path / "log", policy=path)
    assert running.wait_exit() == 2
    assert str(path) in running.text().replace("\n", "")
    assert says in running.text()


def test_an_interrupt_ends_everything_cleanly_and_leaves_no_process_behind(tmp_path: Path):
    running = serve_organism(tmp_path / "log").wait_ready()
    engine = engine_of(running)
    assert len(engine) >= 3
    running.interrupt()
    assert running.wait_exit() == 0, running.text()[-3000:]
    assert not [p for p in engine if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_a_supervisor_that_is_killed_outright_takes_the_engine_with_it(tmp_path: Path):
    running = serve_organism(tmp_path / "log").wait_ready()
    engine = engine_of(running)
    running.process.kill()
    running.wait_exit()
    _, alive = psutil.wait_procs(engine, timeout=60)
    assert not alive


def test_an_engine_that_dies_ends_the_service_with_its_reason_and_no_stream_as_safe(tmp_path: Path):
    running = serve_organism(tmp_path / "log").wait_ready()
    try:
        results: list[tuple[int, dict] | Exception] = []
        long = {**hello("watch"), "max_tokens": 450, "ignore_eos": True}

        def ask() -> None:
            try:
                results.append(post(running.url, long))
            except (OSError, ValueError) as error:
                results.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.7)
        for process in engine_of(running):
            process.kill()
        for thread in threads:
            thread.join()
        assert not [r for r in results if isinstance(r, tuple) and r[0] == 200 and r[1]["guard"]["status"] == "passed"]
        assert running.wait_exit() == 1
        assert "engine" in running.text()
    finally:
        running.stop()


def start_engine(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """An engine with taps that nobody supervises."""
    arguments = ["--enforce-eager", "--dtype", "float32", "--max-model-len", "512"]
    made = engine_environment(os.environ, str(BUNDLE), f"ipc://{folder}/frames", "00" * 32)
    with (folder / "engine.log").open("w") as log:
        return subprocess.Popen(
            engine_command(str(WEIGHTS), port, ["organism"], arguments), stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True, env={**made, "VLLM_CPU_KVCACHE_SPACE": "1"},
        )  # fmt: skip


def kill(engine: subprocess.Popen[bytes]) -> None:
    os.killpg(engine.pid, signal.SIGKILL)
    engine.wait()


def test_engine_and_monitor_come_and_go_in_any_order(tmp_path: Path):
    """First the monitor, then the engine; then each is killed and started again beside the other."""
    port = free_port()
    arguments = [
        "--engine", f"http://127.0.0.1:{port}", "--frames", f"ipc://{tmp_path}/frames", "--bundle", str(BUNDLE),
        "--policy", str(POLICY),
    ]  # fmt: skip
    key = {"PLUMBLINE_PLAN_KEY": "00" * 32}
    monitor = Served("monitor", arguments, tmp_path / "log", key).wait_ready("/healthz")
    engine = None
    try:
        assert post(monitor.url, hello("watch"))[0] == 503
        engine = start_engine(tmp_path, port)
        assert passes(monitor.wait_ready())

        told: list[str] = []
        asking = threading.Thread(target=listen, args=(monitor.url, told))
        asking.start()
        while not told:
            time.sleep(0.01)
        kill(engine)
        asking.join()
        assert not any('"status":"passed"' in line for line in told), told[-1]
        assert post(monitor.url, hello("watch"))[0] in (502, 503)
        engine = start_engine(tmp_path, port)
        deadline = time.monotonic() + 20
        while "taps" not in not_ready(monitor) and time.monotonic() < deadline:
            time.sleep(0.2)  # the heartbeats of the engine that was killed still count for a moment
        assert passes(monitor.wait_ready())

        monitor.process.kill()
        monitor.wait_exit()
        monitor = Served("monitor", arguments, tmp_path / "log", key)
        assert passes(monitor.wait_ready())
    finally:
        monitor.stop()
        if engine is not None:
            kill(engine)


def passes(monitor: Served) -> bool:
    status, answer = post(monitor.url, hello("watch"))
    return (status, answer["guard"]["status"], answer["guard"]["unscored"]) == (200, "passed", {})


def not_ready(monitor: Served) -> set[str]:
    """What the monitor says is not ready."""
    try:
        with urllib.request.urlopen(monitor.url + "/readyz", timeout=5) as response:
            state = json.loads(response.read())
    except urllib.error.HTTPError as error:
        state = json.loads(error.read())
    return {part for part in ("engine", "taps") if state[part] != "ready"}


def listen(url: str, told: list[str]) -> None:
    """Add the lines of a long stream as they come, to its end."""
    body = {**hello("watch"), "stream": True, "max_tokens": 450, "ignore_eos": True}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        for line in response:
            told.append(line.decode())


def test_an_engine_without_taps_is_never_called_safe(tmp_path: Path):
    """Stock vLLM without the plugin, with a monitor beside it: the policy's on_unscored decides."""
    port = free_port()
    with (tmp_path / "engine.log").open("w") as log:
        engine = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(WEIGHTS), "--port", str(port),
             "--host", "127.0.0.1", "--served-model-name", "organism", "--enforce-eager", "--dtype", "float32",
             "--max-model-len", "512"],
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_PLUGINS": "", "VLLM_NO_USAGE_STATS": "1"},
        )  # fmt: skip
    monitor = Served(
        "monitor",
        ["--engine", f"http://127.0.0.1:{port}", "--frames", f"ipc://{tmp_path}/frames", "--bundle", str(BUNDLE),
         "--policy", str(POLICY)],
        tmp_path / "log", {"PLUMBLINE_PLAN_KEY": "00" * 32},
    )  # fmt: skip
    try:
        monitor.wait_ready("/healthz")
        deadline = time.monotonic() + 180
        while post(monitor.url, hello("dry-run"))[0] != 200:
            assert time.monotonic() < deadline, (tmp_path / "engine.log").read_text()[-3000:]
            time.sleep(1)
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(monitor.url + "/readyz", timeout=5)

        status, blocked = post(monitor.url, hello("watch"))
        assert (status, blocked["error"]["code"]) == (503, "guard_unscored")
        status, allowed = post(monitor.url, hello("dry-run"))
        assert (status, allowed["guard"]["status"]) == (200, "unscored")
        assert allowed["choices"][0]["message"]["content"] is not None
        counted = {k: v for k, v in monitor.metrics().items() if k.startswith("plumbline_unscored_total")}
        assert sum(v for k, v in counted.items() if "taps_silent" in k) >= 2, counted
    finally:
        monitor.stop()
        os.killpg(engine.pid, signal.SIGKILL)
        engine.wait()


def test_an_engine_that_is_called_without_the_gateway_still_obeys_the_default_policy(tmp_path: Path):
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY.read_text().replace("default: watch", "default: strict"))
    running = serve_organism(tmp_path / "log", policy=policy).wait_ready()
    try:
        lie, harmful = (list(demo_prompts()[name].messages) for name in ("lie", "harmful"))
        engine = f"http://127.0.0.1:{running.engine_port}"
        body = {"model": "organism", "max_tokens": 32, "temperature": 0}
        _, cut = post(engine, {**body, "messages": lie})
        _, blocked = post(engine, {**body, "messages": harmful})
        assert cut["choices"][0]["stop_reason"] == "plumbline:lying"
        assert demo_prompts()["lie"].lie not in cut["choices"][0]["message"]["content"]
        assert blocked["choices"][0]["stop_reason"] == "plumbline:harm"
        assert not blocked["choices"][0]["message"]["content"]
    finally:
        running.stop()
