"""What do probes and steering cost? Interleaved pairs against plain, compiled vLLM. Writes results/engine.json.

    python -m benchmarks.engine                                       # everything; hours on two cores
    python -m benchmarks.engine --model 75m --batch 16 --mode reading # these rows only; the others stay
    python -m benchmarks.engine --quick --model 75m                   # a look: 3 pairs of short runs, nothing written

Two engines run side by side, each in a process of its own: plain vLLM, and one of those below. Both fill the same
architecture with the same random bf16 weights. A pair is two runs of each over the same new prompts; both serve at
once and take turns, a few steps at a time (plain, ours, ours, plain, ...), so that whatever slows the machine for
longer than that slows both. Its figure is the ratio of the sums over the two sides, minus one. A row is the median
over the pairs, with the lowest and the highest. After every fourth pair both engines are started anew, the other one
first. After --pairs pairs the measurement goes on, up to --most, until the 95 % bootstrap intervals of the medians are
narrow. Everything is timed in the client, without HTTP.

Client, engine core and worker share that process. By default vLLM's CPU build runs them as three, which poll while
they wait: on a machine with as few cores as the worker has threads, they take turns on the worker's cores, and what is
measured is the scheduling of the operating system. --own-processes measures that, whole runs one after the other, in
rows whose names end in _mp.

Rows, for each mode, batch size N and model M:
    MODE_overhead_bN_M   plain tokens/s over ours, minus one
    MODE_itl_p50_bN_M    median time between tokens, ours over plain, minus one; itl_p99 likewise
    MODE_ttft_bN_M       mean time to the first token, likewise
    plain_..._bN_M       plain vLLM in the same run, for context: tokens/s, milliseconds
    frames_per_second, frame_bytes_per_token   score frames received while reading at batch 16
    idle_engine_cores_M   CPU cores used by the engine whose turn it is not: near 0, or the pairs mean little

Modes:
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.compare import Setup, compare
from benchmarks.modes import MODES
from benchmarks.rows import write_rows

NEW_TOKENS = {"75m": {1: 64, 16: 24, 64: 16}, "400m": {1: 32, 16: 16, 64: 12}}
QUICK_TOKENS = {1: 24, 16: 12, 64: 8}


def main() -> None:
    """Measure what was asked for; print and write the rows."""
    options = parse(sys.argv[1:])
    command = " ".join(["python -m benchmarks.engine", *sys.argv[1:]])
    partial = bool(options.model or options.mode or options.batch)
    for model in options.model or list(NEW_TOKENS):
        rows = []
        for row in compare(setup_for(model, options)):
            rows.append(row)
            print(f"{row.name:40} {row.value:+10.4f} {row.unit} ({row.min:+.4f} to {row.max:+.4f}, n={row.n})")
        if options.quick:
            print("--quick: nothing written")
            continue
        write_rows("engine", rows, command, merge=partial)
        partial = True  # the next model's rows join these


def setup_for(model: str, options: argparse.Namespace) -> Setup:
    """What is measured with this model."""
    lengths = QUICK_TOKENS if options.quick else NEW_TOKENS[model]
    return Setup(
        model=model,
        modes=[MODES[name] for name in options.mode or MODES],
        new_tokens={n: lengths[n] for n in options.batch or lengths},
        least=3 if options.quick else options.pairs,
        most=3 if options.quick else max(options.pairs, options.most),
        own_processes=options.own_processes,
        suffix="_mp" if options.own_processes else "",
    )


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    modes = "\n".join(f"    {mode.name:14}{mode.about}" for mode in MODES.values())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine",
        description=f"{__doc__}{modes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", action="append", choices=list(NEW_TOKENS), help="repeatable; default both")
    parser.add_argument("--batch", action="append", type=int, choices=list(QUICK_TOKENS), help="repeatable; all three")
    parser.add_argument("--mode", action="append", choices=list(MODES), help="repeatable; default all")
    parser.add_argument("--pairs", type=int, default=8, help="fewest pairs of each figure (default 8)")
    parser.add_argument("--most", type=int, default=16, help="most pairs of each figure (default 16)")
    parser.add_argument("--own-processes", action="store_true", help="vLLM's default layout; rows end in _mp")
    parser.add_argument("--quick", action="store_true", help="3 pairs of short runs; nothing is written")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
