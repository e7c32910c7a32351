"""``report`` writes both files as a whole, or says why it cannot."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
from report_samples import D_MODEL, manifest, minimal_card
from typer.testing import CliRunner

from probes.bundle import write_bundle
from probes.cards import Card
from probes.report_cli import app


def bundle(path: Path, card: Card | None) -> Path:
    described = manifest()
    unit = np.eye(D_MODEL, dtype=np.float32)[0]
    tensors = {f"probe.{p.name}.weights": unit for p in described.probes}
    tensors |= {f"direction.{d.name}.vector": unit for d in described.directions}
    write_bundle(path, described, tensors, card=card)
    return path


@pytest.fixture(scope="module")
def carded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("bundles") / "carded", minimal_card())


def run(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_page_and_its_markdown_lie_beside_each_other_and_nothing_else_does(carded, tmp_path):
    done = run(carded, "--out", tmp_path / "new" / "report.html")
    assert done.exit_code == 0, done.output
    page, twin = tmp_path / "new" / "report.html", tmp_path / "new" / "report.md"
    assert done.output.split() == [str(page), str(twin)]
    assert sorted(page.parent.iterdir()) == [page, twin]
    assert page.read_text().startswith("<!doctype html>")
    assert twin.read_text().startswith("# Evaluation report: sample")
    assert stat.S_IMODE(page.stat().st_mode) & stat.S_IRUSR


def test_an_older_report_is_replaced(carded, tmp_path):
    page, twin = tmp_path / "r.html", tmp_path / "elsewhere.md"
    page.write_text("old")
    assert run(carded, "--out", page, "--markdown", twin).exit_code == 0
    assert "old" not in page.read_text()[:3]
    assert twin.exists()
    assert not (tmp_path / "r.md").exists()


def test_a_bundle_without_a_card_is_refused_with_what_to_do(tmp_path):
    done = run(bundle(tmp_path / "bare", None), "--out", tmp_path / "report.html")
    assert done.exit_code == 1
    assert "has no card.json" in done.output
    assert "plumbline bundle show" in done.output
    assert not (tmp_path / "report.html").exists()


def test_a_page_that_its_markdown_would_overwrite_is_refused(carded, tmp_path):
    done = run(carded, "--out", tmp_path / "report.md")
    assert done.exit_code == 2
    assert "cannot both be" in done.output
