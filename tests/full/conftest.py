"""One tiny model for the large proofs; each test file starts the engines that it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.conftest import bundle, reference  # noqa: F401  # fixtures, of this model as of that one
from tests.support.tiny import make_model
from tests.support.variants import give_json_words


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return give_json_words(make_model(tmp_path_factory.mktemp("model") / "tiny"))
