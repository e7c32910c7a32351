"""Examples in batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from probes.train.encode import Encoded

_TOKENS = 4096  # of one batch, padding included: gradients of every traced layer are in memory at once


def batched(examples: Sequence[Encoded], tokens: int = _TOKENS) -> Iterator[list[int]]:
    """Indices of examples, shortest first, at most ``tokens`` padded tokens a batch (or one example)."""
    batch: list[int] = []
    for i in sorted(range(len(examples)), key=lambda i: len(examples[i].ids)):
        if batch and (len(batch) + 1) * len(examples[i].ids) > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
