"""One real engine per configuration, shared by all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from probes.bundle import Bundle
from tests.support.reference import Reference
from tests.support.start import start
from tests.support.tiny import make_bundle, make_model

# Small chunks and a small KV cache: prompts are prefilled in several chunks, and requests are preempted.
SMALL = {
    "block_size": 32, "max_num_batched_tokens": 64, "num_gpu_blocks_override": 24, "disable_log_stats": False,
}  # fmt: skip


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def bundle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny", model)


@pytest.fixture(scope="session")
def reference(model: Path, bundle: Bundle) -> Reference:
    return Reference(model, bundle)


@pytest.fixture(scope="session")
def eager(model: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    engine = start(model, bundle, tmp_path_factory.mktemp("eager"), enforce_eager=True, **SMALL)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def compiled(model: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    engine = start(model, bundle, tmp_path_factory.mktemp("compiled"))
    yield engine
    engine.close()
