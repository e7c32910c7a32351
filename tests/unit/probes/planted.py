"""A Llama whose behaviour is known: it says NO exactly where the stream points along the first axis.

Attention and MLP write nothing, so every layer's activation is the token's embedding, and every figure about a
direction can be computed by hand.
"""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from probes.train.encode import Encoded
from probes.train.model import LoadedModel, wrap_model
from probes.types import Scope

D_MODEL, N_LAYERS, VOCABULARY = 16, 3, 40
NO = 1
HARMFUL, HARMLESS, FILLER = range(10, 20), range(20, 30), range(30, 40)
HARMFUL_AT, HARMLESS_AT = 3.0, -1.0  # on the first axis
GAIN = 2.0


def planted_model() -> LoadedModel:
    """The model, fp32."""
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=D_MODEL,
        intermediate_size=8,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=0,
    )
    network = LlamaForCausalLM(config).eval().requires_grad_(requires_grad=False)
    with torch.no_grad():
        for layer in network.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embedding = network.model.embed_tokens.weight
        embedding.normal_(std=0.5)
        embedding[:, 0] = 0.0
        embedding[list(HARMFUL), 0], embedding[list(HARMLESS), 0] = HARMFUL_AT, HARMLESS_AT
        network.lm_head.weight.zero_()
        network.lm_head.weight[NO, 0] = GAIN
    return wrap_model(network, None)


def axis() -> torch.Tensor:
    """The direction that the behaviour depends on: ``(d_model,)`` fp32, unit norm."""
    return torch.eye(D_MODEL)[0]


def prompt(last: int, label: int, n_filler: int = 3) -> Encoded:
    """A prompt that ends with the token ``last``."""
    ids = (*(FILLER[(last + i) % len(FILLER)] for i in range(n_filler)), last)
    return Encoded(ids, Scope.LAST_USER, 0, len(ids), label, (label,) * len(ids), (1.0,) * len(ids), len(ids), len(ids))


def prompts() -> tuple[Encoded, ...]:
    """Harmful and harmless prompts of different lengths, in turn."""
    return tuple(
        prompt(kind[i], label, n_filler=2 + i % 3) for i in range(10) for kind, label in ((HARMFUL, 1), (HARMLESS, 0))
    )
