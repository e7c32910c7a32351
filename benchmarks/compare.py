"""Plain vLLM against another engine: two at a time, pairs of runs, rows."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines import Engine, started
from benchmarks.models import CONFIGS, write_model
from benchmarks.modes import Mode
from benchmarks.pairs import METRICS, Served, enough, figures, ratios
from benchmarks.rows import Row
from benchmarks.serving import random_prompts

_SETTLE_SECONDS = 1.2
"""A worker in a process of its own polls for a second after its last step; the other engine waits until it is over."""
FRAMES_MODE, FRAMES_BATCH = "reading", 16


@dataclass(frozen=True)
class Setup:
    """What is compared.

    Attributes:
        model: of :data:`benchmarks.models.CONFIGS`.
        modes: in the order in which they are measured within an engine.
        new_tokens: of each response, by batch size; its keys are the batch sizes.
        least, most: pairs of each figure; between them, until the medians' 95 % intervals are at most ``width`` wide.
        options: of both engines, for example ``compilation_config``.
        own_processes: whether engine core and workers are processes of their own. suffix: of every row's name.
    """

    model: str
    modes: Sequence[Mode]
    new_tokens: Mapping[int, int]
    least: int = 7
    most: int = 15
    width: float = 0.01
    options: Mapping[str, Any] = field(default_factory=dict)
    own_processes: bool = False
    suffix: str = ""


@dataclass
class Seen:
    """What the pairs of one mode and batch size showed; what plain vLLM showed is kept for all modes together.

    Attributes:
        ratios: of each pair, by metric. idle: CPU cores that the engine used whose turn it was not, in each run.
        frames: received in a second of ours, and bytes of a scored token, in each pair.
    """

    ratios: list[dict[str, float]] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)
    frames: list[tuple[float, float]] = field(default_factory=list)


def compare(setup: Setup) -> Iterator[Row]:
    """Measure everything; the second engine is started anew for each kind of engine that the modes need."""
    absolute: dict[int, list[dict[str, float]]] = {n: [] for n in setup.new_tokens}
    idle: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        model = write_model(path / "model", setup.model)
        _say(f"{setup.model}: starting plain vLLM")
        with _started(setup, "plain", path, model) as plain:
            for kind in dict.fromkeys(mode.engine for mode in setup.modes):
                _say(f"{setup.model}: starting the engine of kind {kind}")
                with _started(setup, kind, path, model) as engine:
                    for n in setup.new_tokens:
                        for mode in (m for m in setup.modes if m.engine == kind):
                            seen = _measure(setup, mode, n, plain, engine, absolute[n])
                            idle += seen.idle
                            yield from _rows(setup, mode, n, seen)
    for n, runs in absolute.items():
        yield from _plain_rows(setup, n, runs)
    yield _row(setup, "idle_engine_cores", idle, "CPU cores", "")


def _measure(setup: Setup, mode: Mode, n: int, plain: Engine, ours: Engine, absolute: list[dict[str, float]]) -> Seen:
    """Pairs of one mode at one batch size, until there are enough. The first one warms up and does not count."""
    rng = np.random.default_rng(n)
    seen = Seen()
    _pair(setup, mode, n, plain, ours, Seen(), [], rng)
    while not enough(seen.ratios, setup.least, setup.most, setup.width):
        _pair(setup, mode, n, plain, ours, seen, absolute, rng)
        _say(f"  {mode.name} b{n}: pair {len(seen.ratios)}, {seen.ratios[-1]['overhead']:+.2%} ", end="\r")
    _say(" " * 60, end="\r")
    return seen


def _pair(
    setup: Setup, mode: Mode, n: int, plain: Engine, ours: Engine, seen: Seen, absolute: list[dict[str, float]],
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Four runs over the same new prompts; every second pair begins with the other engine."""
    prompts = random_prompts(n, CONFIGS[setup.model].vocab_size, rng)
    first, second = (plain, ours) if len(seen.ratios) % 2 else (ours, plain)
    runs: dict[bool, list[Served]] = {True: [], False: []}
    for active, waiting in ((first, second), (second, first), (second, first), (first, second)):
        if setup.own_processes:
            time.sleep(_SETTLE_SECONDS)
        before = waiting.cpu_seconds()
        served = active.serve(prompts, mode.name, setup.new_tokens[n])
        seen.idle.append((waiting.cpu_seconds() - before) / served.seconds)
        runs[active is ours].append(served)
    seen.ratios.append(ratios(runs[False], runs[True]))
    absolute.append(figures(runs[False]))
    if ours.frames is not None:
        n_frames, size = ours.frames.drain()
        seconds = sum(run.seconds for run in runs[True])
        scored = sum(run.tokens + n * (len(prompts[0]) - 1) for run in runs[True])  # the last one is not fed forward
        seen.frames.append((n_frames / seconds, size / scored))


def _rows(setup: Setup, mode: Mode, n: int, seen: Seen) -> Iterator[Row]:
    for metric in METRICS:
        goal = mode.goal if metric in ("overhead", "itl_p50") else ""
        yield _row(setup, f"{mode.name}_{metric}_b{n}", [pair[metric] for pair in seen.ratios], "ratio", goal)
    if (mode.name, n) == (FRAMES_MODE, FRAMES_BATCH):
        per_second, per_token = zip(*seen.frames, strict=True)
        yield _row(setup, f"frames_per_second_b{n}", per_second, "frames/s", "")
        yield _row(setup, f"frame_bytes_per_token_b{n}", per_token, "bytes", "")


def _plain_rows(setup: Setup, n: int, runs: Sequence[Mapping[str, float]]) -> Iterator[Row]:
    """Plain vLLM in this run: the ratios' denominators."""
    yield _row(setup, f"plain_tokens_per_s_b{n}", [1 / run["overhead"] for run in runs], "tokens/s", "")
    for metric in METRICS[1:]:
        yield _row(setup, f"plain_{metric}_b{n}", [1e3 * run[metric] for run in runs], "ms", "")


def _row(setup: Setup, name: str, values: Sequence[float], unit: str, goal: str) -> Row:
    name = f"{name}_{setup.model}{setup.suffix}"
    return Row(name, statistics.median(values), unit, goal, min(values), max(values), len(values))


def _started(setup: Setup, kind: str, path: Path, model: Path) -> AbstractContextManager[Engine]:
    return started(kind, path, model, setup.model, setup.options, own_processes=setup.own_processes)


def _say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)
