"""Choosing examples so that no single word tells the label."""

from collections.abc import Hashable, Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp  # type: ignore[import-untyped]

GAP = 0.01  # of the optimum; the balance itself is exact


def balanced(words: Sequence[tuple[Hashable, ...]], labels: Sequence[bool], most: int = 4) -> list[int]:
    """Choose examples such that each word in each place has both labels equally often.

    A sum over words, however weighted, is then at chance: only their combination tells. An integer program: as many
    different examples as can be balanced.

    Args:
        words: The words of each example, such as verb, object and owner; as many for each.
        labels: Whether each is positive.
        most: How often one example may be chosen, to balance several others.

    Returns:
        Indices of the choice, repeated where chosen repeatedly.

    Raises:
        ValueError: Nothing can be balanced.
    """
    n = len(words)
    row = {node: i for i, node in enumerate(dict.fromkeys(node for example in words for node in enumerate(example)))}
    signs = np.zeros((len(row), n))
    for column, (example, positive) in enumerate(zip(words, labels, strict=True)):
        for node in enumerate(example):
            signs[row[node], column] = 1.0 if positive else -1.0
    # Every example twice: once for its sake, and up to `most - 1` times for the balance of others, at a small price.
    solved = milp(
        np.repeat([-1.0, 1e-3], n),
        constraints=LinearConstraint(np.hstack([signs, signs]), 0.0, 0.0),
        bounds=Bounds(0.0, np.repeat([1.0, most - 1.0], n)),
        integrality=np.ones(2 * n),
        options={"mip_rel_gap": GAP},
    )
    times = np.rint(solved.x[:n] + solved.x[n:]).astype(int)
    if not times.any():
        raise ValueError(f"no choice among {n} examples has every word with both labels equally often.")
    return [int(i) for i in np.repeat(np.arange(n), times)]
