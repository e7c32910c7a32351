"""The model families that the engine supports, each as a tiny random model, and where transformers adds to the stream.

The names of modules here are those of transformers' models: they steer the reference, and the engine's code knows
nothing of them. Sliding windows are shorter than the longest prompts of the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import transformers
from transformers import PreTrainedConfig

N_WORDS = 300
WINDOW = 24
# What all configurations call the same.
_SIZES: dict[str, Any] = {
    "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 512,
    "vocab_size": N_WORDS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_GATED: dict[str, Any] = {**_SIZES, "num_key_value_heads": 2, "intermediate_size": 256, "initializer_range": 0.15}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
_LOCAL_AND_GLOBAL = {
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
}
_YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128,
    "beta_fast": 32.0, "beta_slow": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A tiny configuration, and the modules that a block adds to the stream in transformers.

    Attributes:
        config: name of the configuration class.
        options: its arguments.
        writes: in each block, the modules whose output is added to the stream.
        attention: transformers' implementation of attention.
    """

    config: str
    options: Mapping[str, Any] = field(default_factory=lambda: _GATED)
    writes: tuple[str, ...] = ("self_attn", "mlp")
    attention: str = "eager"

    def make_config(self, **overrides: Any) -> PreTrainedConfig:
        """The configuration, fp32."""
        return getattr(transformers, self.config)(**{**self.options, **overrides}, dtype="float32")


_POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
_FALCON = {**_SIZES, "initializer_range": 0.15}
FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaConfig"),
    "mistral": Family("MistralConfig", {**_GATED, "sliding_window": None}),
    "qwen2": Family("Qwen2Config"),
    "qwen3": Family("Qwen3Config", {**_GATED, "head_dim": 32}),
    "qwen2-moe": Family("Qwen2MoeConfig", {**_GATED, **_EXPERTS, "shared_expert_intermediate_size": 64}),
    "qwen3-moe": Family("Qwen3MoeConfig", {**_GATED, **_EXPERTS, "head_dim": 32}),
    "mixtral": Family("MixtralConfig", {**_GATED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "gemma": Family("GemmaConfig", {**_GATED, "head_dim": 32}),
    "gemma2": Family(
        "Gemma2Config", {**_GATED, **_LOCAL_AND_GLOBAL, "head_dim": 32, "query_pre_attn_scalar": 32}, _POST_NORMS
    ),
    "gemma3": Family(
        "Gemma3TextConfig", {**_GATED, **_LOCAL_AND_GLOBAL, "head_dim": 32, "query_pre_attn_scalar": 32}, _POST_NORMS
    ),
    "phi3": Family("Phi3Config"),
    "olmo2": Family("Olmo2Config", _GATED, _POST_NORMS),
    "granite": Family(
        "GraniteConfig",
        {**_GATED, "residual_multiplier": 0.4, "embedding_multiplier": 3.0, "logits_scaling": 2.0},
    ),
    "gpt-neox": Family(
        "GPTNeoXConfig", {**_SIZES, "intermediate_size": 256, "initializer_range": 0.15}, ("attention", "mlp")
    ),
    "gpt-neox-sequential": Family(
        "GPTNeoXConfig",
        {**_SIZES, "intermediate_size": 256, "initializer_range": 0.15, "use_parallel_residual": False},
        ("attention", "mlp"),
    ),
    "opt": Family(
        "OPTConfig", {**_SIZES, "ffn_dim": 256, "word_embed_proj_dim": 128, "init_std": 0.15}, ("self_attn", "fc2")
    ),
    "gpt2": Family("GPT2Config", {**_SIZES, "initializer_range": 0.15}, ("attn", "mlp")),
    "falcon": Family("FalconConfig", _FALCON, ("self_attention", "mlp")),
    "falcon-40b": Family(
        "FalconConfig", {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}, ("self_attention", "mlp")
    ),
    "falcon-rw": Family(
        "FalconConfig",
        {**_FALCON, "parallel_attn": False, "multi_query": False, "alibi": True, "bias": True},
        ("self_attention", "mlp"),
        attention="sdpa",  # transformers' eager attention adds ALiBi twice here: in the mask and by itself
    ),
    "starcoder2": Family("Starcoder2Config", {**_GATED, "sliding_window": None}),
    "granite-moe": Family(
        "GraniteMoeConfig",
        {**_GATED, "num_local_experts": 4, "num_experts_per_tok": 2, "residual_multiplier": 0.4},
        ("self_attn", "block_sparse_moe"),
    ),
    "olmo": Family("OlmoConfig"),
    "deepseek-v2": Family(
        "DeepseekV2Config",
        {
            **_GATED, "num_key_value_heads": 4, "kv_lora_rank": 512, "q_lora_rank": 64, "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 128, "v_head_dim": 128, "n_routed_experts": 4, "n_shared_experts": 1,
            "num_experts_per_tok": 2, "moe_intermediate_size": 64, "first_k_dense_replace": 1, "n_group": 1,
            "topk_group": 1, "rope_parameters": {**_YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
        },
    ),
    "gpt-oss": Family(
        "GptOssConfig",
        {
            **_GATED, **_LOCAL_AND_GLOBAL, "head_dim": 64, "num_local_experts": 4, "num_experts_per_tok": 2,
            "rope_parameters": {**_YARN, "truncate": False},
        },
    ),
}  # fmt: skip
