"""A plugin for vLLM that switches on, on the CPU, what only GPUs run; see README.md beside this package."""

from __future__ import annotations

import os


def register() -> None:
    """Apply the shims that ``PLUMBLINE_SHIMS`` names (comma-separated)."""
    wanted = set(filter(None, os.environ.get("PLUMBLINE_SHIMS", "").split(",")))
    if unknown := wanted - {"async", "vllm_compile"}:
        raise ValueError(f"PLUMBLINE_SHIMS: got {', '.join(sorted(unknown))}; known are async and vllm_compile")
    if wanted:
        from plumbline_shims.platform import keep

        keep(wanted)
