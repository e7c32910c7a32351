"""Fixtures: a tiny model on disk and in memory, and labelled data for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from probes.train.model import LoadedModel, load_model
from tests.support.probe_samples import one_thread, teach_refusal, write_tiny_model


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def other_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "other", seed=1)


@pytest.fixture(scope="session")
def refusing_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teach_refusal(write_tiny_model(tmp_path_factory.mktemp("models") / "refusing", seed=2))


@pytest.fixture(scope="session")
def refusing(refusing_dir: Path) -> LoadedModel:
    return load_model(refusing_dir, "cpu")


@pytest.fixture(scope="session")
def loaded(model_dir: Path) -> LoadedModel:
    return load_model(model_dir, "cpu")


@pytest.fixture(scope="session")
def tokenizer(model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(model_dir)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(0)
    yield
