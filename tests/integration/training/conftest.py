"""Tiny models for whole runs of training; they need no engine, and start none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from probes.train.model import LoadedModel, load_model
from tests.support.probe_samples import one_thread, teach_refusal, write_tiny_model


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="package")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="package")
def refusing_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teach_refusal(write_tiny_model(tmp_path_factory.mktemp("models") / "refusing", seed=2))


@pytest.fixture(scope="package")
def refusing(refusing_dir: Path) -> LoadedModel:
    return load_model(refusing_dir, "cpu")
