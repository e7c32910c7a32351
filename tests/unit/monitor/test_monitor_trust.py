"""Only bundles that a trusted key has signed are served, where such keys are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from monitor_samples import MANIFEST, direction, write_directions
from typer.testing import CliRunner

import monitor.cli as cli
from monitor.config import MonitorSettings
from monitor.engine.settings import EngineSettings
from monitor.errors import ConfigError, PlanError
from monitor.policy.directions import Directions, read_loaded
from probes.bundle import make_key, read_private_key, sign_bundle, trusted_keys

ORGANISM = Path(__file__).parents[3] / "probes" / "organism"
POLICY = Path(__file__).parents[3] / "monitor" / "demo" / "policy.yaml"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_key(tmp_path / "ours")
    return tmp_path / "ours.pub"


@pytest.mark.parametrize("command", ["serve", "monitor"])
def test_an_unsigned_bundle_is_not_served_and_the_message_says_what_to_do(key, command, monkeypatch):
    monkeypatch.setenv("PLUMBLINE_PLAN_KEY", "ab" * 32)
    words = [command, "--bundle", ORGANISM / "bundle", "--policy", POLICY, "--trusted-key", key]
    words += ["--model", ORGANISM / "weights"] if command == "serve" else ["--engine", "http://127.0.0.1:1"]
    words += ["--frames", "ipc:///tmp/none"] if command == "monitor" else []
    done = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert done.exit_code == 2
    assert "is not signed" in done.output.replace("\n", " ")
    assert "plumbline bundle sign" in done.output.replace("\n", " ")


def test_a_direction_is_loaded_only_from_a_bundle_that_is_signed(tmp_path: Path, key: Path):
    folder = tmp_path / "directions"
    write_directions(folder / "extra", direction("humour"))
    trusted = trusted_keys([key])
    directions = Directions(folder, MANIFEST.model.fingerprint, trusted)
    with pytest.raises(PlanError, match="is not signed"):
        directions.resolve("extra:humour")
    sign_bundle(folder / "extra", read_private_key(tmp_path / "ours", lambda: None))
    _, pinned = directions.resolve("extra:humour")
    assert read_loaded(folder, pinned, trusted)[0].name == "humour"
    make_key(tmp_path / "theirs")
    with pytest.raises(PlanError, match=r"signature|signed"):
        read_loaded(folder, pinned, trusted_keys([tmp_path / "theirs.pub"]))


def test_an_empty_variable_is_refused_because_somebody_meant_to_demand_signatures(monkeypatch):
    monkeypatch.setenv("PLUMBLINE_TRUSTED_KEYS", "")
    with pytest.raises(ValueError, match="PLUMBLINE_TRUSTED_KEYS"):
        MonitorSettings()
    env = {"PLUMBLINE_BUNDLE": "b", "PLUMBLINE_FRAMES": "ipc://f", "PLUMBLINE_PLAN_KEY": "ab" * 32}
    with pytest.raises(ConfigError, match="PLUMBLINE_TRUSTED_KEYS"):
        EngineSettings.from_env(env | {"PLUMBLINE_TRUSTED_KEYS": "a.pub::b.pub"})
    settings = EngineSettings.from_env(env | {"PLUMBLINE_TRUSTED_KEYS": "a.pub:b.pub"})
    assert settings is not None
    assert settings.trusted_keys == (Path("a.pub"), Path("b.pub"))
