"""How a sparse autoencoder is trained, and how well it then reconstructs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from probes.errors import DataError
from probes.train.collect import Activations
from probes.train.progress import Reporter
from probes.train.studies.autoencoder import SparseAutoencoder

_ROWS = 65536  # in memory at once, of all sources together
_REVIVAL = 1 / 32  # weight of the loss that dead features learn from
_COOLING = 0.2  # share of the steps over which the rate falls to 0


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        n_features: width of the dictionary. k: features active at once.
        epochs: passes over the activations. batch: rows of a step. lr: Adam's.
        dead_after: rows without being active after which a feature counts as dead.
        seed: of everything random.
    """

    n_features: int
    k: int = 16
    epochs: int = 10
    batch: int = 1024
    lr: float = 1e-3
    dead_after: int = 50_000
    seed: int = 0


@dataclass(frozen=True)
class Quality:
    """How well activations are reconstructed.

    Attributes:
        fvu: fraction of variance unexplained: squared error over that of the mean as a guess.
        l0: mean number of active features. dead: share of features that are never active.
        n_tokens: that it was measured on.
    """

    fvu: float
    l0: float
    dead: float
    n_tokens: int


def train_autoencoder(
    sources: Sequence[Activations], layer: int, recipe: Recipe, reporter: Reporter
) -> SparseAutoencoder:
    """Train on one layer's activations; of several sources, each step has rows of all of them.

    Dead features learn to reconstruct what the others leave over (the auxiliary loss): for each row, those d_model / 2
    of them that would be most active.

    Args:
        sources: collected activations, at least one. layer: 0-based block, collected in all of them.
        recipe: how to train.
        reporter: told about progress.

    Raises:
        DataError: fewer rows than features, or all rows are the same.

    Source: Gao et al. 2024 (arXiv:2406.04093): section 2.3 and appendix A; unit-norm columns as in Bricken et al. 2023.
    """
    n_rows = sum(int(source.offsets[-1]) for source in sources)
    if n_rows < recipe.n_features:
        raise DataError(
            f"{n_rows} tokens for {recipe.n_features} features; with fewer tokens than features each could keep one. "
            "Ask for fewer features, or collect more text."
        )
    generator = torch.Generator().manual_seed(recipe.seed)
    mean, scale = _moments(sources, layer)
    model = SparseAutoencoder(recipe.n_features, recipe.k, mean, scale, generator)
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    n_steps = recipe.epochs * (n_rows // recipe.batch + 1)
    cooling = max(1, int(_COOLING * n_steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: max(0.01, min(1, (n_steps - step) / cooling)))
    idle = torch.zeros(recipe.n_features)
    with reporter.track("training a sparse autoencoder", recipe.epochs * n_rows, "tokens") as advance:
        for _ in range(recipe.epochs):
            for rows in _batches(sources, layer, recipe.batch, generator):
                x = model.standard(rows)
                dense = model.dense(x)
                z = model.sparse(dense)
                loss = _loss(model, x, dense, z, idle >= recipe.dead_after)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch's own
                model.drop_radial_gradient()
                optimiser.step()
                schedule.step()
                model.keep_unit_norm()
                idle = torch.where((z > 0).any(dim=0), 0.0, idle + len(rows))
                advance(len(rows))
    return model


def quality_of(model: SparseAutoencoder, sources: Sequence[Activations], layer: int) -> Quality:
    """Reconstruction of one layer of ``sources``, whether trained on them or not."""
    error = spread = active = 0.0
    fired = torch.zeros(model.n_features, dtype=torch.bool)
    mean = _moments(sources, layer)[0]
    n_tokens = 0
    for rows in _chunks(sources, layer, 4096):
        z = model.features(rows)
        with torch.no_grad():
            found = model.decode(z) * model.scale + model.mean
        error += float((rows - found).double().square().sum())
        spread += float((rows - mean).double().square().sum())
        active += float((z > 0).sum())
        fired |= (z > 0).any(dim=0)
        n_tokens += len(rows)
    return Quality(error / spread, active / n_tokens, 1 - float(fired.float().mean()), n_tokens)


def _loss(model: SparseAutoencoder, x: Tensor, dense: Tensor, z: Tensor, dead: Tensor) -> Tensor:
    """Squared error over that of the mean; and what dead features make of the rest."""
    found = model.decode(z)
    scale = (x - x.mean(dim=0)).square().mean().clamp(min=1e-12)
    loss = mse_loss(found, x) / scale
    if n_dead := int(dead.sum()):
        rest = (x - found).detach()
        revived = (dense * dead).topk(min(max(1, x.shape[1] // 2), n_dead), dim=1)
        aux = torch.zeros_like(dense).scatter(1, revived.indices, revived.values) @ model.decoder
        loss = loss + _REVIVAL * mse_loss(aux, rest) / rest.square().mean().clamp(min=1e-12)
    return loss


def _moments(sources: Sequence[Activations], layer: int) -> tuple[Tensor, float]:
    """Mean ``(d_model,)`` fp32, and the root of the mean squared deviation of a coordinate."""
    n, total, squares = 0, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for rows in _chunks(sources, layer, _ROWS):
        wide = rows.double()
        n, total, squares = n + len(rows), total + wide.sum(dim=0), squares + wide.square().sum(dim=0)
    mean = total / n
    variance = float((squares / n - mean.square()).mean())
    if variance <= 0:
        raise DataError(f"all {n} activations of layer {layer} are the same; there is nothing to decompose.")
    return mean.float(), variance**0.5


def _chunks(sources: Sequence[Activations], layer: int, rows: int) -> Iterator[Tensor]:
    """Rows of all sources, some of each at a time."""
    streams = (source.batches(layer, max(1, rows // len(sources))) for source in sources)
    for parts in zip_longest(*streams):
        yield torch.cat([part[1] for part in parts if part is not None])


def _batches(sources: Sequence[Activations], layer: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows in random order within what is in memory."""
    for chunk in _chunks(sources, layer, _ROWS):
        for chosen in torch.split(torch.randperm(len(chunk), generator=generator), size):
            yield chunk[chosen]
