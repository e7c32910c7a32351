"""Put the parts of one worker together, once the sizes are known.

Runs in: vLLM worker, once, when the KV cache is initialised.
"""

from __future__ import annotations

from typing import Any

import vllm
from vllm.distributed import get_pp_group, get_tensor_model_parallel_rank

from monitor.engine.follow import Followers
from monitor.engine.gate import Gate
from monitor.engine.instrument import Instrumentation
from monitor.engine.kv_groups import followed_kv_group
from monitor.engine.ledger import Ledger
from monitor.engine.lines import Lines
from monitor.engine.loaded import LoadedDirections
from monitor.engine.publish import FramePublisher
from monitor.engine.score_cache import ScoreCache
from monitor.engine.settings import EngineSettings
from monitor.engine.step import StepHooks
from monitor.frames import rank_endpoint
from probes.bundle import Bundle, trusted_keys


def publisher_for(
    config: Any, bundle: Bundle, settings: EngineSettings, taps: Instrumentation, untested: str
) -> FramePublisher | None:
    """The frame channel, on the one rank whose output the engine core reads; None on the others."""
    if not get_pp_group().is_last_rank or get_tensor_model_parallel_rank() != 0:
        return None
    rank = config.parallel_config.data_parallel_index
    return FramePublisher(
        rank_endpoint(settings.frames, rank), bundle.digest, taps.probes, vllm.__version__,
        rank=rank, ranks=settings.ranks, untested=untested,
    )  # fmt: skip


def assemble(
    config: Any, bundle: Bundle, settings: EngineSettings, taps: Instrumentation, publisher: FramePublisher | None,
    kv_cache_config: Any,
) -> StepHooks:  # fmt: skip
    """The hooks of this worker's runner.

    Args:
        config: the ``VllmConfig``. kv_cache_config: what the runner was given.

    Raises:
        EngineSetupError: the KV cache has no group whose blocks the score cache could follow.
    """
    capacity = config.scheduler_config.max_num_seqs
    group = followed_kv_group(kv_cache_config.kv_cache_groups, prefix_caching=config.cache_config.enable_prefix_caching)
    block_size = kv_cache_config.kv_cache_groups[group].kv_cache_spec.block_size
    manifest = bundle.manifest
    gate = Gate(manifest, taps.probes, capacity)
    trusted = trusted_keys(settings.trusted_keys)
    loaded = LoadedDirections(
        taps.steering, settings.directions, len(manifest.directions), manifest.model.d_model, trusted
    )
    max_blocks = -(-config.model_config.max_model_len // block_size) + 1
    followers = Followers(settings, bundle.digest, gate.probes, loaded)
    followers.spreads = config.lora_config is not None and config.device_config.device_type == "cpu"
    return StepHooks(
        followers,
        taps,
        gate,
        Ledger(capacity, max_blocks, block_size, group),
        Lines(taps.steering, capacity),
        ScoreCache(kv_cache_config.num_blocks, block_size, len(taps.probes))
        if config.cache_config.enable_prefix_caching
        else None,
        publisher,
    )
