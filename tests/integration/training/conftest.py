"""Tiny models for whole runs of training; they need no engine, and start none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from probes.train.model import LoadedModel, load_model
from tests.support.probe_samples import teach_refusal, write_tiny_model


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Many threads only get in each other's way on tensors this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="package")
def refusing_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teach_refusal(write_tiny_model(tmp_path_factory.mktemp("models") / "refusing", seed=2))


@pytest.fixture(scope="package")
def refusing(refusing_dir: Path) -> LoadedModel:
    return load_model(refusing_dir, "cpu")
