"""The command line: what it says, its exit statuses, and what it does not import."""

import logging
import subprocess
import sys
from types import SimpleNamespace

import pytest
from monitor_samples import DIGEST, MANIFEST, direction, write_directions
from typer.testing import CliRunner

import monitor.cli as cli
import probes.bundle

LOADED = """
version: 1
default: a
policies:
  - name: a
    steering:
      - direction: moods:humour
        operator: clamp
        strength: 0.5
        low: -1
        high: 2
        start: 3
        half_life: 8
        when: {probe: deception, threshold: 1.5}
    rules:
      - {name: lie, probe: deception, action: replace, text: I would rather not say.}
"""


@pytest.fixture
def run(monkeypatch, tmp_path):
    bundle = SimpleNamespace(manifest=MANIFEST, digest=DIGEST, path=tmp_path)
    monkeypatch.setattr(probes.bundle, "read_bundle", lambda _path, **_: bundle)
    return lambda *words: CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.fixture(autouse=True)
def logs_as_before():
    """Commands set up logging for a whole process."""
    loggers = [logging.getLogger(name) for name in (None, "monitor", "plumbline.verdict")]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_help_needs_neither_torch_nor_vllm_nor_grpc():
    code = (
        "import sys\nfrom monitor.cli import main\nsys.argv = ['plumbline', 'serve', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'vllm', 'grpc', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--engine-arg" in done.stdout
    assert done.stdout.rstrip().endswith("[]")


def test_policy_validate_says_good_or_why_not(run, policy_file):
    done = run("policy", "validate", policy_file, "--bundle", "b")
    assert done.exit_code == 0
    assert "default standard" in done.stdout
    policy_file.write_text("version: 1\ndefault: a\npolicies: [{name: a, mode: enforced}]")
    done = run("policy", "validate", policy_file, "--bundle", "b")
    assert done.exit_code == 2
    assert "policies[0].mode: got 'enforced'" in done.stderr


def test_policy_explain_says_what_it_does(run, policy_file, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    done = run("policy", "explain", policy_file, "--bundle", "b")
    assert done.exit_code == 0
    for words in (
        "standard  (default)",
        "callers may steer: add/ablate refusal up to 2",
        "harmful_intent (layer 2, max)",
        "FPR 0.50% on 1000 negatives of validation",
        "steer: add refusal x 1",
        "observes",
        "callers may not select it",
    ):
        assert words in done.stdout


def test_policies_with_loaded_directions_are_read_out(run, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    write_directions(tmp_path / "extra" / "moods", direction("humour"))
    (tmp_path / "policy.yaml").write_text(LOADED)
    words = [tmp_path / "policy.yaml", "--bundle", "b"]
    done = run("policy", "explain", *words, "--directions", tmp_path / "extra")
    assert done.exit_code == 0, done.stderr
    for said in (
        "clamp moods:humour x 0.5 (all) from -1 to 2 from token 3 on halved every 8 tokens",
        "where deception reaches 1.5 (sharpness 10)",
        "replace by: I would rather not say.",
    ):
        assert said in done.stdout
    done = run("policy", "validate", *words)
    assert (done.exit_code, "set --directions" in done.stderr) == (2, True)
    done = run("policy", "validate", *words, "--directions", tmp_path / "nowhere")
    assert (done.exit_code, "nowhere" in done.stderr) == (2, True)


def test_bad_settings_and_missing_files_are_exit_status_2(run, policy_file, monkeypatch):
    monkeypatch.delenv("PLUMBLINE_PLAN_KEY", raising=False)
    words = ["monitor", "--engine", "http://127.0.0.1:1", "--frames", "ipc:///x", "--bundle", "b"]
    done = run(*words, "--policy", policy_file)
    assert (done.exit_code, "PLUMBLINE_PLAN_KEY" in done.stderr) == (2, True)
    done = run(*words, "--policy", policy_file, "--port", "99999")
    assert (done.exit_code, "port" in done.stderr) == (2, True)
