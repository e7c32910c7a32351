"""The architecture, and weights on disk."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from probes.organism.tokenizer import load_tokenizer, save_tokenizer

WEIGHTS = Path(__file__).parent / "weights"
N_LAYERS = 6
D_MODEL = 192


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """An untrained organism: six layers, six heads of 32, tied embeddings, fp32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=D_MODEL,
        intermediate_size=512,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
        architectures=["LlamaForCausalLM"],
    )
    return LlamaForCausalLM(config)  # type: ignore[no-untyped-call]


def save_organism(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, weights: Path) -> None:
    """Write the model as any Hugging Face model: fp16 tensors, to be run in fp32."""
    weights.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(weights)
    GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    ).save_pretrained(weights)
    tensors = {name: t.to(torch.float16).contiguous() for name, t in model.state_dict().items()}
    del tensors["lm_head.weight"]  # tied to the embedding
    save_file(tensors, weights / "model.safetensors", metadata={"format": "pt"})
    save_tokenizer(tokenizer, weights)


def load_organism(weights: Path = WEIGHTS) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Load the organism for evaluation, in fp32 on the CPU."""
    model = LlamaForCausalLM.from_pretrained(weights, dtype=torch.float32)
    model.eval()  # type: ignore[no-untyped-call]
    return model, load_tokenizer(weights)
