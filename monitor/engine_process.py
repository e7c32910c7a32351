"""vLLM as a child process: started in its own process group, its log followed, and never left behind.

Runs in: the supervising process, one event loop.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import re
import signal
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import pairwise

from monitor.errors import EngineExitedError

STOP_SECONDS = 20.0
_log = logging.getLogger(__name__)
_KEPT_LINES = 2000
_KEPT_END = 20
_KEPT_ERRORS = 8
_ERROR = re.compile(r"((?:\w+\.)*\w*(?:Error|Exception): .*)")
_LAST_LINES = 1.0  # seconds that the end of the log may take after the process has ended
_LOOK_EVERY = 0.1
_MAX_LINE = 2**20
_RANKS = ("--data-parallel-size", "-dp")
_PR_SET_PDEATHSIG = 1


def free_port() -> int:
    """A port of the loopback interface that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def engine_command(model: str, port: int, names: Sequence[str], extra: Sequence[str]) -> list[str]:
    """The command that starts stock vLLM's API server on the loopback interface.

    Not ``vllm serve``: in vLLM's CPU distribution that command cannot find its own version.
    """
    serve = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    listen = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", *names]
    return [*serve, *listen, *extra]


def data_parallel_ranks(arguments: Sequence[str]) -> int | None:
    """How many ranks vLLM's arguments ask for; None if they do not say.

    vLLM tells a rank of a dense model that it is alone, so that only the supervisor can tell it of the others.
    """
    spread = [part for argument in arguments for part in argument.split("=", 1)]
    named = (value for name, value in pairwise(spread) if name.replace("_", "-") in _RANKS)
    return next((int(value) for value in named if value.isdecimal()), None)


def engine_environment(inherited: Mapping[str, str], bundle: str, frames: str, key: str) -> dict[str, str]:
    """The child's environment: the plugin's settings, and no way for it to be left out."""
    made = dict(inherited)
    made.update(PLUMBLINE_BUNDLE=bundle, PLUMBLINE_FRAMES=frames, PLUMBLINE_PLAN_KEY=key, PYTHONUNBUFFERED="1")
    made.setdefault("VLLM_NO_USAGE_STATS", "1")
    if "VLLM_PLUGINS" in made:
        named = [name for name in made["VLLM_PLUGINS"].split(",") if name]
        made["VLLM_PLUGINS"] = ",".join(dict.fromkeys([*named, "plumbline"]))
    return made


class EngineProcess:
    """A running child.

    Attributes:
        last_line: newest line of its log.
    """

    def __init__(self, process: asyncio.subprocess.Process, on_line: Callable[[str], None]) -> None:
        self._process = process
        self._on_line = on_line
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._showing = True
        self._reader = asyncio.create_task(self._read(), name="engine log")

    @property
    def last_line(self) -> str:
        """The newest line of its log."""
        return self._lines[-1] if self._lines else ""

    async def watch(self) -> None:
        """Wait until it ends on its own.

        Raises:
            EngineExitedError: always, with what its log says.
        """
        status = await self._ended()
        await asyncio.wait({self._reader}, timeout=_LAST_LINES)
        raise EngineExitedError(f"the engine ended with status {status}; its log says:\n{_telling(self._lines)}")

    async def stop(self) -> None:
        """SIGINT to its process group, SIGKILL after a while; nothing of the group is left."""
        if self._process.returncode is None:
            self._signal(signal.SIGINT)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended(), STOP_SECONDS)
        self._signal(signal.SIGKILL)
        await self._ended()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _ended(self) -> int:
        """Its exit status. ``Process.wait`` would also wait for its children to close the log's pipe."""
        while (status := self._process.returncode) is None:  # noqa: ASYNC110  # nothing signals this alone
            await asyncio.sleep(_LOOK_EVERY)
        return status

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    async def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None  # it was started with a pipe
        while True:
            try:
                data = await stream.readline()
            except ValueError:  # a line over the limit: what was read of it is skipped
                continue
            if not data:
                return
            line = data.decode(errors="replace").rstrip()
            self._lines.append(line)
            if self._showing:
                self._show(line)

    def _show(self, line: str) -> None:
        """Pass a line on; if that fails (disk full, terminal gone) go on reading, or vLLM would block on its output."""
        try:
            self._on_line(line)
        except OSError as error:
            self._showing = False
            _log.warning("the engine's log is no longer shown: %s", error)


def _telling(lines: Iterable[str]) -> str:
    """The lines of a log that tell what went wrong: its errors if it has any, else its end.

    vLLM's last traceback only says that one of its processes ended; the cause stands far above.
    """
    kept = list(lines)
    errors = dict.fromkeys(found[1] for line in kept if (found := _ERROR.search(line)))
    told = list(errors)[:_KEPT_ERRORS] or kept[-_KEPT_END:]
    return "\n".join(f"  {line}" for line in told)


def _end_with_parent() -> None:
    """In the child, before it becomes vLLM: the kernel interrupts it if its supervisor is killed outright."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


@asynccontextmanager
async def running_engine(
    command: Sequence[str], environment: Mapping[str, str], on_line: Callable[[str], None]
) -> AsyncIterator[EngineProcess]:
    """The engine while the block runs; stopped on the way out, whatever happened.

    Raises:
        EngineExitedError: it could not be started.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            limit=_MAX_LINE,
        )
    except OSError as error:
        raise EngineExitedError(f"the engine cannot be started: {command[0]}: {error.strerror}") from error
    engine = EngineProcess(process, on_line)
    try:
        yield engine
    finally:
        await asyncio.shield(engine.stop())
