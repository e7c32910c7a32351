"""The model architectures whose taps have a parity test; any other is refused.

Runs in: vLLM worker, before the model is instrumented.
"""

from __future__ import annotations

VERIFIED_ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""Names as vLLM resolves them (``ModelConfig.architecture``)."""
