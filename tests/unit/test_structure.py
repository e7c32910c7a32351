"""The walls of the house: which package may import which, and how large a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("monitor", "probes")

# From the top down: a package may import those below it (to its right), never a sibling or one above.
MAY_IMPORT = {
    "monitor.types": {"probes.errors", "probes.types"},
    "monitor.errors": {"monitor.types", "probes.errors"},
    "monitor.frames": {"monitor.errors", "monitor.types"},
    "monitor.policy": {"monitor.errors", "monitor.types", "probes.types", "probes.errors", "probes.bundle"},
    "monitor.session": {
        "monitor.errors", "monitor.types", "monitor.frames", "monitor.policy", "monitor.fanout", "probes.types",
    },
    "monitor.record": {"monitor.errors", "monitor.types", "monitor.fanout", "probes.types"},
    "monitor.engine": {
        "monitor.errors", "monitor.types", "monitor.frames", "monitor.policy.plan", "monitor.policy.directions",
        "probes.activations", "probes.bundle", "probes.errors",
        "probes.fingerprint", "probes.fold", "probes.linear", "probes.scope", "probes.types",
    },
}  # fmt: skip
ONLY_IMPORTERS = {
    "vllm": {"monitor.engine"},
    "grpc": {"monitor.rpc", "monitor.v1", "monitor.cli.check", "monitor.cli.watch"},  # the last two are clients
    "torch": {
        "monitor.engine",
        "probes.activations",
        "probes.linear",
        "probes.fold",
        "probes.train",
        "probes.organism",
    },
    "sklearn": {"probes.train", "probes.organism.separation"},
    "transformers": {"probes.train", "probes.organism"},
    "starlette": {"monitor.gateway", "monitor.app"},
    "zmq": {"monitor.engine", "monitor.session"},
    "cryptography": {"probes.bundle"},
    "jinja2": {"probes.report"},
    "matplotlib": {"probes.report"},
}


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def imports_of(name: str) -> set[str]:
    """Everything that a module imports, wherever the statement stands, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            found.update(
                full if (full := f"{node.module}.{alias.name}") in MODULES else str(node.module) for alias in node.names
            )
    return found


def is_in(name: str, packages: set[str]) -> bool:
    return any(name == p or name.startswith(p + ".") for p in packages)


def test_probes_never_imports_monitor():
    assert not [n for n in MODULES if n.startswith("probes") for i in imports_of(n) if is_in(i, {"monitor"})]


def test_nothing_in_monitor_imports_the_training_of_probes():
    assert not [n for n in MODULES if n.startswith("monitor") for i in imports_of(n) if is_in(i, {"probes.train"})]


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_imports_point_down(package):
    wrong = [
        f"{name} imports {i}"
        for name in MODULES
        if is_in(name, {package})
        for i in imports_of(name)
        if is_in(i, set(PACKAGES)) and not is_in(i, {package} | MAY_IMPORT[package])
    ]
    assert not wrong


@pytest.mark.parametrize("library", sorted(ONLY_IMPORTERS))
def test_a_heavy_library_is_imported_in_its_own_rooms_only(library):
    allowed = ONLY_IMPORTERS[library]
    assert not [n for n in MODULES if not is_in(n, allowed) for i in imports_of(n) if is_in(i, {library})]


def test_there_is_no_import_cycle():
    graph = {name: {i for i in imports_of(name) if i in MODULES} for name in MODULES}
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in graph[name]:
                visit(other, [*path, name])
            done.add(name)

    for name in graph:
        visit(name, [])


def test_the_monitor_starts_without_torch_vllm_or_scikit_learn():
    program = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torch', 'vllm', 'sklearn', 'transformers'):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import monitor.app, monitor.cli, monitor.rpc.server
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_no_file_is_long():
    # Generated code is exempt.
    lengths = {n: len(p.read_text().splitlines()) for n, p in MODULES.items() if not is_in(n, {"monitor.v1"})}
    assert not {name: length for name, length in lengths.items() if length > 300}
