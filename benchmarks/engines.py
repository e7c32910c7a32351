"""The engines of a comparison, by kind, each in a process of its own that serves what it is sent."""

from __future__ import annotations

import itertools
import multiprocessing as mp
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from benchmarks.eager_hooks import EXTENSION
from benchmarks.models import CONFIGS, write_probes
from benchmarks.modes import MODES, make_plan
from benchmarks.pairs import Served
from benchmarks.serving import Frames, serve, start_monitored, start_plain, stop
from probes.bundle import Bundle, read_bundle

OPERATORS = "add,ablate"
NEXT = "next turn"


@dataclass(frozen=True)
class Spec:
    """What an engine's process starts.

    Attributes:
        kind: ``plain``, ``three`` (8 probes on 3 layers), ``steered`` (the same, prepared for operators), ``all`` (a
            probe on every layer) or ``hooks``.
        model: its folder. name: of :data:`benchmarks.models.CONFIGS`. bundle: folder, if it is monitored.
        endpoint: of the frames. own_processes: whether engine core and workers are processes of their own, as vLLM's
            default is, or run where the client runs.
        options: of ``LLM``.
    """

    kind: str
    model: Path
    name: str
    bundle: Path | None
    endpoint: str
    own_processes: bool
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Engine:
    """A running engine. ``frames`` is there if it is monitored."""

    pipe: Connection
    process: psutil.Process
    frames: Frames | None

    def serve(self, prompts: Sequence[list[int]], mode: str, n_new: int) -> Served:
        """Serve one batch under the plans of ``mode`` (none if the engine is plain).

        Raises:
            RuntimeError: the engine failed; with its traceback.
        """
        self.pipe.send((prompts, mode, n_new, None))
        return _received(self.pipe)  # type: ignore[no-any-return]  # the process sends what `serve` yields

    def cpu_seconds(self) -> float:
        """CPU time that its processes have used so far."""
        times = [p.cpu_times() for p in (self.process, *self.process.children(recursive=True))]
        return float(sum(t.user + t.system for t in times))


def take_turns(
    engines: tuple[Engine, Engine], prompts: Sequence[list[int]], mode: str, n_new: int, turn: int
) -> tuple[Served, Served]:
    """Let two engines serve the same batch, ``turn`` steps at a time: first, second, second, first, and so on.

    Raises:
        RuntimeError: an engine failed; with its traceback.
    """
    served: list[Served | None] = [None, None]
    for number in itertools.count():
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            if served[index] is None:
                pipe = engines[index].pipe
                pipe.send((prompts, mode, n_new, turn) if number == 0 else NEXT)
                served[index] = _received(pipe)
        if served[0] is not None and served[1] is not None:
            return served[0], served[1]
    raise AssertionError("unreachable")


@contextmanager
def started(
    kind: str, folder: Path, model: Path, name: str, options: Mapping[str, Any], *, own_processes: bool
) -> Iterator[Engine]:
    """An engine, stopped afterwards; see :class:`Spec`. ``folder`` is for its bundle and its socket."""
    bundle, frames = None, None
    endpoint = f"ipc://{folder}/{kind}.sock"
    if kind in ("three", "steered", "all"):
        bundle = write_probes(folder / f"bundle_{kind}", model, name, every_layer=kind == "all").path
    here, there = mp.Pipe()
    spec = Spec(kind, model, name, bundle, endpoint, own_processes, options)
    process = mp.get_context("spawn").Process(target=_run, args=(there, spec))
    process.start()
    there.close()
    try:
        _received(here)
        if bundle is not None:
            frames = Frames(endpoint)
        yield Engine(here, psutil.Process(process.pid), frames)
        here.send(None)
        _received(here)
    finally:
        if frames is not None:
            frames.close()
        here.close()
        process.join(30)
        process.kill()


def _received(pipe: Connection) -> Any:
    try:
        answer = pipe.recv()
    except EOFError:
        raise RuntimeError("the engine's process ended; see its log above") from None
    if isinstance(answer, str):
        raise RuntimeError(f"the engine failed:\n{answer}")  # noqa: TRY004  # a text is its traceback
    return answer


def _run(pipe: Connection, spec: Spec) -> None:
    """The engine's process: say that it is up (None), then answer each batch with what it took."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(spec.own_processes))
    try:
        bundle = read_bundle(spec.bundle) if spec.bundle is not None else None
        llm = _start(spec, bundle)
        pipe.send(None)
        while (work := pipe.recv()) is not None:
            prompts, mode, n_new, turn = work
            plans = [make_plan(MODES[mode], bundle) if bundle is not None else None for _ in prompts]
            for served in serve(llm, prompts, plans, n_new, turn):
                pipe.send(served)
                if served is None:
                    pipe.recv()  # NEXT
        silent = spec.kind == "hooks" and not all(llm.collective_rpc("eager_steps")[0])
        pipe.send(
            "the engine in eager mode did not call every hook; its rows would compare nothing" if silent else None
        )
        stop(llm)
    except EOFError:
        return  # the other end is gone
    except Exception:  # noqa: BLE001  # told at the other end
        pipe.send(traceback.format_exc())


def _start(spec: Spec, bundle: Bundle | None) -> Any:
    if bundle is not None:
        operators = OPERATORS if spec.kind == "steered" else "none"
        return start_monitored(spec.model, bundle, spec.endpoint, operators, **spec.options)
    if spec.kind == "plain":
        return start_plain(spec.model, **spec.options)
    # Eager mode, with hooks on the three layers that the monitored engine reads.
    eager = {**spec.options, "enforce_eager": True, "compilation_config": None, "worker_extension_cls": EXTENSION}
    llm = start_plain(spec.model, **{k: v for k, v in eager.items() if v is not None})
    n_layers = CONFIGS[spec.name].num_hidden_layers
    layers = [[n_layers // 4, 3], [n_layers // 2, 3], [3 * n_layers // 4, 2]]
    llm.collective_rpc("install_eager_hooks", args=(layers,))
    return llm
