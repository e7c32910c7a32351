"""Examples to token ids, with the interval of positions that the probe reads and a target for each.

The prompt is encoded as :mod:`probes.template` says, that is as vLLM does. The response follows as the
model would have sampled it; the token that ends the turn is left out, because a served model never feeds
it forward, so it is never scored.

Positions other than those in scope can be asked for by name (:class:`Positions`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from probes.activations.job import Interval
from probes.errors import DataError
from probes.scope import scope_interval
from probes.template import ChatTokenizer, encode_text, render_text
from probes.train.data import Example
from probes.types import RoleMarkers, Scope

OUTSIDE_SPAN_WEIGHT = 0.2
_STAND_INS = ("a", "b")


class Positions(StrEnum):
    """Which tokens of an example are meant.

    The last token of an instruction is where Zhao et al. 2025 (arXiv:2507.11878) find harmfulness, and the tokens of
    the template after it are where Arditi et al. 2024 (arXiv:2406.11717) look for the refusal direction.
    """

    SCOPE = "scope"
    """What the probe reads: from :attr:`Encoded.start` to :attr:`Encoded.end`."""
    PROMPT = "prompt"
    RESPONSE = "response"
    LAST_INSTRUCTION = "last_instruction"
    """The last token of the last user message."""
    POST_INSTRUCTION = "post_instruction"
    """What the template puts after the last user message, to the end of the prompt."""
    SPAN = "span"
    """Tokens of the response that overlap a labelled span."""


@dataclass(frozen=True)
class Encoded:
    """One example as the model sees it.

    Attributes:
        ids: token ids of prompt and response.
        scope: which of its positions are read.
        start: first position that is read. end: position after the last one.
        label: of the example.
        targets: label of each read token. weights: how much it counts in training.
        n_prompt: how many of ``ids`` are the prompt.
        instruction_end: position after the last token of the last user message; 0 if there is none.
        spans: positions that overlap a labelled span, as disjoint intervals in ascending order.
    """

    ids: tuple[int, ...]
    scope: Scope
    start: int
    end: int
    label: int
    targets: tuple[int, ...]
    weights: tuple[float, ...]
    n_prompt: int = 0
    instruction_end: int = 0
    spans: tuple[Interval, ...] = ()

    @property
    def n_read(self) -> int:
        """How many tokens are read."""
        return self.end - self.start

    def at(self, positions: Positions) -> tuple[Interval, ...]:
        """The positions of a kind, as disjoint intervals in ascending order; none if the example has none."""
        instructed = self.instruction_end > 0
        found: dict[Positions, tuple[Interval, ...]] = {
            Positions.SCOPE: ((self.start, self.end),),
            Positions.PROMPT: ((0, self.n_prompt),),
            Positions.RESPONSE: ((self.n_prompt, len(self.ids)),),
            Positions.LAST_INSTRUCTION: ((self.instruction_end - 1, self.instruction_end),) if instructed else (),
            Positions.POST_INSTRUCTION: ((self.instruction_end, self.n_prompt),) if instructed else (),
            Positions.SPAN: self.spans,
        }
        return tuple((start, end) for start, end in found[positions] if start < end)


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
    inside = _inside(example, offsets)
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
        if not any(inside):
            raise DataError(f"example {example.id}: no token of the response lies in its spans.")
        # What the last prompt token decides is out of scope: a span that opens the response decides itself.
        deciding = [inside[0] or inside[1], *inside[2:], False] if n_read > 1 else inside
        targets = [example.label if d else 0 for d in deciding]
        weights = [1.0 if d else OUTSIDE_SPAN_WEIGHT for d in deciding]
    return Encoded(
        ids, scope, start, end, example.label, tuple(targets), tuple(weights),
        n_prompt=len(prompt),
        instruction_end=_instruction_end(tokenizer, example.prompt, text),
        spans=_intervals({len(prompt) + i for i, overlaps in enumerate(inside) if overlaps}),
    )  # fmt: skip


def _instruction_end(tokenizer: ChatTokenizer, messages: Sequence[dict[str, str]], text: str) -> int:
    """Position after the last token of the last user message; 0 if there is none.

    What follows the message in the rendered text is what two other messages in its place have behind them too: its
    own words may stand in the template as well.
    """
    place = next((i for i in reversed(range(len(messages))) if messages[i]["role"] == "user"), None)
    if place is None:
        return 0
    one, other = (
        render_text(tokenizer, [*messages[:place], {**messages[place], "content": word}, *messages[place + 1 :]])
        for word in _STAND_INS
    )
    n_after = next((i for i, (a, b) in enumerate(zip(reversed(one), reversed(other), strict=False)) if a != b), 0)
    tokens: object = _call(tokenizer, text)
    places: Sequence[tuple[int, int]] = tokens["offset_mapping"]  # type: ignore[index]
    stop = len(text) - n_after
    return 1 + max((i for i, (start, end) in enumerate(places) if start < end and start < stop), default=-1)


def _intervals(positions: Collection[int]) -> tuple[Interval, ...]:
    """Positions as intervals, in order."""
    starts = sorted(p for p in positions if p - 1 not in positions)
    ends = sorted(p + 1 for p in positions if p + 1 not in positions)
    return tuple(zip(starts, ends, strict=True))


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
