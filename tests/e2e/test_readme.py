"""The commands of the README do what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.support.serve import BIN, ROOT, Served

pytestmark = pytest.mark.vllm

TEXT = (ROOT / "README.md").read_text()
SECTION = TEXT[TEXT.index("## Use it") : TEXT.index("## Guard a model of your own")]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", SECTION, flags=re.DOTALL)


def here(text: str, served: Served) -> str:
    """The text with the ports of the running service, and this environment."""
    text = text.replace("localhost:8000", f"127.0.0.1:{served.port}")
    return text.replace("localhost:50051", f"127.0.0.1:{served.grpc_port}").replace(".venv/bin/", f"{BIN}/")


def run(command: list[str], served: Served) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PLUMBLINE_ADDRESS": f"127.0.0.1:{served.grpc_port}"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT, env=env)


def shell_commands() -> list[str]:
    """One command each; lines that are continued, or stand inside quotes, belong together."""
    text = "".join(code for language, code in BLOCKS if language == "sh")
    found, current = [], ""
    for line in text.splitlines():
        current += line + "\n"
        if not line.endswith("\\") and current.count("'") % 2 == 0 and current.strip():
            found.append(current.strip())
            current = ""
    return [c for c in found if c and not c.startswith("make ") and "plumbline watch" not in c]  # tested elsewhere


@pytest.mark.parametrize("command", shell_commands())
def test_every_shell_command_works(command: str, served: Served):
    done = run(["bash", "-c", f"set -o pipefail\n{here(command, served)}"], served)
    expected = 1 if "plumbline check" in command else 0  # the README checks a harmful request
    assert done.returncode == expected, done.stdout + done.stderr
    assert done.stdout.strip()


def test_the_python_example_works(served: Served):
    (code,) = [code for language, code in BLOCKS if language == "python"]
    done = run([sys.executable, "-c", here(code, served)], served)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("passed")


def test_every_link_of_the_docs_leads_somewhere():
    for page in (ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
