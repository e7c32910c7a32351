"""Plain vLLM against another engine: two at a time, pairs of runs, rows."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines import Engine, started, take_turns
from benchmarks.models import CONFIGS, write_model
from benchmarks.modes import Mode
from benchmarks.pairs import METRICS, Served, enough, figures, ratios
from benchmarks.rows import Row
from benchmarks.serving import random_prompts

_SETTLE_SECONDS = 1.2
"""A worker in a process of its own polls for a second after its last step; the other engine waits until it is over."""
TURN_STEPS = 4
"""Short against what disturbs the machine, long enough that the engine's own code comes back into the caches."""
FRAMES_MODE, FRAMES_BATCH = "reading", 16


@dataclass(frozen=True)
class Setup:
    """What is compared.

    Attributes:
        model: of :data:`benchmarks.models.CONFIGS`.
        modes: in the order in which they are measured within an engine.
        new_tokens: of each response, by batch size; its keys are the batch sizes.
        per_round: pairs of each figure before both engines are started anew: where the memory of a process lies makes
            it some per cent faster or slower for as long as it lives.
        least, most: pairs of each figure; between them, until the medians' 95 % intervals are at most ``width`` wide.
        options: of both engines, for example ``compilation_config``.
        own_processes: whether engine core and workers are processes of their own. suffix: of every row's name.
    """

    model: str
    modes: Sequence[Mode]
    new_tokens: Mapping[int, int]
    per_round: int = 4
    least: int = 8
    most: int = 16
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

    def enough(self, setup: Setup) -> bool:
        """Whether to stop."""
        return enough(self.ratios, setup.least, setup.most, setup.width)


def compare(setup: Setup) -> Iterator[Row]:
    """Measure everything, one kind of engine after the other, each in rounds with engines started anew."""
    absolute: dict[int, list[dict[str, float]]] = {n: [] for n in setup.new_tokens}
    idle: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        model = write_model(path / "model", setup.model)
        for kind in dict.fromkeys(mode.engine for mode in setup.modes):
            seen = {(mode, n): Seen() for n in setup.new_tokens for mode in setup.modes if mode.engine == kind}
            for number in itertools.count(1):
                left = [(mode, n) for (mode, n), s in seen.items() if not s.enough(setup)]
                if not left:
                    break
                _say(f"{setup.model}: {kind}, round {number}: starting the engines")
                with _both(setup, kind, path / f"{kind}{number}", model, swapped=number % 2 == 0) as (plain, ours):
                    for mode, n in left:
                        _measure(setup, mode, n, plain, ours, seen[mode, n], absolute[n])
            for (mode, n), one in seen.items():
                idle += one.idle
                yield from _rows(setup, mode, n, one)
    for n, runs in absolute.items():
        yield from _plain_rows(setup, n, runs)
    yield _row(setup, "idle_engine_cores", idle, "CPU cores", "")


@contextmanager
def _both(setup: Setup, kind: str, folder: Path, model: Path, *, swapped: bool) -> Iterator[tuple[Engine, Engine]]:
    """Plain vLLM and an engine of this kind; which is started first differs from round to round."""
    folder.mkdir()
    kinds = ("plain", kind)
    with ExitStack() as stack:
        made = [
            stack.enter_context(
                started(name, folder, model, setup.model, setup.options, own_processes=setup.own_processes)
            )
            for name in (kinds[::-1] if swapped else kinds)
        ]
        plain, ours = made[::-1] if swapped else made
        yield plain, ours


def _measure(
    setup: Setup, mode: Mode, n: int, plain: Engine, ours: Engine, seen: Seen, absolute: list[dict[str, float]]
) -> None:
    """The pairs of one round. The first one warms up and does not count."""
    rng = np.random.default_rng((n, len(seen.ratios)))
    _pair(setup, mode, n, plain, ours, Seen(), [], rng)
    for _ in range(min(setup.per_round, setup.most - len(seen.ratios))):
        _pair(setup, mode, n, plain, ours, seen, absolute, rng)
        _say(f"  {mode.name} b{n}: pair {len(seen.ratios)}, {seen.ratios[-1]['overhead']:+.2%} ", end="\r")
    _say(" " * 60, end="\r")


def _pair(
    setup: Setup, mode: Mode, n: int, plain: Engine, ours: Engine, seen: Seen, absolute: list[dict[str, float]],
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Two runs of each side over the same new prompts; every second pair begins with the other engine."""
    prompts = random_prompts(n, CONFIGS[setup.model].vocab_size, rng)
    first, second = (plain, ours) if len(seen.ratios) % 2 else (ours, plain)
    runs: dict[bool, list[Served]] = {True: [], False: []}
    for order in ((first, second), (second, first)):
        served = (_one_by_one if setup.own_processes else _in_turns)(setup, mode, n, order, prompts, seen)
        for engine, run in zip(order, served, strict=True):
            runs[engine is ours].append(run)
    seen.ratios.append(ratios(runs[False], runs[True]))
    absolute.append(figures(runs[False]))
    if ours.frames is not None:
        n_frames, size = ours.frames.drain()
        seconds = sum(run.seconds for run in runs[True])
        scored = sum(run.tokens + n * (len(prompts[0]) - 1) for run in runs[True])  # the last one is not fed forward
        seen.frames.append((n_frames / seconds, size / scored))


def _in_turns(
    setup: Setup, mode: Mode, n: int, order: tuple[Engine, Engine], prompts: Sequence[list[int]], seen: Seen
) -> tuple[Served, Served]:
    """Both serve at once, some steps at a time: whatever slows the machine for longer than that slows both."""
    served = take_turns(order, prompts, mode.name, setup.new_tokens[n], TURN_STEPS)
    seen.idle += [run.idle_cores for run in served]
    return served


def _one_by_one(
    setup: Setup, mode: Mode, n: int, order: tuple[Engine, Engine], prompts: Sequence[list[int]], seen: Seen
) -> tuple[Served, ...]:
    """One serves after the other: an engine core in a process of its own does not wait for turns."""
    done = []
    for active, waiting in (order, order[::-1]):
        time.sleep(_SETTLE_SECONDS)
        before = waiting.cpu_seconds()
        done.append(active.serve(prompts, mode.name, setup.new_tokens[n]))
        seen.idle.append((waiting.cpu_seconds() - before) / done[-1].seconds)
    return tuple(done)


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


def _say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)
