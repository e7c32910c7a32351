"""Forward passes of a steered model: what it says next, how likely it finds a text, what it writes.

Everything goes in batches of similar length, right-padded (left-padded for writing), and comes back in the order of
what was given. ``advance`` is told after each batch how many prompts or texts are done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from probes.train.interventions import PLAIN, Steering
from probes.train.model import LoadedModel, next_logits
from probes.train.progress import Advance

Ids = Sequence[int]
_BATCH = 64
_MAX_TOKENS = 8192
_MAX_LOGITS = 2**27  # of one batch: 512 MiB in fp32
_IGNORED = -100


def nothing(_n: int) -> None:
    """An ``advance`` that nobody listens to."""


@dataclass(frozen=True)
class Text:
    """Token ids of which those from ``start`` on are judged; those before are the prompt, ``start >= 1``."""

    ids: tuple[int, ...]
    start: int

    @property
    def n_judged(self) -> int:
        """How many tokens are judged."""
        return len(self.ids) - self.start


def next_token_logits(
    model: LoadedModel, prompts: Sequence[Ids], steering: Steering = PLAIN, advance: Advance = nothing
) -> Iterator[tuple[list[int], Tensor]]:
    """Indices of some prompts and the logits after them, ``(len(indices), vocabulary)`` fp32 on the model's device."""
    for batch in _batches([len(p) for p in prompts], _MAX_TOKENS):
        ids = [prompts[i] for i in batch]
        with steering.applied(model, torch.tensor([len(p) for p in ids])):
            logits = next_logits(model, ids)
        yield batch, logits
        advance(len(batch))


def per_prompt(
    model: LoadedModel,
    prompts: Sequence[Ids],
    figure: Callable[[Tensor], Tensor],
    steering: Steering = PLAIN,
    advance: Advance = nothing,
) -> Tensor:
    """``figure`` of the next-token logits, ``(n, vocabulary)`` to ``(n,)``, for all prompts: ``(n,)`` fp64, CPU."""
    found = torch.empty(len(prompts), dtype=torch.float64)
    for batch, logits in next_token_logits(model, prompts, steering, advance):
        found[batch] = figure(logits).double().cpu()
    return found


@dataclass(frozen=True)
class Disturbance:
    """How far steering moves the next token: ``(n,)`` fp64 each.

    Attributes:
        kl: divergence of the steered distribution from the plain one, in nats.
        agreement: 1 where the likeliest token stays the same, else 0.
    """

    kl: Tensor
    agreement: Tensor


def disturbance(
    model: LoadedModel, prompts: Sequence[Ids], steering: Steering, advance: Advance = nothing
) -> Disturbance:
    """Compare the steered model's next token with the plain one's.

    Source: Arditi et al. 2024 (arXiv:2406.11717), appendix C: KL of the last token's distribution.
    """
    kl, agreement = (torch.empty(len(prompts), dtype=torch.float64) for _ in range(2))
    for batch, steered in next_token_logits(model, prompts, steering, advance):
        plain = next_logits(model, [prompts[i] for i in batch])
        p, q = plain.double().log_softmax(dim=1), steered.double().log_softmax(dim=1)
        kl[batch] = (p.exp() * (p - q)).sum(dim=1).cpu()
        agreement[batch] = (plain.argmax(dim=1) == steered.argmax(dim=1)).double().cpu()
    return Disturbance(kl, agreement)


def log_likelihoods(
    model: LoadedModel, texts: Sequence[Text], steering: Steering = PLAIN, advance: Advance = nothing
) -> Tensor:
    """Log-probability of each text's judged tokens, summed: ``(n,)`` fp64 in nats, CPU."""
    found = torch.empty(len(texts), dtype=torch.float64)
    vocabulary = model.network.get_input_embeddings().num_embeddings
    for batch in _batches([len(t.ids) for t in texts], min(_MAX_TOKENS, _MAX_LOGITS // vocabulary)):
        rows = [texts[i] for i in batch]
        ids = pad_sequence([torch.tensor(t.ids) for t in rows], batch_first=True)
        columns = torch.arange(ids.shape[1])
        ends, starts = (torch.tensor(v)[:, None] for v in ([len(t.ids) for t in rows], [t.start for t in rows]))
        targets = ids.masked_fill((columns < starts) | (columns >= ends), _IGNORED)
        kept = ids.shape[1] - int(starts.min()) + 1  # the token before the first judged one predicts it
        with steering.applied(model, starts[:, 0]), torch.inference_mode():
            logits = model.network(
                input_ids=ids.to(model.device),
                attention_mask=(columns < ends).long().to(model.device),
                use_cache=False,
                logits_to_keep=kept,
            ).logits
        wanted = targets[:, -kept + 1 :].to(model.device)
        loss = cross_entropy(logits[:, :-1].float().transpose(1, 2), wanted, reduction="none", ignore_index=_IGNORED)
        found[batch] = -loss.double().sum(dim=1).cpu()
        advance(len(batch))
    return found


def greedy(
    model: LoadedModel, prompts: Sequence[Ids], n_new: int, steering: Steering = PLAIN, advance: Advance = nothing
) -> list[tuple[int, ...]]:
    """At most ``n_new`` tokens after each prompt, each the likeliest; the token that ends the turn is left out."""
    from transformers import GenerationConfig  # noqa: PLC0415  (seconds to import)

    config = model.network.generation_config
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    stops = {e for e in ends if e is not None}
    padding = next((t for t in (config.pad_token_id, *stops) if t is not None), 0)
    asked = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, num_beams=1, max_new_tokens=n_new, pad_token_id=padding, eos_token_id=sorted(stops) or None,
        repetition_penalty=1.0, no_repeat_ngram_size=0, min_new_tokens=0, suppress_tokens=[], begin_suppress_tokens=[],
    )  # fmt: skip  # what is not set here, transformers takes from the model's own configuration
    found: list[tuple[int, ...]] = [()] * len(prompts)
    for batch in _batches([len(p) + n_new for p in prompts], _MAX_TOKENS):
        ids = pad_sequence([torch.tensor(prompts[i]) for i in batch], batch_first=True, padding_side="left")
        n_prompt = torch.tensor([[len(prompts[i])] for i in batch])
        mask = torch.arange(ids.shape[1]) >= ids.shape[1] - n_prompt
        with steering.applied(model, torch.full((len(batch),), ids.shape[1])), torch.inference_mode():
            written = model.network.generate(
                ids.to(model.device), attention_mask=mask.long().to(model.device), generation_config=asked
            )
        for i, row in zip(batch, written[:, ids.shape[1] :].tolist(), strict=True):
            end = next((k for k, token in enumerate(row) if token in stops), len(row))
            found[i] = tuple(row[:end])
        advance(len(batch))
    return found


def _batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Indices, alike in length, at most ``_BATCH`` and at most ``max_tokens`` padded tokens at a time."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) == _BATCH or (len(batch) + 1) * lengths[i] > max_tokens):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
