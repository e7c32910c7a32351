"""From labelled conversations to a folder of frozen splits: assigned, free of near-duplicates, locked."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from probes.errors import DataError
from probes.train.data import check_concept
from probes.train.duplicates import NEAR, Unique, unique
from probes.train.examples import SPLITS, Example, Labelled, Split, messages_hash
from probes.train.leaks import Pair, across_splits, everywhere
from probes.train.lock import LOCK_FILE, SplitLock, make_lock, read_lock
from probes.train.progress import Reporter
from probes.train.splits import Plan, assign, with_splits

Duplicates = Literal["refuse", "join", "drop"]
SHIFT_PREFIX = "shift-"  # of the files that hold shifted test examples
_SHOWN = 5


@dataclass(frozen=True)
class Policy:
    """What to do about near-duplicates and about an existing lock.

    Attributes:
        duplicates: ``refuse`` an assignment that has near-duplicates in two splits; ``join`` their groups into one
            split; or ``drop`` them from the later split (test before validation before train).
        threshold: cosine from which two conversations are near-duplicates.
        extend: keep what is frozen, and place new conversations. renew: forget what is frozen.
    """

    duplicates: Duplicates = "refuse"
    threshold: float = NEAR
    extend: bool = False
    renew: bool = False


@dataclass(frozen=True)
class FrozenData:
    """What was written: the examples, what :func:`unique` left out, and how many near-duplicates were dropped."""

    examples: tuple[Example, ...]
    unique: Unique
    dropped: int


def freeze(examples: Iterable[Labelled], out: Path, plan: Plan, policy: Policy, reporter: Reporter) -> FrozenData:
    """Split the examples, and write ``SOURCE.jsonl`` for every source and the lock into ``out``.

    Raises:
        DataError: near-duplicates in two splits (with ``refuse``), a concept without both labels in some split, or a
            lock in ``out`` that the result does not match.
    """
    found = unique(examples)
    _check_ids(found.examples)
    lock = _old_lock(out, policy)
    together = everywhere(found.examples, reporter, policy.threshold) if policy.duplicates == "join" else []
    frozen = lock.splits if lock and policy.extend else {}
    pairs = [(messages_hash(p.one.messages), messages_hash(p.other.messages)) for p in together]
    splits = assign(found.examples, plan, frozen=frozen, together=pairs)
    split_examples = with_splits(found.examples, splits)
    dropped: set[str] = set()
    if policy.duplicates != "join":
        leaks = across_splits(split_examples, reporter, policy.threshold)
        if leaks and policy.duplicates == "refuse":
            raise DataError(describe(leaks, policy.threshold) + _REMEDIES)
        dropped = {_droppable(pair, frozen) for pair in leaks}
    kept = tuple(e for e in split_examples if messages_hash(e.messages) not in dropped)
    _check(kept, plan)
    settings = {"seed": str(plan.seed), "by": plan.by, "shares": " ".join(f"{s:g}" for s in plan.shares)}
    new = make_lock({key: split for key, split in splits.items() if key not in dropped}, settings)
    if lock and (lock.splits.keys() - new.splits.keys() or (lock.splits != new.splits and not policy.extend)):
        raise DataError(_difference(lock, new, out))
    _write(kept, new, out, policy)
    return FrozenData(kept, found, len(dropped))


def describe(pairs: Sequence[Pair], threshold: float) -> str:
    """The nearest pairs in words, for people."""
    lines = [f"{len(pairs)} pairs of conversations in different splits say almost the same (cosine ≥ {threshold:g}):"]
    for pair in pairs[:_SHOWN]:
        one, other = (f"{e.id} [{getattr(e, 'split', '')}] “{_excerpt(e)}”" for e in (pair.one, pair.other))
        lines.append(f"  {pair.cosine:.2f}  {one}\n        {other}")
    if len(pairs) > _SHOWN:
        lines.append(f"  … and {len(pairs) - _SHOWN} more")
    return "\n".join(lines)


def _old_lock(out: Path, policy: Policy) -> SplitLock | None:
    path = out / LOCK_FILE
    if policy.renew or not path.exists():
        return None
    return read_lock(path)


def _check_ids(examples: Sequence[Labelled]) -> None:
    used: dict[str, Labelled] = {}
    for example in examples:
        other = used.setdefault(example.id, example)
        if other is not example:
            raise DataError(f"id {example.id!r} names “{_excerpt(other)}” and “{_excerpt(example)}”; ids must differ.")


def _droppable(pair: Pair, frozen: Mapping[str, Split]) -> str:
    """The one in the later split; but what is frozen stays, and the new one goes."""
    one, other = messages_hash(pair.one.messages), messages_hash(pair.other.messages)
    return one if other in frozen and one not in frozen else other


def _check(examples: Sequence[Example], plan: Plan) -> None:
    """Refuse before anything is written what :func:`probes.train.data.read_dataset` would refuse afterwards."""
    places = {e.id: f"{e.id} of {e.source}" for e in examples}
    for concept in sorted({e.concept for e in examples}):
        part = [e for e in examples if e.concept == concept]
        for split in SPLITS:
            if (labels := {e.label for e in part if e.split == split}) != {0, 1}:
                raise DataError(
                    f"{concept}: split {split} got labels {sorted(labels)}; wanted both. There are too few groups of "
                    f"one label (by {plan.by}): add sources or families, choose other shares, or another seed."
                )
        check_concept(concept, part, places)


def _difference(old: SplitLock, new: SplitLock, out: Path) -> str:
    added = len(new.splits.keys() - old.splits.keys())
    gone = len(old.splits.keys() - new.splits.keys())
    moved = sum(old.splits.get(key, split) != split for key, split in new.splits.items())
    return (
        f"{out / LOCK_FILE} froze other splits: {added} conversations are new, {gone} are gone, {moved} would move. "
        "--extend keeps what is frozen and places the new ones; --renew starts again, and every figure with it."
    )


def _write(examples: Sequence[Example], lock: SplitLock, out: Path, policy: Policy) -> None:
    out.mkdir(parents=True, exist_ok=True)
    by_file: defaultdict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_file[re.sub(r"[^\w.-]+", "_", example.source) or "data"].append(example)
    left = {f.name for f in out.glob("*.jsonl") if policy.renew or not f.name.startswith(SHIFT_PREFIX)}
    if stale := sorted(left - {f"{name}.jsonl" for name in by_file}):
        raise DataError(f"{out} holds {', '.join(stale)}, which this split does not write. Move them away first.")
    for name, part in by_file.items():
        write_lines(part, out / f"{name}.jsonl")
    _replace(out / LOCK_FILE, lock.model_dump_json(indent=1) + "\n")


def write_lines(examples: Iterable[Labelled], path: Path) -> None:
    """Write examples as JSONL, all or nothing; what is at its default is left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, "".join(e.model_dump_json(exclude_defaults=True) + "\n" for e in examples))


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)  # noqa: PTH105  (Path.replace says the same less plainly)


def _excerpt(example: Labelled) -> str:
    text = " ".join(example.messages[-1].content.split())
    return text if len(text) <= 70 else text[:69] + "…"


_REMEDIES = (
    "\nFigures on such a test split are too good. Choose: --duplicates join (their groups come into one split), or "
    "--duplicates drop (the one in the later split is left out)."
)
