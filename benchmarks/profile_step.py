"""Where do the added microseconds of a step go? Prints a table; writes nothing.

    python -m benchmarks.profile_step                                # reading, batch 16, about 75 million parameters
    python -m benchmarks.profile_step --mode steering_16 --batch 64 --calls 25

Two processes, each with an engine core of its own in the same process (no IPC), one plain and one monitored, decode
the same prompts in turn. The table gives the median over all steps (nearly all are decode steps), on the wall and as
CPU time of the thread that runs the step; on a busy machine only the latter can be trusted:

    step      one call of the engine's step: scheduling, forward pass, sampling, output
    forward   the model's forward pass, custom ops included
    hooks     our host work, the sum of those below
    rest      step - forward - hooks
    hook ...  our host work by method of StepHooks
    op ...    inside a custom op, summed over the layers; the rest of the added forward time is dispatch and lost fusion

``--calls N`` adds the N dearest functions of our host work, by cProfile (which slows them: compare, do not add up).
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import statistics
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import CONFIGS, write_model, write_probes
from benchmarks.modes import MODES
from benchmarks.serving import random_prompts
from benchmarks.step_timer import Work, profile_engine

N_NEW = 32
ORDER = ("step", "forward", "hooks", "rest")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [m.name for m in MODES.values() if m.engine in ("three", "steered", "all")]
    parser.add_argument("--mode", choices=names, default="reading", help="what requests ask for (default reading)")
    parser.add_argument("--model", choices=list(CONFIGS), default="75m", help="default 75m")
    parser.add_argument("--batch", type=int, default=16, help="requests in a batch (default 16)")
    parser.add_argument("--rounds", type=int, default=6, help="batches on each side (default 6)")
    parser.add_argument("--calls", type=int, default=0, metavar="N", help="also the N dearest functions")
    parser.add_argument("--eager", action="store_true", help="without torch.compile, on both sides")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        model = write_model(path / "model", options.model)
        every = MODES[options.mode].engine == "all"
        bundle = write_probes(path / "bundle", model, options.model, every_layer=every).path
        endpoint = f"ipc://{folder}/frames.sock"
        plain = _start(Work(model, None, endpoint, options.mode, N_NEW, 0, options.eager))
        ours = _start(Work(model, bundle, endpoint, options.mode, N_NEW, options.calls, options.eager))
        rng = np.random.default_rng(0)
        for round_ in range(options.rounds + 1):
            prompts = random_prompts(options.batch, CONFIGS[options.model].vocab_size, rng)
            order = (plain, ours) if round_ % 2 else (ours, plain)
            for engine in order:
                engine.send(prompts)
                engine.recv()
            print(f"round {round_} of {options.rounds}", flush=True)
        for engine in (plain, ours):
            engine.send(None)
        _print(options, plain.recv(), ours.recv())


def _start(work: Work) -> Connection:
    """A process with its own engine; the first thing that it says is that it is up."""
    here, there = mp.Pipe()
    mp.get_context("spawn").Process(target=profile_engine, args=(there, work), daemon=True).start()
    there.close()
    here.recv()
    return here


def _print(options: argparse.Namespace, plain: dict[str, Any], ours: dict[str, Any]) -> None:
    """``plain`` and ``ours``: microseconds of every step by name, and ``calls``, a text."""
    calls = ours.pop("calls")
    plain.pop("calls")
    print(f"\n{options.mode}, {options.model}, batch {options.batch}: median microseconds of a step")
    print(f"{'':24}{'wall clock':^32}{'CPU time of the main thread':^32}")
    print(f"{'':24}" + 2 * f"{'plain':>10}{'monitored':>12}{'added':>10}")
    for name in (*ORDER, *sorted(set(ours) - set(ORDER))):
        line = f"{name:24}"
        for clock in range(2):
            a, b = (statistics.median(t[clock] for t in side.get(name, [(0.0, 0.0)])) for side in (plain, ours))
            line += f"{a:10.1f}{b:12.1f}{b - a:10.1f}"
        print(line)
    print(f"steps: plain {len(plain['step'])}, monitored {len(ours['step'])}")
    print(calls)


if __name__ == "__main__":
    main()
