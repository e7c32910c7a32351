"""An engine core in this process, with clocks around the parts of a step.

Runs in: a process of its own, started by :mod:`benchmarks.profile_step`.
"""

from __future__ import annotations

import cProfile
import functools
import inspect
import io
import os
import pstats
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Work:
    """What one process shall measure; ``bundle`` is None for the plain engine."""

    model: Path
    bundle: Path | None
    endpoint: str
    mode: str
    n_new: int
    calls: int
    eager: bool


HOOKS = ("schedule", "before_forward", "after_forward", "complete")
"""The methods of ``StepHooks`` that run in every step."""

Times = tuple[float, float]
"""Seconds on the wall, and CPU seconds of this thread (which other programs of the machine do not lengthen)."""


class Clocks:
    """Times by name within the step that runs, and of all steps."""

    def __init__(self) -> None:
        self.now: dict[str, Times] = {}
        self.steps: list[dict[str, Times]] = []

    def add(self, name: str, began: Times) -> None:
        """Count the time since ``began`` under ``name``."""
        wall, cpu = self.now.get(name, (0.0, 0.0))
        now = instant()
        self.now[name] = (wall + now[0] - began[0], cpu + now[1] - began[1])

    def around(self, name: str, function: Callable[..., Any], profile: cProfile.Profile | None = None) -> Any:
        """``function``, timed under ``name``; its signature stays visible to schema inference."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = instant()
            try:
                return function(*args, **kwargs) if profile is None else profile.runcall(function, *args, **kwargs)
            finally:
                self.add(name, began)

        timed.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]  # it is allowed
        return timed


def instant() -> Times:
    """Both clocks, now."""
    return time.perf_counter(), time.thread_time()


def profile_engine(pipe: Connection, work: Work) -> None:
    """Start an engine, say so, then serve batches of prompts until None comes; answer with microseconds by name.

    The steps of the first batch warm up and do not count.
    """
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_NO_USAGE_STATS="1")
    from vllm.utils import torch_utils

    from benchmarks.engines import OPERATORS
    from benchmarks.modes import MODES, make_plan
    from benchmarks.serving import serve, start_monitored, start_plain
    from probes.bundle import read_bundle

    clocks, profile = Clocks(), cProfile.Profile() if work.calls else None
    define = torch_utils.direct_register_custom_op

    def timed_define(op_name: str, op_func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        ours = op_name.startswith("plumbline")
        define(op_name, clocks.around(f"op {op_name}", op_func) if ours else op_func, *args, **kwargs)

    torch_utils.direct_register_custom_op = timed_define
    options = {"enforce_eager": work.eager}
    if work.bundle is None:
        bundle, llm = None, start_plain(work.model, **options)
    else:
        bundle = read_bundle(work.bundle)
        operators = OPERATORS if MODES[work.mode].engine == "steered" else "none"
        llm = start_monitored(work.model, bundle, work.endpoint, operators, **options)
    core = llm.llm_engine.engine_core.engine_core
    runner = core.model_executor.driver_worker.worker.model_runner
    _attach(clocks, core, runner, profile)
    pipe.send("up")
    while (prompts := pipe.recv()) is not None:
        plans = [make_plan(MODES[work.mode], bundle) if bundle is not None else None for _ in prompts]
        list(serve(llm, prompts, plans, work.n_new, turn=None))
        pipe.send("done")
    pipe.send({**_columns(clocks.steps[work.n_new :]), "calls": _dearest(profile, work.calls)})


def _attach(clocks: Clocks, core: Any, runner: Any, profile: cProfile.Profile | None) -> None:
    """Put clocks around the parts of a step."""
    runner.model.forward = clocks.around("forward", runner.model.forward)
    if (hooks := getattr(runner, "plumbline", None)) is not None:
        for name in HOOKS:
            setattr(hooks, name, clocks.around(f"hook {name}", getattr(hooks, name), profile))
    step = core.step_fn

    def timed_step() -> Any:
        clocks.now.clear()
        began = instant()
        result = step()
        clocks.add("step", began)
        clocks.steps.append(dict(clocks.now))
        return result

    core.step_fn = timed_step


def _columns(steps: list[dict[str, Times]]) -> dict[str, list[Times]]:
    """Microseconds by name, of the steps that ran a forward pass."""
    columns: dict[str, list[Times]] = defaultdict(list)
    for step in steps:
        if "forward" not in step:
            continue
        hooks = _sum(times for name, times in step.items() if name.startswith("hook "))
        inside = _sum([step["forward"], hooks])
        rest = (step["step"][0] - inside[0], step["step"][1] - inside[1])
        for name, (wall, cpu) in {**step, "hooks": hooks, "rest": rest}.items():
            columns[name].append((1e6 * wall, 1e6 * cpu))
    return dict(columns)


def _sum(parts: Iterable[Times]) -> Times:
    walls, cpus = zip((0.0, 0.0), *parts, strict=True)
    return sum(walls), sum(cpus)


def _dearest(profile: cProfile.Profile | None, n: int) -> str:
    if profile is None:
        return ""
    text = io.StringIO()
    pstats.Stats(profile, stream=text).strip_dirs().sort_stats("tottime").print_stats(n)
    return text.getvalue()
