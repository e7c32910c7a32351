"""Dense probes of several concepts in one pass over rows that do not fit into memory.

Mass-mean, LDA and ridge need only counts, sums and a Gram matrix; they equal the estimators in memory. Logistic
regression is fitted on a uniform sample of the rows.

Memory: one Gram matrix, ``8 d_model^2`` bytes, and one sample for each *pattern* of concepts that a row is labelled
for. Rows labelled for all concepts, or each for one, make 1 pattern, or as many as there are concepts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probes.errors import DataError, ShapeError
from probes.train.estimators.linear import LDAProbe, LinearProbe, LogisticProbe, MassMeanProbe, RidgeProbe
from probes.train.estimators.moments import Moments, Solution, solve_lda, solve_mass_mean, solve_ridge
from probes.train.estimators.reservoir import Reservoir

_CHUNK = 4096  # rows whose products are summed in fp32 before they are added in fp64


@dataclass(frozen=True)
class StreamedProbes:
    """The probes of one concept: fitted estimators by name, and ``(2,)`` rows of each class."""

    probes: Mapping[str, LinearProbe]
    counts: tuple[int, int]


class StreamedStatistics:
    """Counts, sums and Gram matrices of a stream of labelled rows.

    Args:
        reservoir: rows to sample for each pattern of labelled concepts.
        seed: of the sample.
    """

    def __init__(self, reservoir: int, seed: int) -> None:
        self._size = reservoir
        self._rng = np.random.default_rng(seed)
        self._shift: Tensor | None = None  # about the mean: squares of what is left lose no digits
        self._counts = torch.empty(0)
        self._sums = torch.empty(0)
        self._grams: dict[tuple[bool, ...], Tensor] = {}
        self._samples: dict[tuple[bool, ...], Reservoir] = {}

    def update(self, rows: Tensor, targets: Tensor) -> None:
        """Take in one batch.

        Args:
            rows: ``(n, d_model)``, any floating type and device, the same in every batch.
            targets: ``(n, n_concepts)``, 0 or 1, NaN where a row is not labelled for a concept.

        Raises:
            ShapeError: the two differ in ``n``, or ``d_model`` or ``n_concepts`` from earlier batches.
        """
        self._check(rows, targets)
        if self._shift is None:
            self._begin(rows, targets.shape[1])
        patterns, owner = torch.unique(~targets.isnan(), dim=0, return_inverse=True)
        for index, pattern in enumerate(patterns):
            if pattern.any():
                chosen = owner == index
                self._add(tuple(pattern.tolist()), rows[chosen], targets[chosen])

    def moments(self, concept: int) -> Moments:
        """What the closed forms need, for one concept.

        Raises:
            DataError: no row of one of the classes.
        """
        if self._shift is None or (self._counts[concept] == 0).any():
            raise DataError(
                f"concept {concept} has {self._counts[concept].tolist() if len(self._counts) else 'no'} rows of label "
                "0 and 1; wanted some of both."
            )
        counts = self._counts[concept].cpu().numpy()
        means = (self._sums[concept] / self._counts[concept][:, None]).cpu().numpy()
        gram = sum(g for pattern, g in self._grams.items() if pattern[concept])
        assert isinstance(gram, Tensor)
        scatter = gram.cpu().numpy() - (means * counts[:, None]).T @ means
        return Moments(counts, means + self._shift.double().cpu().numpy(), scatter)

    def sample(self, concept: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows ``(m, d_model)`` fp32 labelled for one concept, their labels ``(m,)``, and how many each stands for."""
        samples = [r for pattern, r in self._samples.items() if pattern[concept]]
        width = len(self._counts)
        rows = np.concatenate([r.rows for r in samples])
        weights = np.concatenate([np.full(len(r.rows), r.seen / len(r.rows)) for r in samples])
        return rows[:, width:], rows[:, concept].astype(np.int64), weights

    def _begin(self, rows: Tensor, n_concepts: int) -> None:
        self._shift = rows.double().mean(dim=0).float()
        self._counts = torch.zeros(n_concepts, 2, dtype=torch.float64, device=rows.device)
        self._sums = torch.zeros(n_concepts, 2, rows.shape[1], dtype=torch.float64, device=rows.device)

    def _add(self, pattern: tuple[bool, ...], rows: Tensor, targets: Tensor) -> None:
        assert self._shift is not None
        gram = self._grams.setdefault(
            pattern, torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
        )
        sample = self._samples.setdefault(pattern, Reservoir(self._size, self._rng))
        for part, labels in zip(torch.split(rows, _CHUNK), torch.split(targets, _CHUNK), strict=True):
            plain = part.float()
            centred = plain - self._shift
            gram += _gram(centred)
            classes = torch.stack([labels == 0, labels == 1], dim=2).float()  # unlabelled: neither
            self._counts += classes.sum(dim=0).double()
            self._sums += torch.einsum("nck,nd->ckd", classes, centred).double()
            sample.offer(torch.cat([labels.float(), plain], dim=1).cpu().numpy())

    def _check(self, rows: Tensor, targets: Tensor) -> None:
        wanted = (len(rows), *self._sums.shape[::2]) if self._shift is not None else None
        if len(rows) != len(targets) or (wanted and wanted != (len(targets), targets.shape[1], rows.shape[1])):
            raise ShapeError(
                f"rows {tuple(rows.shape)} and targets {tuple(targets.shape)} do not fit each other or the batches "
                "before; wanted (n, d_model) and (n, n_concepts), the same widths in every batch."
            )


def fit_streaming(
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    c: float = 0.1,
    shrinkage: float = 0.1,
    alpha: float = 100.0,
    reservoir: int = 8192,
    seed: int = 0,
) -> Sequence[StreamedProbes]:
    """Fit ``mass_mean``, ``lda``, ``ridge`` and ``logistic`` for every concept in one pass.

    Args:
        batches: rows ``(n, d_model)`` and targets ``(n, n_concepts)`` of 0, 1 or NaN (not labelled).
        c: of :class:`LogisticProbe`. shrinkage: of :class:`LDAProbe`. alpha: of :class:`RidgeProbe`.
        reservoir: rows that logistic regression sees, for each pattern of labelled concepts.
        seed: which of them.

    Raises:
        DataError: no batch, or a concept without rows of one class.
        ShapeError: batches that do not fit.
    """
    statistics, n_concepts = StreamedStatistics(reservoir, seed), 0
    for rows, targets in batches:
        statistics.update(rows, targets)
        n_concepts = targets.shape[1]
    if not n_concepts:
        raise DataError("no rows came; wanted batches of activations and targets.")
    found = []
    for concept in range(n_concepts):
        moments = statistics.moments(concept)
        sample, labels, weights = statistics.sample(concept)
        probes: dict[str, LinearProbe] = {
            "mass_mean": _keep(MassMeanProbe(), solve_mass_mean(moments, whiten=False)),
            "lda": _keep(LDAProbe(shrinkage), solve_lda(moments, shrinkage)),
            "ridge": _keep(RidgeProbe(alpha), solve_ridge(moments, alpha)),
            "logistic": LogisticProbe(C=c).fit(sample, labels, sample_weight=weights),
        }
        found.append(StreamedProbes(probes, (int(moments.counts[0]), int(moments.counts[1]))))
    return found


def _keep(probe: LinearProbe, solution: Solution) -> LinearProbe:
    """An estimator fitted from sums instead of rows."""
    probe.classes_, probe.n_features_in_ = np.array([0, 1]), len(solution[0])
    probe.coef_, probe.intercept_ = solution[0][None], np.array([solution[1]])
    return probe


def _gram(rows: Tensor) -> Tensor:
    """``rows' rows``, fp64 of a product in fp32; numpy computes only one half of a symmetric one."""
    if rows.device.type == "cpu":
        array = rows.numpy()
        return torch.from_numpy(array.T @ array).double()
    return (rows.T @ rows).double()
