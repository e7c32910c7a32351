"""A real ``plumbline serve``, or ``plumbline monitor``, as a child process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from monitor.engine_process import free_port

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "probes/organism/weights"
BUNDLE = ROOT / "probes/organism/bundle"
POLICY = ROOT / "monitor/demo/policy.yaml"
BIN = Path(sys.executable).parent


class Served:
    """A running command; its ports and its output."""

    def __init__(self, command: str, arguments: Sequence[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.port, self.grpc_port, self.engine_port = free_port(), free_port(), free_port()
        self.url, self.log = f"http://127.0.0.1:{self.port}", log
        ports = ["--port", str(self.port), "--grpc-port", str(self.grpc_port)]
        if command == "serve":
            ports += ["--engine-port", str(self.engine_port)]
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [str(BIN / "plumbline"), command, *ports, *arguments], stdout=output, stderr=subprocess.STDOUT,
                env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", **(env or {})}, start_new_session=True,
            )  # fmt: skip

    def wait_ready(self, path: str = "/readyz", seconds: float = 240) -> Served:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"it ended with {self.process.returncode}:\n{self.text()[-4000:]}")
            try:
                with urllib.request.urlopen(self.url + path, timeout=5) as response:
                    if response.status == 200:
                        return self
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass
            time.sleep(0.25)
        raise AssertionError(f"not ready in {seconds} s:\n{self.text()[-4000:]}")

    def wait_exit(self, seconds: float = 60) -> int:
        return self.process.wait(timeout=seconds)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.interrupt()
            try:
                self.wait_exit()
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def metrics(self) -> dict[str, float]:
        """Samples by ``name{labels}``."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=5) as response:
            lines = response.read().decode().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


def serve_organism(log: Path, *extra: str, policy: Path = POLICY, eager: bool = True) -> Served:
    arguments = [
        "--model", str(WEIGHTS), "--bundle", str(BUNDLE), "--policy", str(policy), "--served-model-name", "organism",
        "--engine-arg=--dtype float32 --max-model-len 512",
        *(["--engine-arg=--enforce-eager"] if eager else []), *extra,
    ]  # fmt: skip
    return Served("serve", arguments, log)
