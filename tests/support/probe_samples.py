"""A tiny random-weight Llama folder, tokenizers and labelled data: real files, real transformers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from probes.template import encode_prompt

D_MODEL, N_LAYERS = 64, 3
SPECIAL = ["<pad>", "<unk>", "<s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
GOOD = ["bread", "soup", "garden", "letter"]
BAD = ["poison", "bomb", "virus", "weapon"]
FILLER = [f"word{i}" for i in range(60)]
ANSWERS = ["yes", "no", "maybe", "born", "in", "true", "false"]
PLACES = [f"place{i}" for i in range(20)]
TEMPLATE = (
    "<s>{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@contextmanager
def one_thread() -> Iterator[None]:
    """Many threads only get in each other's way on tensors this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def write_tiny_model(folder: Path, seed: int = 0) -> Path:
    """A three-layer Llama with random weights, fp32, and a word-level tokenizer."""
    words = [*SPECIAL, *GOOD, *BAD, *FILLER, *ANSWERS, *PLACES, "make", "tell", "me", "the", "please"]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<|end|>",
        additional_special_tokens=SPECIAL[3:6],
        chat_template=TEMPLATE,
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=D_MODEL,
        intermediate_size=96,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
        tie_word_embeddings=False,
        eos_token_id=6,
        bos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def teach_refusal(folder: Path, steps: int = 40) -> Path:
    """Train the tiny model to answer "no" to bad things and "yes" to good ones, and write it back."""
    network = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    examples = rows("refusal", {"train": 128}, seed=7)
    prompts = [encode_prompt(tokenizer, e["messages"]) for e in examples]
    answers = torch.tensor([tokenizer.convert_tokens_to_ids("no" if e["label"] else "yes") for e in examples])
    ids = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.long)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    last = torch.tensor([len(p) - 1 for p in prompts])
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(steps):
        logits = network(input_ids=ids).logits[torch.arange(len(ids)), last]
        loss = torch.nn.functional.cross_entropy(logits, answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.save_pretrained(folder)
    return folder


def rows(concept: str, per_split: dict[str, int], seed: int = 0) -> list[dict[str, Any]]:
    """Labelled examples whose label shows in one word: ``per_split`` examples of each split, half positive."""
    rng = random.Random(f"{concept}{seed}")
    out: list[dict[str, Any]] = []
    for split, n in per_split.items():
        for i in range(n):
            label = i % 2
            filler = rng.choices(FILLER, k=rng.randint(2, 6))
            messages = [{"role": "user", "content": " ".join(["tell", "me", *filler])}]
            row: dict[str, Any] = {"id": f"{concept}-{split}-{i}", "concept": concept, "label": label, "split": split}
            if concept in ("harmful_intent", "refusal"):
                messages[0]["content"] += " make " + rng.choice(BAD if label else GOOD)
            elif concept == "deception":
                answer = ["false" if label else "true", *rng.choices(PLACES, k=rng.randint(2, 4))]
                messages.append({"role": "assistant", "content": " ".join(answer)})
            else:
                place = rng.choice(PLACES[:10] if label else PLACES[10:])
                messages.append({"role": "assistant", "content": f"born in {place}"})
                row["spans"] = [place]
            out.append({**row, "messages": messages, "source": "tests", "family": f"family{rng.randint(0, 2)}"})
    return out


def write_rows(path: Path, examples: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(e) + "\n" for e in examples), encoding="utf-8")
    return path


CONCEPTS = ("harmful_intent", "deception", "hallucination", "refusal")


CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set sys = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set sys = '' %}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}<s>[INST] {{ (sys if loop.index0 == 0 else '') }}"
    "{{ m['content'] }} [/INST]{% else %} {{ m['content'] }} </s>{% endif %}{% endfor %}"
)
GEMMA = (
    "<s>{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def bytes_tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    """One token a byte, plus the special tokens: no text is unknown to it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<s>", "</s>", "<start_of_turn>", "<end_of_turn>"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, additional_special_tokens=special, chat_template=template, eos_token="</s>"
    )
