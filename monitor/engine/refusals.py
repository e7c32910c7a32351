"""What can never be right, whoever asks for it: one line of text each, and how it is seen in the configuration.

Runs in: vLLM worker, before the model is instrumented. The configuration's fields are those of vLLM 0.26 to 0.33;
one that only some of these versions have is read with ``getattr``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Refusal:
    """A feature of vLLM that breaks the scores.

    Attributes:
        name: of the feature; stable.
        why: what it does to the scores.
        remedy: what to change.
        applies: whether a ``VllmConfig`` uses it.
    """

    name: str
    why: str
    remedy: str
    applies: Callable[[Any], bool]

    def __str__(self) -> str:
        return f"{self.name}: {self.why}; {self.remedy}"


def _fp16_deepseek(config: Any) -> bool:
    model = config.model_config
    return model.architecture.startswith("Deepseek") and str(model.dtype) == "torch.float16"


def _sequence_parallel(config: Any) -> bool:
    parallel = config.parallel_config
    return bool(
        getattr(config.compilation_config.pass_config, "enable_sp", False)  # gone in 0.32
        or parallel.use_sequence_parallel_moe
        or getattr(parallel, "enable_hc_sp", False)
    )


def _offloads_weights(config: Any) -> bool:
    offload = config.offload_config
    return bool(offload.uva.cpu_offload_gb or offload.prefetch.offload_group_size)


def _offloads_kv(config: Any) -> bool:
    hisparse = getattr(config.attention_config, "hisparse_config", None)
    return bool(config.cache_config.kv_offloading_size) or hisparse is not None


def _sees_images(config: Any) -> bool:
    multimodal = config.model_config.multimodal_config
    return multimodal is not None and not multimodal.language_model_only


_PACKED = ("awq", "gptq", "compressed-tensors", "modelopt")
"""Methods whose weights cannot be made while loading; older checkpoints keep their settings outside config.json."""


def _quantises_on_load(config: Any) -> bool:
    method = config.model_config.quantization
    if method is None or any(name in method for name in _PACKED):
        return False
    sources = (config.model_config.hf_config, config.model_config.hf_text_config)
    return not any(getattr(source, "quantization_config", None) for source in sources)


REFUSALS: tuple[Refusal, ...] = (
    Refusal(
        "pooling runner", "a pooling model never samples, and is never scored", "use --runner generate",
        lambda c: c.model_config.runner_type != "generate",
    ),
    Refusal(
        "prompt embeddings", "they bypass the embedding that ablation projects", "drop --enable-prompt-embeds",
        lambda c: c.model_config.enable_prompt_embeds,
    ),
    Refusal(
        "image, audio or video input", "the probes were never trained on such positions",
        "add --language-model-only", _sees_images,
    ),
    Refusal(
        "DeepSeek in float16", "the residual stream is rescaled on the way", "use --dtype bfloat16", _fp16_deepseek,
    ),
    Refusal(
        "speculative decoding", "tokens are fed forward that may then be rejected", "drop --speculative-config",
        lambda c: c.speculative_config is not None,
    ),
    Refusal(
        "diffusion decoding", "a position's token is fed forward several times", "drop --diffusion-config",
        lambda c: c.diffusion_config is not None,
    ),
    Refusal(
        "sequence parallelism", "each rank then holds the residual stream of a part of the rows",
        "drop enable_sp from --compilation-config, and expert parallelism together with data parallelism",
        _sequence_parallel,
    ),
    Refusal(
        "decode context parallelism", "a request's KV slots are spread over the ranks",
        "use --decode-context-parallel-size 1", lambda c: c.parallel_config.decode_context_parallel_size > 1,
    ),
    Refusal(
        "prefill context parallelism", "a prompt's rows are spread over the ranks",
        "use --prefill-context-parallel-size 1", lambda c: c.parallel_config.prefill_context_parallel_size > 1,
    ),
    Refusal(
        "micro-batching", "a step's rows are split and run side by side", "drop --enable-dbo and --ubatch-size",
        lambda c: c.parallel_config.use_ubatching,
    ),
    Refusal(
        "stock torch.compile", "the graph is specialised and cached without the taps",
        "use --compilation-config with mode VLLM_COMPILE, or --enforce-eager",
        lambda c: c.compilation_config.mode.name == "STOCK_TORCH_COMPILE",
    ),
    Refusal(
        "fast prefill", "layers are skipped for the tokens of the prompt", "drop --kv-sharing-fast-prefill",
        lambda c: c.cache_config.kv_sharing_fast_prefill,
    ),
    Refusal(
        "a KV connector", "KV slots are filled without a forward pass", "drop --kv-transfer-config",
        lambda c: c.kv_transfer_config is not None,
    ),
    Refusal(
        "KV offloading", "KV slots are filled without a forward pass", "drop --kv-offloading-size", _offloads_kv,
    ),
    Refusal(
        "weights offloaded to the CPU", "the offloader replaces the forward pass that the taps wrap",
        "drop --cpu-offload-gb and --offload-group-size", _offloads_weights,
    ),
    Refusal(
        "dummy weights", "the bundle was checked against the files", "drop --load-format dummy",
        lambda c: c.load_config.load_format == "dummy",
    ),
    Refusal(
        "overridden model configuration", "the bundle was checked against the files", "drop --hf-overrides",
        lambda c: bool(c.model_config.hf_overrides),
    ),
    Refusal(
        "quantisation while loading", "the bundle was checked against the files",
        "drop --quantization, or serve a quantised checkpoint with a bundle of its own", _quantises_on_load,
    ),
    Refusal(
        "a scheduler of your own", "the gate ends requests in vLLM's scheduler", "drop --scheduler-cls",
        lambda c: c.scheduler_config.scheduler_cls is not None,
    ),
)  # fmt: skip
"""In the order in which an engine's reasons are listed."""
