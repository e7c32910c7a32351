"""Keep asynchronous scheduling and the GPU's compilation where vLLM's CPU platform would switch them off."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from vllm.platforms.cpu import CpuPlatform


def keep(wanted: set[str]) -> None:
    """Restore the wanted settings after the platform had its say."""
    original = CpuPlatform.check_and_update_config.__func__
    if hasattr(original, "__wrapped__"):
        return

    def check_and_update_config(cls: Any, config: Any) -> None:
        compilation = config.compilation_config
        mode, backend = compilation.mode, compilation.backend
        original(cls, config)
        if "async" in wanted:
            config.scheduler_config.async_scheduling = True
        if "vllm_compile" in wanted:
            compilation.mode, compilation.backend = mode, backend or "inductor"
            compilation.compile_sizes = []

    check_and_update_config.__wrapped__ = original
    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)
    if "async" in wanted:
        _no_streams()
    if "vllm_compile" in wanted:
        _no_functionalization_fixes()


class _Event:
    """An event on a device that does everything at once."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record(self, *_: Any) -> None: ...

    def synchronize(self) -> None: ...

    def wait(self, *_: Any) -> None: ...

    def query(self) -> bool:
        return True


class _Stream:
    """A stream on a device that has only one."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.device = torch.device("cpu")

    def wait_stream(self, *_: Any) -> None: ...

    def wait_event(self, *_: Any) -> None: ...

    def synchronize(self) -> None: ...


def _no_streams() -> None:
    torch.cuda.Event = torch.Event = _Event
    torch.cuda.Stream = _Stream
    torch.cuda.current_stream = lambda *_, **__: _Stream()
    torch.cuda.stream = lambda _: contextlib.nullcontext()
    torch.cuda.set_stream = lambda _: None


def _no_functionalization_fixes() -> None:
    """This pass knows GPU kernels only."""
    from vllm.compilation.passes.utility.fix_functionalization import FixFunctionalizationPass

    FixFunctionalizationPass.__call__ = lambda *_: None
