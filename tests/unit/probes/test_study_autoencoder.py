"""A sparse autoencoder finds the dictionary that synthetic activations were made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from probes.activations.job import Job, TokenSequence
from probes.activations.shards import ChunkBuffer, ShardWriter
from probes.errors import DataError
from probes.train.collect import Activations
from probes.train.encode import Encoded
from probes.train.progress import Silent
from probes.train.studies.autoencoder import SparseAutoencoder
from probes.train.studies.dictionary import Recipe, quality_of, train_autoencoder
from probes.train.studies.features import feature_aurocs, pooled_activations
from probes.types import Scope

D_MODEL, N_TRUE, ACTIVE = 24, 40, 3
RECIPE = Recipe(n_features=64, k=ACTIVE, epochs=12, batch=128, lr=1e-2)


def on_disk(folder: Path, rows: torch.Tensor, lengths: list[int]) -> Activations:
    """Rows as collected activations of layer 0."""
    examples = tuple(Encoded((0,) * n, Scope.ALL, 0, n, 0, (0,) * n, (1.0,) * n) for n in lengths)
    job = Job.bounded([TokenSequence(e.ids, ((0, e.end),)) for e in examples], [0], rows.shape[1])
    writer = ShardWriter(folder, job)
    for chunk in writer.missing:
        buffer = ChunkBuffer(job, chunk)
        buffer.put(0, torch.tensor(chunk.rows), rows[chunk.rows.start : chunk.rows.stop])
        writer.write(buffer)
    return Activations(examples, writer.paths)


def synthetic(n: int, dictionary: torch.Tensor, seed: int) -> torch.Tensor:
    """Sums of a few dictionary directions, each with a coefficient of its own, on a common offset."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(n, len(dictionary), generator=generator).topk(ACTIVE, dim=1).indices
    size = 1 + torch.rand(n, ACTIVE, generator=generator)
    return torch.zeros(n, len(dictionary)).scatter(1, chosen, size) @ dictionary + 5.0


@pytest.fixture(scope="module")
def dictionary() -> torch.Tensor:
    return torch.nn.functional.normalize(
        torch.randn(N_TRUE, D_MODEL, generator=torch.Generator().manual_seed(1)), dim=1
    )


@pytest.fixture(scope="module")
def activations(dictionary: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Activations:
    return on_disk(tmp_path_factory.mktemp("rows"), synthetic(4000, dictionary, 0), [10] * 400)


@pytest.fixture(scope="module")
def trained(activations: Activations) -> SparseAutoencoder:
    return train_autoencoder([activations], 0, RECIPE, Silent())


def test_the_directions_that_the_data_is_made_of_are_found(
    trained: SparseAutoencoder, dictionary: torch.Tensor
) -> None:
    found = (dictionary @ trained.decoder.T).max(dim=1).values
    assert float((found > 0.9).float().mean()) > 0.9
    untrained = torch.nn.functional.normalize(torch.randn(64, D_MODEL), dim=1)
    assert float(((dictionary @ untrained.T).max(dim=1).values > 0.9).float().mean()) < 0.1


def test_fresh_rows_are_reconstructed_with_k_features_and_the_fvu_is_that_of_numpy(
    trained: SparseAutoencoder, dictionary: torch.Tensor, tmp_path: Path
) -> None:
    rows = synthetic(500, dictionary, 9)
    quality = quality_of(trained, [on_disk(tmp_path, rows, [500])], 0)
    x, y = rows.double().numpy(), trained.reconstruct(rows).double().numpy()
    assert quality.fvu == pytest.approx(((x - y) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum(), rel=1e-4)
    assert quality.fvu < 0.15
    assert quality.l0 <= ACTIVE
    assert quality.n_tokens == 500


def test_decoder_columns_keep_unit_norm_and_no_row_has_more_than_k_features(trained: SparseAutoencoder) -> None:
    torch.testing.assert_close(trained.decoder.detach().norm(dim=1), torch.ones(64))
    z = trained.features(torch.randn(50, D_MODEL) + 5)
    assert int((z != 0).sum(dim=1).max()) <= ACTIVE
    assert float(z.min()) >= 0


def test_the_same_seed_gives_the_same_features(activations: Activations) -> None:
    short = Recipe(n_features=16, k=2, epochs=1)
    one, two = (train_autoencoder([activations], 0, short, Silent()) for _ in range(2))
    torch.testing.assert_close(one.encoder, two.encoder, rtol=0, atol=0)


def test_the_auxiliary_loss_puts_features_to_use_that_went_dead(activations: Activations) -> None:
    def unexplained(dead_after: int) -> float:
        recipe = Recipe(n_features=256, k=ACTIVE, epochs=6, batch=128, lr=1e-2, dead_after=dead_after)
        return quality_of(train_autoencoder([activations], 0, recipe, Silent()), [activations], 0).fvu

    assert unexplained(300) < 0.95 * unexplained(10**9)


def test_fewer_tokens_than_features_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="8 tokens for 64 features"):
        train_autoencoder([on_disk(tmp_path, torch.randn(8, 4), [8])], 0, RECIPE, Silent())


def test_activations_that_are_all_the_same_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="are the same"):
        train_autoencoder([on_disk(tmp_path, torch.ones(80, 4), [80])], 0, RECIPE, Silent())


def test_more_active_features_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="wanted 1 to 4"):
        SparseAutoencoder(4, 5, torch.zeros(3), 1.0, torch.Generator())


def test_feature_aurocs_are_scikit_learns_with_ties() -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.integers(0, 4, (60, 7)).astype(float), np.arange(60) % 2
    wanted = [roc_auc_score(labels, column) for column in features.T]
    np.testing.assert_allclose(feature_aurocs(features, labels), wanted)


@pytest.mark.parametrize(
    ("pooling", "by_hand"), [("last", lambda x: x[-1]), ("mean", lambda x: x.mean(0)), ("max", lambda x: x.amax(0))]
)
def test_rows_are_pooled_by_example_as_by_hand(tmp_path: Path, pooling, by_hand) -> None:
    rows, lengths = torch.randn(5000, 6), [3000, 1, 1999]  # over the boundary of a batch
    found = pooled_activations(on_disk(tmp_path, rows, lengths), 0, pooling)
    wanted = torch.stack([by_hand(part) for part in rows.split(lengths)])
    np.testing.assert_allclose(found, wanted.double(), atol=1e-5)
