"""The device that the interpreter runs on."""

from __future__ import annotations

from typing import Any

import torch
from triton.backends import driver as base
from triton.backends.compiler import GPUTarget


class CPUDriver(base.DriverBase):
    """Always active; the target's numbers mean nothing to an interpreter."""

    def __init__(self) -> None: ...

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cpu", "interpreter", 1)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_current_device(self) -> int:
        return 0

    def get_device_interface(self) -> Any:
        return torch.cpu

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_benchmarker(self) -> None:
        return None


CPUDriver.__abstractmethods__ = frozenset()
