"""The engines of a comparison, by kind; each knows its processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.eager_hooks import EXTENSION
from benchmarks.models import CONFIGS, write_probes
from benchmarks.serving import Frames, start_monitored, start_plain, stop
from probes.bundle import Bundle

OPERATORS = "add,ablate"


@dataclass(frozen=True)
class Engine:
    """A running engine.

    Attributes:
        llm: vLLM's offline ``LLM``. processes: its engine core and workers.
        bundle, frames: there if it is monitored.
    """

    llm: Any
    processes: frozenset[psutil.Process]
    bundle: Bundle | None = None
    frames: Frames | None = None

    def cpu_seconds(self) -> float:
        """CPU time that its processes have used so far."""
        return float(sum(times.user + times.system for times in (p.cpu_times() for p in self.processes)))


@contextmanager
def started(kind: str, folder: Path, model: Path, name: str, options: Mapping[str, Any]) -> Iterator[Engine]:
    """An engine of this kind, stopped afterwards.

    Args:
        kind: ``plain``, ``three`` (8 probes on 3 layers), ``steered`` (the same, prepared for operators), ``all`` (a
            probe on every layer) or ``hooks``.
        folder: for its bundle and its socket. model: the model's folder. name: of the model.
        options: of ``LLM``.
    """
    before = _children()
    bundle, frames = None, None
    if kind in ("three", "steered", "all"):
        bundle = write_probes(folder / f"bundle_{kind}", model, name, every_layer=kind == "all")
        endpoint = f"ipc://{folder}/{kind}.sock"
        llm = start_monitored(model, bundle, endpoint, OPERATORS if kind == "steered" else "none", **options)
        frames = Frames(endpoint)
    elif kind == "hooks":
        llm = _start_hooked(model, name, options)
    else:
        llm = start_plain(model, **options)
    yield Engine(llm, frozenset(_children() - before), bundle, frames)
    if kind == "hooks" and not all(llm.collective_rpc("eager_steps")[0]):
        raise RuntimeError("the engine in eager mode did not call every hook; its rows would compare nothing")
    if frames is not None:
        frames.close()
    stop(llm)


def _start_hooked(model: Path, name: str, options: Mapping[str, Any]) -> Any:
    """An eager engine with hooks on the three layers that the monitored one reads."""
    eager = {**options, "enforce_eager": True, "compilation_config": None, "worker_extension_cls": EXTENSION}
    llm = start_plain(model, **{k: v for k, v in eager.items() if v is not None})
    n_layers = CONFIGS[name].num_hidden_layers
    layers = [[n_layers // 4, 3], [n_layers // 2, 3], [3 * n_layers // 4, 2]]
    llm.collective_rpc("install_eager_hooks", args=(layers,))
    return llm


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))
