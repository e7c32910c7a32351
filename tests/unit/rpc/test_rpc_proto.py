from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BUF = Path(sys.executable).parent / "buf"


def test_the_committed_package_is_what_the_protos_generate(tmp_path):
    subprocess.run([sys.executable, ROOT / "proto" / "generate.py", "--out", tmp_path], check=True, capture_output=True)
    made = {path.name: path.read_text() for path in (tmp_path / "monitor" / "v1").iterdir()}
    here = {path.name: path.read_text() for path in (ROOT / "monitor" / "v1").glob("*.py*")}
    assert sorted(made) == sorted(here), "run `make proto`"
    assert [name for name in made if made[name] != here[name]] == [], "run `make proto`"


def test_buf_finds_nothing_to_complain_about():
    lint = subprocess.run([BUF, "lint", ROOT / "proto"], check=False, capture_output=True, text=True)
    assert (lint.returncode, lint.stdout, lint.stderr) == (0, "", "")
    layout = subprocess.run(
        [BUF, "format", "--diff", "--exit-code", ROOT / "proto"], check=False, capture_output=True, text=True
    )
    assert (layout.returncode, layout.stdout) == (0, "")
