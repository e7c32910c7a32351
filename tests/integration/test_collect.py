"""Activations through vLLM are transformers' activations: all layers, all tokens, in the very same shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from probes.errors import ModelFormatError
from probes.train.collect import Activations, collect
from probes.train.collect_vllm import LOG
from probes.train.encode import Encoded
from probes.train.model import LoadedModel, load_model
from probes.train.progress import Advance, Silent
from probes.types import Scope
from tests.support.parity import score_share

pytestmark = pytest.mark.vllm

ORGANISM = Path(__file__).parents[2] / "probes/organism/weights"
N_SEQUENCES = 90  # more tokens than fit into one step, so that prompts are cut


class Counting(Silent):
    """Counts the work that it is told of."""

    done = total = 0

    @contextmanager
    def track(self, what: str, total: int, unit: str) -> Iterator[Advance]:
        def advance(n: int) -> None:
            self.done += n

        self.total = total
        yield advance


@pytest.fixture(scope="module")
def organism() -> LoadedModel:
    return load_model(ORGANISM, "cpu")


@pytest.fixture(scope="module")
def examples(organism: LoadedModel) -> list[Encoded]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 120, N_SEQUENCES)
    lengths[0] = organism.max_tokens
    vocabulary = organism.network.config.vocab_size
    sequences = [tuple(rng.integers(vocabulary, size=n).tolist()) for n in lengths]
    return [Encoded(ids, Scope.ALL, 0, len(ids), 0, (0,) * len(ids), (1.0,) * len(ids)) for ids in sequences]


@pytest.fixture(scope="module")
def plain(organism: LoadedModel, examples: list[Encoded], tmp_path_factory: pytest.TempPathFactory) -> Activations:
    return collect(organism, examples, tmp_path_factory.mktemp("plain"), Silent(), what="test")


@pytest.fixture(scope="module")
def served(
    organism: LoadedModel, examples: list[Encoded], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Activations, Counting]:
    reporter = Counting()
    folder = tmp_path_factory.mktemp("served")
    return collect(organism, examples, folder, reporter, what="test", through="vllm"), reporter


def test_every_layer_at_every_token_is_that_of_transformers(
    organism: LoadedModel, plain: Activations, served: tuple[Activations, Counting]
):
    assert int(plain.offsets[-1]) > 4096
    for layer in range(len(organism.layers)):
        assert score_share(served[0].layer(layer).numpy(), plain.layer(layer).numpy()) <= 1


def test_the_progress_bar_is_told_of_every_token_once(served: tuple[Activations, Counting]):
    assert served[1].done == served[1].total > 0


def test_what_one_way_began_the_other_goes_on_with(
    organism: LoadedModel, plain: Activations, served: tuple[Activations, Counting]
):
    lost = served[0].shards[0]
    kept = {shard: shard.stat().st_mtime_ns for shard in served[0].shards[1:]}
    lost.unlink()
    resumed = collect(organism, served[0].examples, lost.parent, Silent(), what="test")
    assert {shard: shard.stat().st_mtime_ns for shard in resumed.shards[1:]} == kept
    assert score_share(resumed.layer(3).numpy(), plain.layer(3).numpy()) <= 1


def test_a_model_that_vllm_cannot_load_is_an_error_that_quotes_its_log(
    organism: LoadedModel, examples: list[Encoded], tmp_path: Path
):
    from dataclasses import replace

    empty = tmp_path / "empty"
    empty.mkdir()
    broken = replace(organism, folder=empty)
    with pytest.raises(ModelFormatError, match=rf"vLLM cannot collect from {empty}.*{LOG} ends with"):
        collect(broken, examples, tmp_path / "out", Silent(), what="test", through="vllm")
