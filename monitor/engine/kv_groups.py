"""Whose KV blocks the score cache follows.

A model with several kinds of attention has several KV cache groups over one pool of blocks. The group with full
attention keeps every token of a request; one with a sliding window lets blocks go, and a prefix-cache hit shows null
blocks in their place.

Runs in: vLLM worker, once, when the KV cache is initialised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm.v1.kv_cache_interface import FullAttentionSpec

from monitor.errors import EngineSetupError


def followed_kv_group(groups: Sequence[Any], *, prefix_caching: bool) -> int:
    """Index of the first group with full attention; without prefix caching any group will do.

    Raises:
        EngineSetupError: prefix caching is on and no group keeps every token.
    """
    for index, group in enumerate(groups):
        specs = getattr(group.kv_cache_spec, "kv_cache_specs", None)  # layers of different widths in one group
        for spec in specs.values() if specs is not None else (group.kv_cache_spec,):
            if isinstance(spec, FullAttentionSpec):
                return index
    if prefix_caching:
        kinds = ", ".join(sorted({type(g.kv_cache_spec).__name__ for g in groups})) or "none"
        raise EngineSetupError(
            f"Plumbline cannot instrument this engine:\n  - no KV cache group keeps every token (found: {kinds}), so a "
            "prefix-cache hit has no blocks to take scores from; add --no-enable-prefix-caching"
        )
    return 0
