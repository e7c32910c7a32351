"""One tiny model for the large proofs; each test file starts the engines that it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes.bundle import Bundle
from tests.support.reference import Reference
from tests.support.tiny import make_bundle, make_model
from tests.support.variants import give_json_words


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return give_json_words(make_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="session")
def bundle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny", model)


@pytest.fixture(scope="session")
def reference(model: Path, bundle: Bundle) -> Reference:
    return Reference(model, bundle)
