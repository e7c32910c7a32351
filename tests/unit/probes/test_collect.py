"""Activations on disk: right, in order, and kept when a run is interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from probe_samples import D_MODEL, N_LAYERS, rows

from probes.template import find_markers
from probes.train import collect as module
from probes.train.collect import check_space, collect
from probes.train.data import Example
from probes.train.encode import Encoded, encode_example
from probes.train.model import LoadedModel, ablated, forward, recorded
from probes.train.progress import Silent


@pytest.fixture
def examples(tokenizer: Any) -> list[Encoded]:
    found = [Example.model_validate(r) for r in rows("deception", {"train": 11})]
    return [encode_example(tokenizer, find_markers(tokenizer), e, 128) for e in found]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_EXAMPLES", 4)
    monkeypatch.setattr(module, "BATCH_TOKENS", 40)


def test_every_layer_holds_the_tokens_in_scope_of_every_example_in_order(
    loaded: LoadedModel, examples: list[Encoded], tmp_path: Path
) -> None:
    collected = collect(loaded, examples, tmp_path, Silent(), what="test")
    assert len(collected.shards) == 3
    for layer in range(N_LAYERS):
        found = collected.layer(layer)
        assert found.shape == (sum(e.n_read for e in examples), D_MODEL)
        assert found.dtype == torch.float32
        for i, example in enumerate(examples):
            with recorded(loaded) as store:
                forward(loaded, [example.ids])
            mine = found[collected.offsets[i] : collected.offsets[i + 1]]
            torch.testing.assert_close(mine, store[layer][0, example.start : example.end], rtol=1e-4, atol=1e-4)


def test_an_interrupted_collection_goes_on_after_the_last_whole_shard(
    loaded: LoadedModel, examples: list[Encoded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = collect(loaded, examples, tmp_path / "whole", Silent(), what="test")
    run, done = module._run, []

    def killed(*args: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return run(*args)

    monkeypatch.setattr(module, "_run", killed)
    with pytest.raises(KeyboardInterrupt):
        collect(loaded, examples, tmp_path / "parts", Silent(), what="test")
    again = []
    monkeypatch.setattr(module, "_run", lambda *args: again.append(1) or run(*args))
    resumed = collect(loaded, examples, tmp_path / "parts", Silent(), what="test")
    assert len(again) == 1
    assert torch.equal(resumed.layer(1), whole.layer(1))


def test_steering_is_on_during_the_collection_only(
    loaded: LoadedModel, examples: list[Encoded], tmp_path: Path
) -> None:
    unit = torch.zeros(D_MODEL)
    unit[5] = 1.0
    steered = collect(loaded, examples, tmp_path / "s", Silent(), what="test", steering=ablated(loaded, unit))
    plain = collect(loaded, examples, tmp_path / "p", Silent(), what="test")
    assert steered.layer(1)[:, 5].abs().max() < 1e-5
    assert plain.layer(1)[:, 5].abs().max() > 1e-2


def test_a_disk_that_is_too_small_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"GB free, the activations need 1000000000\.0 GB.*--work"):
        check_space(tmp_path, 10**18)
