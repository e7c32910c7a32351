"""Run the large proofs: each file in a process of its own, resumable, in shards.

    python -m tests.full.run                 everything that has not passed yet
    python -m tests.full.run --shard 2/3     the second of three parts of about equal time
    python -m tests.full.run --list          the shards, what each test takes, and what has passed
    python -m tests.full.run --fresh         everything, also what has passed

What passed is kept in .cache/test-full/ and not run again until a source or a library changes. Ctrl-C stops cleanly;
the next call goes on from there. Exit status: 0 all passed, 1 something failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.full.shards import (
    ROOT,
    collect_tests,
    cut,
    expected_minutes,
    read_records,
    save_minutes,
    state_name,
)

LIMIT = 60
"""Minutes that a shard may take on two cores."""
CACHE = ROOT / ".cache" / "test-full"


def main() -> int:
    """Parse the command line, run or list, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.full.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shard", type=_shard, metavar="I/N", help="run the I-th of N parts (1/3, 2/3, 3/3)")
    parser.add_argument("--fresh", action="store_true", help="forget what has passed")
    parser.add_argument("--list", action="store_true", help="show the shards and run nothing")
    parser.add_argument("--save", action="store_true", help="keep what tests took, to cut later shards by")
    args = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    state = CACHE / f"{state_name()}.jsonl"
    if args.fresh:
        state.unlink(missing_ok=True)
    tests = collect_tests()
    minutes = expected_minutes(tests)
    fewest = next(n for n in itertools.count(1) if n >= len(tests) or _longest(minutes, n) <= LIMIT)
    index, n = args.shard or (1, fewest if args.list else 1)
    if args.shard is not None and _longest(minutes, n) > LIMIT:
        parser.error(f"of {n} shards one takes {_longest(minutes, n):.0f} minutes, more than {LIMIT}: cut {fewest}")
    shards = [[tests[i] for i in part] for part in cut(minutes, n)]
    if args.list:
        _show(shards, dict(zip(tests, minutes, strict=True)), state)
        return 0
    status = _run(shards[index - 1], state)
    if args.save:
        save_minutes(read_records(state), tests)
    return status


def _shard(text: str) -> tuple[int, int]:
    try:
        index, n = (int(part) for part in text.split("/"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, for example 1/3") from error
    if not 1 <= index <= n:
        raise argparse.ArgumentTypeError(f"{text!r}: shards are numbered from 1 to N")
    return index, n


def _longest(minutes: Sequence[float], n: int) -> float:
    return max(sum(minutes[i] for i in part) for part in cut(minutes, n))


def _show(shards: Sequence[Sequence[str]], minutes: dict[str, float], state: Path) -> None:
    records = read_records(state)
    for number, tests in enumerate(shards, 1):
        print(f"shard {number}/{len(shards)}: {len(tests)} tests, about {sum(minutes[t] for t in tests):.0f} minutes")
        for test in tests:
            record = records.get(test)
            took = "has not run" if record is None else f"{record.outcome} in {record.minutes:.1f}"
            print(f"  {minutes[test]:5.1f} min  {test}  ({took})")


def _run(tests: Sequence[str], state: Path) -> int:
    """Run what has not passed, file by file."""
    before = read_records(state)
    left = [t for t in tests if t not in before or before[t].outcome != "passed"]
    files = [(file, list(ids)) for file, ids in itertools.groupby(left, key=lambda t: t.partition("::")[0])]
    print(f"{len(tests) - len(left)} of {len(tests)} tests have passed already; {len(left)} to run", flush=True)
    began = time.monotonic()
    try:
        for number, (file, ids) in enumerate(files, 1):
            print(f"\n[{number} of {len(files)}] {file}: {len(ids)} to run, {_since(began)} so far", flush=True)
            _run_file(ids, state)
    except KeyboardInterrupt:
        print(f"\nInterrupted after {_since(began)}; the same command goes on from here", flush=True)
        return 130
    records = read_records(state)
    count = {o: [t for t in tests if t in records and records[t].outcome == o] for o in ("passed", "skipped")}
    bad = [t for t in tests if t not in records or records[t].outcome == "failed"]
    print(f"\n{len(count['passed'])} passed, {len(count['skipped'])} skipped, {len(bad)} failed in {_since(began)}")
    print(*(f"  failed: {test}" for test in bad), sep="\n", end="\n" if bad else "")
    return 1 if bad else 0


def _run_file(tests: Sequence[str], state: Path) -> None:
    """One pytest process, in a session of its own: a Ctrl-C reaches it once, through us."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.full.record", "--record", str(state), *tests]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise


def _since(began: float) -> str:
    return f"{(time.monotonic() - began) / 60:.1f} minutes"


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job would ignore the first
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
