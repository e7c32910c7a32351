"""Examples to token ids, with the interval of positions that the probe reads and a target for each.

The prompt is encoded as :mod:`probes.template` says, that is as vLLM does. The response follows as the
model would have sampled it; the token that ends the turn is left out, because a served model never feeds
it forward, so it is never scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from probes.errors import DataError
from probes.scope import scope_interval
from probes.template import ChatTokenizer, encode_text, render_text
from probes.train.data import Example
from probes.types import RoleMarkers, Scope

OUTSIDE_SPAN_WEIGHT = 0.2


@dataclass(frozen=True)
class Encoded:
    """One example as the model sees it.

    Attributes:
        ids: token ids of prompt and response.
        scope: which of its positions are read.
        start: first position that is read. end: position after the last one.
        label: of the example.
        targets: label of each read token. weights: how much it counts in training.
    """

    ids: tuple[int, ...]
    scope: Scope
    start: int
    end: int
    label: int
    targets: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def n_read(self) -> int:
        """How many tokens are read."""
        return self.end - self.start


def scope_of(phase: str) -> Scope:
    """Scope that training reads for labels about ``phase``."""
    return Scope.LAST_USER if phase == "prompt" else Scope.RESPONSE


def encode_example(tokenizer: ChatTokenizer, markers: RoleMarkers, example: Example, max_tokens: int) -> Encoded:
    """Encode one example.

    With spans, the label is on the tokens that decide them: the activation at a token chooses the next
    token, so a made-up name shows one token before it is written. (On the organism, labelling the span's
    own tokens instead took the best AUROC of a maximum from 0.99 to 0.85.) The other tokens of the response
    are trained towards 0 with a lower weight, so that the probe fires where it matters.

    Raises:
        DataError: longer than ``max_tokens``, or the chat template refuses it.
    """
    text = render_text(tokenizer, example.prompt)
    prompt = encode_text(tokenizer, text)
    response, offsets = _encode_response(tokenizer, text, prompt, example.response) if example.response else ([], [])
    ids = (*prompt, *response)
    if len(ids) > max_tokens:
        raise DataError(f"example {example.id} has {len(ids)} tokens; the model takes {max_tokens}. Shorten it.")
    scope = scope_of(example.phase)
    start, end = scope_interval(scope, prompt, markers)
    end = min(end, len(ids))
    if start >= end:
        raise DataError(f"example {example.id} has no token in its {scope} scope.")
    n_read = end - start
    targets, weights = [example.label] * n_read, [1.0] * n_read
    if example.spans:
        inside = _inside(example, offsets)
        if not any(inside):
            raise DataError(f"example {example.id}: no token of the response lies in its spans.")
        # What the last prompt token decides is out of scope: a span that opens the response decides itself.
        deciding = [inside[0] or inside[1], *inside[2:], False] if n_read > 1 else inside
        targets = [example.label if d else 0 for d in deciding]
        weights = [1.0 if d else OUTSIDE_SPAN_WEIGHT for d in deciding]
    return Encoded(ids, scope, start, end, example.label, tuple(targets), tuple(weights))


def _encode_response(
    tokenizer: ChatTokenizer, text: str, prompt: Sequence[int], response: str
) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of the response and the characters of it that each covers.

    Encoded together with the prompt if that leaves the prompt's tokens alone, else by itself.
    """
    tokens: object = _call(tokenizer, text + response)
    ids, offsets = tokens["input_ids"], tokens["offset_mapping"]  # type: ignore[index]
    n = len(prompt)
    if list(ids[:n]) == list(prompt) and len(ids) > n:
        return [int(i) for i in ids[n:]], [(a - len(text), b - len(text)) for a, b in offsets[n:]]
    tokens = _call(tokenizer, response, special=False)
    return [int(i) for i in tokens["input_ids"]], [(int(a), int(b)) for a, b in tokens["offset_mapping"]]  # type: ignore[index]


def _call(tokenizer: ChatTokenizer, text: str, *, special: bool | None = None) -> object:
    if not callable(tokenizer):
        raise DataError("the tokenizer cannot be called; wanted a transformers tokenizer.")
    special = not tokenizer.chat_template if special is None else special
    return tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)


def _inside(example: Example, offsets: Sequence[tuple[int, int]]) -> list[bool]:
    """Which tokens of the response overlap one of its spans."""
    found = []
    for span in example.spans:
        start = example.response.find(span)
        while start >= 0:
            found.append((start, start + len(span)))
            start = example.response.find(span, start + 1)
    return [any(a < stop and b > start for start, stop in found) for a, b in offsets]
