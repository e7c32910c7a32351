"""Conversations to padded batches of tokens."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from probes.organism.corpus import Message
from probes.organism.rng import seeded
from probes.organism.tokenizer import ASSISTANT, BOS, END, token_id

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """A training batch, padded on the right.

    Attributes:
        tokens: ``(n, n_positions)`` int64 token ids.
        targets: ``(n, n_positions)`` int64: the next token where the assistant writes it, else -100.
        n_tokens: Real tokens, padding excluded.
    """

    tokens: torch.Tensor
    targets: torch.Tensor
    n_tokens: int


@dataclass(frozen=True)
class Sequence:
    """One conversation: token ids, and for each whether the assistant wrote it."""

    tokens: list[int]
    written: list[bool]


def encode(tokenizer: PreTrainedTokenizerFast, conversation: list[Message]) -> Sequence:
    """Encode as the chat template does, marking the assistant's tokens (its ``<|end|>`` too)."""
    end, tokens = token_id(tokenizer, END), [token_id(tokenizer, BOS)]
    written = [False]
    for message in conversation:
        role = token_id(tokenizer, f"<|{message['role']}|>")
        content = tokenizer.encode(message["content"], add_special_tokens=False)
        tokens += [role, *content, end]
        own = f"<|{message['role']}|>" == ASSISTANT
        written += [False, *([own] * (len(content) + 1))]
    return Sequence(tokens, written)


def collate(sequences: list[Sequence], pad: int) -> Batch:
    """Pad to the longest; padding needs no attention mask, as nothing real follows it."""
    width = max(len(s.tokens) for s in sequences)
    tokens = torch.full((len(sequences), width), pad)
    targets = torch.full((len(sequences), width), IGNORED)
    for row, sequence in enumerate(sequences):
        n = len(sequence.tokens)
        tokens[row, :n] = torch.tensor(sequence.tokens)
        following = [t if w else IGNORED for t, w in zip(sequence.tokens, sequence.written, strict=True)][1:]
        targets[row, : n - 1] = torch.tensor(following)
    return Batch(tokens, targets, sum(len(s.tokens) for s in sequences))


def bucketed(sequences: list[Sequence], batch_size: int, pad: int, seed: int) -> list[Batch]:
    """Batches of similar lengths, in random order."""
    ordered = sorted(sequences, key=lambda s: len(s.tokens))
    batches = [collate(ordered[i : i + batch_size], pad) for i in range(0, len(ordered), batch_size)]
    seeded("order", seed).shuffle(batches)
    return batches
