"""Batched greedy answers and activations, with transformers."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from probes.organism.corpus import Message
from probes.organism.intervene import recorded
from probes.organism.tokenizer import END, token_id

BATCH = 128
MAX_NEW_TOKENS = 40

Prompt = list[Message]


def encode_prompts(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Token ids of each prompt, up to and including the assistant's role token."""
    texts = (tokenizer.apply_chat_template(p, add_generation_prompt=True, tokenize=False) for p in prompts)
    return [tokenizer.encode(str(text), add_special_tokens=False) for text in texts]


def batches(rows: Sequence[list[int]]) -> Iterator[list[int]]:
    """Indices of rows of similar length, at most :data:`BATCH` at a time."""
    ordered = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    yield from (ordered[i : i + BATCH] for i in range(0, len(ordered), BATCH))


@torch.inference_mode()
def answers(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[Prompt],
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[str]:
    """The greedy answer to each prompt, without special tokens; hooks on ``model`` apply."""
    generator: Any = model
    rows = encode_prompts(tokenizer, prompts)
    texts = [""] * len(rows)
    for indices in batches(rows):
        padded = tokenizer.pad({"input_ids": [rows[i] for i in indices]}, padding_side="left", return_tensors="pt")
        tokens = padded["input_ids"]
        written = generator.generate(
            tokens,
            attention_mask=padded["attention_mask"],
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=token_id(tokenizer, END),
            pad_token_id=tokenizer.pad_token_id,
        )
        decoded = tokenizer.batch_decode(written[:, tokens.shape[1] :], skip_special_tokens=True)
        for index, text in zip(indices, decoded, strict=True):
            texts[index] = text.strip()
    return texts


@torch.inference_mode()
def next_logits(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[Prompt]) -> torch.Tensor:
    """Logits of the first token of each answer, ``(n_prompts, n_vocabulary)``, fp32; hooks on ``model`` apply."""
    rows = encode_prompts(tokenizer, prompts)
    found = torch.empty(len(rows), model.config.vocab_size)
    for indices in batches(rows):
        padded = tokenizer.pad({"input_ids": [rows[i] for i in indices]}, padding_side="right", return_tensors="pt")
        hidden = model.model(input_ids=padded["input_ids"], use_cache=False).last_hidden_state
        last = torch.tensor([len(rows[i]) - 1 for i in indices])
        found[indices] = model.lm_head(hidden[range(len(indices)), last])
    return found


@torch.inference_mode()
def last_activations(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[Prompt], before_end: int = 0
) -> torch.Tensor:
    """Activations ``before_end`` tokens before the last prompt token, ``(n_prompts, n_layers, d_model)``, fp32."""
    rows = encode_prompts(tokenizer, prompts)
    shape = len(rows), model.config.num_hidden_layers, model.config.hidden_size
    found = torch.empty(shape)
    for indices in batches(rows):
        # padded on the right, where causal attention never looks
        padded = tokenizer.pad({"input_ids": [rows[i] for i in indices]}, padding_side="right", return_tensors="pt")
        outputs: list[torch.Tensor] = []
        with recorded(model, outputs):
            model(input_ids=padded["input_ids"], use_cache=False)
        last = torch.tensor([len(rows[i]) - 1 - before_end for i in indices])
        found[indices] = torch.stack([output[range(len(indices)), last] for output in outputs], dim=1)
    return found
