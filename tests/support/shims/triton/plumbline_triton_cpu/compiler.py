"""The compiler that is never asked."""

from __future__ import annotations

from typing import Any

from triton.backends import compiler as base


class CPUBackend(base.BaseBackend):
    """Says yes to the interpreter's target."""

    @staticmethod
    def supports_target(_: Any) -> bool:
        return True

    def hash(self) -> str:
        return "interpreter"

    def parse_options(self, options: Any) -> Any:
        return options

    def add_stages(self, *_: Any, **__: Any) -> None: ...

    def load_dialects(self, _: Any) -> None: ...

    def get_module_map(self) -> dict[str, Any]:
        return {}

    def get_codegen_implementation(self, *_: Any) -> dict[str, Any]:
        return {}

    def pack_metadata(self, metadata: Any) -> Any:
        return metadata


CPUBackend.__abstractmethods__ = frozenset()
