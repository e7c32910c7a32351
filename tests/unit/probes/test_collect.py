"""Activations on disk: right, in order, bounded, and kept when a run is interrupted."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from probes.activations import job as jobs
from probes.activations.shards import ShardWriter
from probes.errors import DataError
from probes.template import find_markers
from probes.train import collect as module
from probes.train.collect import Activations, check_space, collect
from probes.train.data import Example
from probes.train.encode import Encoded, Positions, encode_example
from probes.train.model import LoadedModel, ablated, forward, recorded
from probes.train.progress import Silent
from probes.types import Scope
from tests.support.probe_samples import D_MODEL, N_LAYERS, rows


@pytest.fixture
def examples(tokenizer: Any) -> list[Encoded]:
    found = [Example.model_validate(r) for r in rows("hallucination", {"train": 11})]
    return [encode_example(tokenizer, find_markers(tokenizer), e, 128) for e in found]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "CHUNK_TOKENS", 60)
    monkeypatch.setattr(module, "BATCH_TOKENS", 40)


def alone(loaded: LoadedModel, example: Encoded) -> list[torch.Tensor]:
    """Every layer's activation of one example, ``(n_tokens, d_model)``, by a forward pass of its own."""
    with recorded(loaded) as store:
        forward(loaded, [example.ids])
    return [layer[0] for layer in store]


def check(loaded: LoadedModel, collected: Activations, layer: int, **tolerance: float) -> None:
    found = collected.layer(layer)
    assert (found.dtype, found.shape[1]) == (torch.float32, D_MODEL)
    wanted = [
        alone(loaded, e)[layer][start:end] for e in collected.examples for start, end in e.at(collected.positions)
    ]
    torch.testing.assert_close(found, torch.cat(wanted), **(tolerance or {"rtol": 1e-4, "atol": 1e-4}))
    assert [len(w) for w in wanted] == [n for n in collected.offsets.diff().tolist() if n]


def test_every_layer_holds_the_tokens_in_scope_of_every_example_in_order(
    loaded: LoadedModel, examples: list[Encoded], tmp_path: Path
) -> None:
    collected = collect(loaded, examples, tmp_path, Silent(), what="test")
    assert len(collected.shards) > 2
    for layer in range(N_LAYERS):
        check(loaded, collected, layer)


@pytest.mark.parametrize("positions", list(Positions))
def test_each_kind_of_position_can_be_collected_alone(
    loaded: LoadedModel, examples: list[Encoded], tmp_path: Path, positions: Positions
) -> None:
    check(loaded, collect(loaded, examples, tmp_path, Silent(), what="test", positions=positions), 1)


def test_a_mask_picks_a_kind_of_position_from_what_was_collected(
    loaded: LoadedModel, examples: list[Encoded], tmp_path: Path
) -> None:
    prompts = collect(loaded, examples, tmp_path / "p", Silent(), what="test", positions=Positions.PROMPT)
    after = collect(loaded, examples, tmp_path / "i", Silent(), what="test", positions=Positions.POST_INSTRUCTION)
    torch.testing.assert_close(prompts.layer(1)[prompts.mask(Positions.POST_INSTRUCTION)], after.layer(1))
    assert not prompts.mask(Positions.RESPONSE).any()


def test_only_the_chosen_layers_are_stored_and_another_is_refused_by_name(
    loaded: LoadedModel, examples: list[Encoded], tmp_path: Path
) -> None:
    collected = collect(loaded, examples, tmp_path, Silent(), what="test", layers=[2])
    check(loaded, collected, 2)
    with pytest.raises(DataError, match=r"has no layer 0, only layer\.2"):
        collected.layer(0)
    with pytest.raises(DataError, match=r"layers \[3\] were asked for; the model has layers 0 to 2"):
        collect(loaded, examples, tmp_path / "other", Silent(), what="test", layers=[1, 3])


@pytest.mark.parametrize(("dtype", "rtol"), [("bf16", 2**-8), ("fp16", 2**-10)])
def test_half_precision_takes_half_the_space_and_rounds_each_number_once(
    loaded: LoadedModel, examples: list[Encoded], tmp_path: Path, dtype: Any, rtol: float
) -> None:
    whole = collect(loaded, examples, tmp_path / "fp32", Silent(), what="test")
    half = collect(loaded, examples, tmp_path / dtype, Silent(), what="test", dtype=dtype)
    assert sum(s.stat().st_size for s in half.shards) < 0.6 * sum(s.stat().st_size for s in whole.shards)
    torch.testing.assert_close(half.layer(1), whole.layer(1), rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("rows_at_once", [1, 7, 10**6])
def test_batches_of_any_size_are_the_layer_in_order(
    loaded: LoadedModel, examples: list[Encoded], tmp_path: Path, rows_at_once: int
) -> None:
    collected = collect(loaded, examples, tmp_path, Silent(), what="test")
    whole, end = collected.layer(1), 0
    for place, batch in collected.batches(1, rows_at_once):
        assert (place.start, len(batch)) == (end, min(rows_at_once, len(whole) - end))
        assert torch.equal(batch, whole[place])
        end = place.stop
    assert end == len(whole)


def test_an_example_longer_than_a_shard_is_spread_over_several(
    loaded: LoadedModel, examples: list[Encoded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "LAYER_BYTES", 3 * D_MODEL * 4)
    collected = collect(loaded, examples, tmp_path, Silent(), what="test", positions=Positions.PROMPT)
    check(loaded, collected, 1)
    header = 4096
    assert max(s.stat().st_size for s in collected.shards) <= 3 * D_MODEL * 4 * N_LAYERS + header


def test_an_interrupted_collection_goes_on_with_the_chunks_that_are_missing(
    loaded: LoadedModel, examples: list[Encoded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = collect(loaded, examples, tmp_path / "whole", Silent(), what="test")
    write, written = ShardWriter.write, []

    def counted(writer: ShardWriter, buffer: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(buffer.chunk)
        write(writer, buffer)

    monkeypatch.setattr(ShardWriter, "write", counted)
    with pytest.raises(KeyboardInterrupt):
        collect(loaded, examples, tmp_path / "parts", Silent(), what="test")
    seen: list[int] = []
    monkeypatch.setattr(ShardWriter, "write", lambda w, b: (seen.append(1), write(w, b)))
    (tmp_path / "parts" / "shard-00000.safetensors").write_bytes(b"")  # as a power failure leaves it
    resumed = collect(loaded, examples, tmp_path / "parts", Silent(), what="test")
    assert len(seen) == len(whole.shards) - 1
    assert torch.equal(resumed.layer(1), whole.layer(1))


@pytest.fixture
def small_disk() -> Iterator[None]:
    """The system refuses to write files of more than 16 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_leaves_nothing_broken(
    loaded: LoadedModel, examples: list[Encoded], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert collect(loaded, examples[:2], tmp_path / "few", Silent(), what="test").shards[0].stat().st_size < 16384
    request.getfixturevalue("small_disk")
    with pytest.raises(OSError, match=r"cannot be written.*make room and start again"):
        collect(loaded, examples, tmp_path / "all", Silent(), what="test", positions=Positions.PROMPT)
    assert not list((tmp_path / "all").iterdir())


def test_a_folder_of_other_activations_is_refused(loaded: LoadedModel, examples: list[Encoded], tmp_path: Path) -> None:
    collect(loaded, examples, tmp_path, Silent(), what="test")
    with pytest.raises(DataError, match="was collected for other data, layers, positions or another dtype"):
        collect(loaded, examples[1:], tmp_path, Silent(), what="test")


def test_numbers_beyond_the_range_of_fp16_are_refused_not_stored(
    loaded: LoadedModel, examples: list[Encoded], tmp_path: Path
) -> None:
    steered = module.observed(loaded, [0], lambda _, stream: stream.mul_(1e5))
    with pytest.raises(DataError, match=r"layer 1: \d+ of \d+ activations are not finite in fp16.*bf16 or fp32"):
        collect(loaded, examples, tmp_path, Silent(), what="test", dtype="fp16", steering=steered)
    assert not list(tmp_path.glob("*.safetensors"))


def test_steering_is_on_during_the_collection_only(
    loaded: LoadedModel, examples: list[Encoded], tmp_path: Path
) -> None:
    unit = torch.zeros(D_MODEL)
    unit[5] = 1.0
    steered = collect(loaded, examples, tmp_path / "s", Silent(), what="test", steering=ablated(loaded, unit))
    plain = collect(loaded, examples, tmp_path / "p", Silent(), what="test")
    assert steered.layer(1)[:, 5].abs().max() < 1e-5
    assert plain.layer(1)[:, 5].abs().max() > 1e-2


def test_positions_that_no_example_has_are_refused(loaded: LoadedModel, tmp_path: Path) -> None:
    bare = Encoded((3, 4), Scope.ALL, 0, 2, 1, (1, 1), (1.0, 1.0))
    with pytest.raises(DataError, match="none of the 1 examples has span tokens"):
        collect(loaded, [bare], tmp_path, Silent(), what="test", positions=Positions.SPAN)


def test_a_disk_that_is_too_small_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"GB free, the activations need 1000000000\.0 GB.*--work"):
        check_space(tmp_path, 10**18)
