"""``splits.json``: which conversation is in which split, frozen before training.

A split that changes after somebody looked at the figures makes the figures worthless. The lock holds the hash of every
conversation and its split, and a digest over all of them; reading the data compares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from probes.errors import DataError
from probes.train.examples import Example, Split, messages_hash
from probes.types import Frozen

LOCK_FILE = "splits.json"


class SplitLock(Frozen):
    """The frozen splits.

    Attributes:
        settings: how the splits were made, for people.
        splits: by :func:`probes.train.examples.messages_hash` of every unshifted conversation.
        digest: SHA-256 in hex over ``splits``, in order of the hashes.
    """

    version: Literal[1] = 1
    settings: dict[str, str] = Field(default_factory=dict)
    splits: Annotated[dict[str, Split], Field(min_length=1)]
    digest: str


def make_lock(splits: dict[str, Split], settings: dict[str, str]) -> SplitLock:
    """The lock of these splits."""
    return SplitLock(settings=settings, splits=dict(sorted(splits.items())), digest=_digest(splits))


def read_lock(path: Path) -> SplitLock:
    """Read ``splits.json``.

    Raises:
        DataError: not a lock, or edited by hand.
    """
    try:
        lock = SplitLock.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(f"{path} is not a lock of splits: {error.errors()[0]['msg']}.") from error
    if lock.digest != _digest(lock.splits):
        raise DataError(f"{path} was changed by hand: its digest does not fit its splits. Restore it, or split anew.")
    return lock


def check_lock(lock: SplitLock, examples: Iterable[Example], path: Path) -> None:
    """Compare the unshifted examples with the lock.

    Raises:
        DataError: a conversation in another split than was frozen, one that is not in the lock, or one that the
            lock has and the data lacks.
    """
    seen = set()
    for example in examples:
        if example.shift:
            continue
        key = messages_hash(example.messages)
        seen.add(key)
        frozen = lock.splits.get(key)
        if frozen is None:
            raise DataError(
                f"example {example.id} is not in {path}: it is new, or its messages were changed. Restore the data, or "
                "split it again with `plumbline data split --extend` (old examples stay where they are)."
            )
        if frozen != example.split:
            raise DataError(
                f"example {example.id} is in split {example.split}, but {path} froze it in {frozen}. Restore the data."
            )
    if missing := len(lock.splits.keys() - seen):
        raise DataError(
            f"{missing} of the {len(lock.splits)} conversations frozen in {path} are gone. Restore the data, or freeze "
            "what is left with `plumbline data split --renew` and measure everything again."
        )


def _digest(splits: dict[str, Split]) -> str:
    return hashlib.sha256("".join(f"{key} {split}\n" for key, split in sorted(splits.items())).encode()).hexdigest()
