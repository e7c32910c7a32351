"""The model architectures whose taps have a parity test; any other is refused.

Runs in: vLLM worker, before the model is instrumented.
"""

from __future__ import annotations

VERIFIED_ARCHITECTURES = (
    "DeepseekV2ForCausalLM", "FalconForCausalLM", "GPT2LMHeadModel", "GPTNeoXForCausalLM", "Gemma2ForCausalLM",
    "Gemma3ForCausalLM", "GemmaForCausalLM", "GptOssForCausalLM", "GraniteForCausalLM", "GraniteMoeForCausalLM",
    "LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "OPTForCausalLM", "Olmo2ForCausalLM",
    "OlmoForCausalLM", "Phi3ForCausalLM", "Qwen2ForCausalLM", "Qwen2MoeForCausalLM", "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM", "Starcoder2ForCausalLM",
)  # fmt: skip
"""Names as vLLM resolves them (``ModelConfig.architecture``)."""
