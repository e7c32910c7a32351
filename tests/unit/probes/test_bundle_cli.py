"""``plumbline bundle``: what each command prints, its exit status, and that its page has all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from bundle_samples import make_card, make_manifest, make_probe, make_tensors, reseal
from typer.testing import CliRunner, Result

from probes.bundle import Bundle, read_bundle, write_bundle
from probes.bundle_cli import app

PAGE = (Path(__file__).parents[3] / "docs" / "bundles.md").read_text()


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("PLUMBLINE_TRUSTED_KEYS", "PLUMBLINE_KEY_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "bundle", make_manifest(), make_tensors(), card=make_card())


def run(*words: object, status: int = 0, typed: str | None = None) -> Result:
    done = CliRunner().invoke(app, [str(word) for word in words], input=typed)
    assert done.exit_code == status, done.output
    return done


def test_show_prints_the_summary_of_the_card_in_80_columns(tmp_path: Path) -> None:
    names = ("deception", "harmful_intent", "hallucination")
    tensors = {key: tensor for name in names for key, tensor in make_tensors(name).items()}
    card = make_card()
    card = card.model_copy(update={"probes": dict.fromkeys(names, card.probes["deception"])})
    manifest = make_manifest(probes=tuple(make_probe(name) for name in names))
    write_bundle(tmp_path / "b", manifest, tensors, card=card)
    lines = run("show", tmp_path / "b").stdout.splitlines()
    assert max(len(line) for line in lines if not line.startswith(("in ", "digest "))) <= 80
    text = " ".join(" ".join(lines).replace("│", " ").split())
    for said in (
        "0.970 0.970 0.970",  # AUROC, from the card
        "0.960-0.980",
        "TF-IDF 0.645 0.645 0.645",
        "+0.315 to +0.335",
        "shuffled labels 0.503",
        "long_context 2.5%, - 2.5%, -",
        "ablate 1.0 99.0% 3.0%",
        "100 random directions",
        "What did not work a probe at layer 0: AUROC 0.55, no better than chance",
        "Recalibrate on your own traffic.",
        "not signed",
    ):
        assert said in text


def test_text_of_a_bundle_cannot_dress_itself_up(tmp_path: Path) -> None:
    card = make_card().model_copy(update={"note": "[bold]big[/bold]", "advice": "[link=http://x]y[/link]"})
    write_bundle(tmp_path / "b", make_manifest(name="[red]x"), make_tensors(), card=card)
    shown = run("show", tmp_path / "b").stdout
    assert "[red]x" in shown and "[bold]big[/bold]" in shown and "[link=http://x]y[/link]" in shown


def test_a_bundle_is_signed_and_verified_with_the_keys_of_keygen(bundle: Bundle, tmp_path: Path) -> None:
    key = tmp_path / "release"
    assert "not encrypted" in run("keygen", key).stdout
    assert "not signed" in run("verify", bundle.path).stdout
    assert "is not signed; wanted" in run("verify", bundle.path, "--key", f"{key}.pub", status=1).stderr
    run("sign", bundle.path, "--key", key)
    assert "signed by the trusted key" in run("verify", bundle.path, "--key", f"{key}.pub").stdout
    assert "the signature was not checked" in run("verify", bundle.path).stdout
    assert "has a signature already" in run("sign", bundle.path, "--key", key, status=1).stderr
    assert "never overwritten" in run("keygen", key, status=1).stderr


def test_any_of_several_trusted_keys_will_do_and_the_environment_may_name_them(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("old", "new"):
        run("keygen", tmp_path / name)
    run("sign", bundle.path, "--key", tmp_path / "new")
    run("verify", bundle.path, "--key", tmp_path / "old.pub", "--key", tmp_path / "new.pub")
    monkeypatch.setenv("PLUMBLINE_TRUSTED_KEYS", f"{tmp_path / 'old.pub'}:{tmp_path / 'new.pub'}")
    assert "signed by the trusted key" in run("verify", bundle.path).stdout
    monkeypatch.setenv("PLUMBLINE_TRUSTED_KEYS", str(tmp_path / "old.pub"))
    assert "which is not trusted" in run("verify", bundle.path, status=1).stderr


def test_an_empty_variable_of_trusted_keys_is_refused_and_a_key_by_name_goes_before_it(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("keygen", tmp_path / "key")
    run("sign", bundle.path, "--key", tmp_path / "key")
    monkeypatch.setenv("PLUMBLINE_TRUSTED_KEYS", "")
    assert "PLUMBLINE_TRUSTED_KEYS names an empty path" in run("verify", bundle.path, status=1).stderr
    assert "signed by the trusted key" in run("verify", bundle.path, "--key", tmp_path / "key.pub").stdout
    for value in (":", f"{tmp_path / 'key.pub'}:"):
        monkeypatch.setenv("PLUMBLINE_TRUSTED_KEYS", value)
        assert "empty path" in run("verify", bundle.path, status=1).stderr


def test_the_passphrase_is_asked_for_twice_or_comes_from_the_environment(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key"
    assert "encrypted\n" in run("keygen", key, "--passphrase", typed="secret\nsecret\n").stdout
    assert "give its passphrase" in run("sign", bundle.path, "--key", key, status=1).stderr
    monkeypatch.setenv("PLUMBLINE_KEY_PASSPHRASE", "wrong")
    assert "its passphrase is another" in run("sign", bundle.path, "--key", key, status=1).stderr
    monkeypatch.setenv("PLUMBLINE_KEY_PASSPHRASE", "secret")
    run("sign", bundle.path, "--key", key)


def test_diff_exits_with_0_if_equal_1_if_not_and_2_if_it_cannot_say(bundle: Bundle, tmp_path: Path) -> None:
    write_bundle(tmp_path / "twin", make_manifest(), make_tensors(), card=make_card())
    write_bundle(tmp_path / "other", make_manifest(version="2"), make_tensors(seed=1), card=make_card(auroc=0.9))
    assert "hold the same" in run("diff", bundle.path, tmp_path / "twin").stdout
    shown = run("diff", bundle.path, tmp_path / "other", status=1).stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert "probe deception changed, cosine of the vectors" in shown
    assert "card.auroc.value" in shown
    assert "is not a folder" in run("diff", bundle.path, tmp_path / "absent", status=2).stderr


def test_diff_prints_json_for_programs(bundle: Bundle, tmp_path: Path) -> None:
    write_bundle(tmp_path / "other", make_manifest(version="2"), make_tensors(), card=make_card())
    found = json.loads(run("diff", bundle.path, tmp_path / "other", "--json", status=1).stdout)
    assert found["equal"] is False
    assert found["before"] == bundle.digest
    assert found["changes"] == [{"field": "version", "before": "1", "after": "2"}]


def test_merge_refuses_a_clash_and_takes_a_rename(bundle: Bundle, tmp_path: Path) -> None:
    other, out = tmp_path / "other", tmp_path / "both"
    write_bundle(other, make_manifest(direction="honesty"), make_tensors(direction="honesty", seed=1))
    assert "--rename 2:deception=NEW" in run("merge", bundle.path, other, "--out", out, status=1).stderr
    assert "wanted OLD=NEW" in run("merge", bundle.path, other, "--out", out, "--rename", "x", status=1).stderr
    run("merge", bundle.path, other, "--out", out, "--name", "both", "--rename", "2:deception=deception_b")
    merged = read_bundle(out)
    assert merged.manifest.name == "both"
    assert [probe.name for probe in merged.manifest.probes] == ["deception", "deception_b"]


def test_an_older_bundle_is_refused_with_the_command_that_converts_it(bundle: Bundle, tmp_path: Path) -> None:
    manifest = json.loads((bundle.path / "bundle.json").read_text())
    (bundle.path / "bundle.json").write_text(json.dumps(manifest | {"schema_version": 1}))
    (bundle.path / "card.json").unlink()
    reseal(bundle.path)
    told = run("show", bundle.path, status=1).stderr
    command = re.search(r"plumbline bundle (migrate) (\S+) NEW", told)
    assert command is not None
    run(command[1], command[2], tmp_path / "new")
    assert "tiny" in run("show", tmp_path / "new").stdout


def test_the_page_has_every_command_and_no_other() -> None:
    commands = {str(command.name or command.callback.__name__) for command in app.registered_commands}
    assert set(re.findall(r"plumbline bundle ([a-z]+)", PAGE)) == commands
