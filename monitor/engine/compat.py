"""What this plugin supports, and the refusal of everything else.

Runs in: vLLM worker, before the model is instrumented. An engine that cannot be right does not start.
"""

from __future__ import annotations

from typing import Any

from monitor.errors import EngineSetupError

VERIFIED_VERSIONS = ("0.32",)
"""vLLM minor versions with a parity test in this repository."""

VERIFIED_ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""Fused pre-norm families: ``layers[i]`` returns ``(hidden, residual)``, with ``self_attn`` and ``mlp``."""


def check_engine(version: str, config: Any) -> None:
    """Refuse what has not been shown to give exact scores.

    Args:
        version: ``vllm.__version__``.
        config: the ``VllmConfig`` of this engine.

    Raises:
        EngineSetupError: every reason at once, each with what to change.
    """
    reasons = [
        *_version(version),
        *_model(config.model_config),
        *_parallel(config.parallel_config),
        *_scheduling(config),
    ]
    if reasons:
        raise EngineSetupError("Plumbline cannot instrument this engine:\n" + "\n".join(f"  - {r}" for r in reasons))


def _version(version: str) -> list[str]:
    if any(version == v or version.startswith(v + ".") for v in VERIFIED_VERSIONS):
        return []
    return [f"vLLM {version} is not verified; install one of: {', '.join(v + '.x' for v in VERIFIED_VERSIONS)}"]


def _model(model: Any) -> list[str]:
    reasons = []
    if model.runner_type != "generate":
        reasons.append(f"a {model.runner_type} model never samples, and is never scored; use --runner generate")
    if model.architecture not in VERIFIED_ARCHITECTURES:
        known = ", ".join(VERIFIED_ARCHITECTURES)
        reasons.append(f"architecture {model.architecture} is not verified; verified are: {known}")
    if getattr(model, "enable_prompt_embeds", False):
        reasons.append("prompt embeddings bypass the embedding that ablation projects; drop --enable-prompt-embeds")
    return reasons


def _parallel(parallel: Any) -> list[str]:
    return [
        f"{flag} {size} is not verified yet; use 1"
        for flag, size in (
            ("--tensor-parallel-size", parallel.tensor_parallel_size),
            ("--pipeline-parallel-size", parallel.pipeline_parallel_size),
            ("--data-parallel-size", parallel.data_parallel_size),
            ("--decode-context-parallel-size", getattr(parallel, "decode_context_parallel_size", 1)),
        )
        if size != 1
    ]


def _scheduling(config: Any) -> list[str]:
    reasons = []
    if config.use_v2_model_runner:
        reasons.append("the V2 model runner is not verified yet; set VLLM_USE_V2_MODEL_RUNNER=0")
    if config.scheduler_config.async_scheduling:
        reasons.append("asynchronous scheduling is not verified yet; add --no-async-scheduling")
    if config.speculative_config is not None:
        reasons.append("speculative decoding feeds tokens that may be rejected; drop --speculative-config")
    if config.lora_config is not None:
        reasons.append("LoRA changes the model that the probes were trained on; drop --enable-lora")
    if config.kv_transfer_config is not None:
        reasons.append("a KV connector fills cache slots without a forward pass; drop --kv-transfer-config")
    if config.cache_config.kv_sharing_fast_prefill:
        reasons.append("fast prefill skips layers of prompt tokens; drop --kv-sharing-fast-prefill")
    return reasons


def check_kv_groups(n_groups: int) -> None:
    """The score cache follows one KV cache group.

    Raises:
        EngineSetupError: the model has several (sliding windows, hybrids).
    """
    if n_groups != 1:
        raise EngineSetupError(
            f"Plumbline cannot instrument this engine:\n  - the model has {n_groups} KV cache groups; the score "
            "cache supports models with full attention only"
        )
