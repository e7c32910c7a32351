"""Chat templates: from messages to the token ids that vLLM's chat endpoint makes, and back to roles.

vLLM renders a conversation to text and encodes the text without special tokens (the template writes its
own); training does the same, or the probes would be fitted on other positions than those they later read.

:func:`find_markers` learns what opens and closes a turn from the template itself: it renders the same
conversation with several contents, and keeps the tokens around the content that never change.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, Protocol

from probes.errors import DataError, ModelFormatError
from probes.types import RoleMarkers

Messages = Sequence[dict[str, str]]

_WORDS = ("What", "the", "7", "Zebra", "(", "étude", "is", "of", "a", "who", "I")
_N_CONTENTS = 5


class ChatTokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    chat_template: Any
    unk_token_id: int | None

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any:
        """Render a conversation."""

    def encode(self, text: str, **kwargs: Any) -> Any:
        """Token ids of a text."""

    def get_vocab(self) -> dict[str, int]:
        """Ids by token."""


def render_text(tokenizer: ChatTokenizer, messages: Messages, *, open_response: bool = True) -> str:
    """The prompt as text, up to and including what opens the response (unless ``open_response`` is False).

    Without a chat template: the contents, one to a line.

    Raises:
        DataError: the template refuses the conversation.
    """
    if not tokenizer.chat_template:
        return "\n".join(m["content"] for m in messages)
    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=open_response)
    except Exception as error:  # a template may raise anything; jinja2's own errors are the usual case
        roles = ", ".join(m["role"] for m in messages)
        raise DataError(
            f"the model's chat template refuses a conversation of the roles {roles}: {error}. "
            "Does it know no system role, or want strict turns?"
        ) from error
    return str(text)


def encode_text(tokenizer: ChatTokenizer, text: str) -> list[int]:
    """Token ids of rendered text, as vLLM's chat endpoint encodes it (its completion endpoint if no template)."""
    return [int(i) for i in tokenizer.encode(text, add_special_tokens=not tokenizer.chat_template)]


def encode_prompt(tokenizer: ChatTokenizer, messages: Messages) -> list[int]:
    """Token ids of the prompt that asks for the next assistant message."""
    return encode_text(tokenizer, render_text(tokenizer, messages))


def find_markers(tokenizer: ChatTokenizer) -> RoleMarkers:
    """What opens a user turn and an assistant turn, and what closes an assistant turn.

    The user marker is the longest run of tokens that stands directly before the user's content in every
    place that the template allows: first turn, after a system message, after an assistant's turn. Where a
    template writes the system message into the user's turn (Llama 2), that place is left out, and
    ``last_user`` then includes the system message.

    Args:
        tokenizer: of the model; without a chat template all markers are empty.

    Raises:
        ModelFormatError: fewer than two contents are distinguishable, or nothing stands before user content.
    """
    if not tokenizer.chat_template:
        return RoleMarkers()
    contents = _distinct_contents(tokenizer)

    def around(before: Messages, role: str, *, open_response: bool) -> tuple[list[int], list[int]] | None:
        """Tokens before and after the last message that do not depend on its content; None if refused."""
        try:
            rendered = [
                encode_text(
                    tokenizer,
                    render_text(tokenizer, [*before, {"role": role, "content": c}], open_response=open_response),
                )
                for c in contents
            ]
        except DataError:
            return None
        return _common_prefix(rendered), _common_suffix(rendered)

    user = {"role": "user", "content": contents[0]}
    earlier = [user, {"role": "assistant", "content": contents[1]}]
    first = around([], "user", open_response=True)
    if first is None:
        raise ModelFormatError("the model's chat template refuses a conversation of one user message.")
    later = around(earlier, "user", open_response=True)
    system = around([{"role": "system", "content": contents[2]}], "user", open_response=True)

    marker = _common_suffix([p[0] for p in (first, later) if p])
    marker = (_common_suffix([marker, system[0]]) if system else []) or marker
    closed = around([], "user", open_response=False)
    assistant = first[1][len(closed[1]) :] if closed and first[1][: len(closed[1])] == closed[1] else []
    answered = around([user], "assistant", open_response=False)
    return RoleMarkers(
        user=tuple(marker),
        assistant=tuple(assistant or first[1]),
        end=tuple(answered[1]) if answered else (),
    )


def _distinct_contents(tokenizer: ChatTokenizer) -> list[str]:
    """Contents that differ in their first and in their last token, so that nothing of them looks constant."""
    chosen: list[str] = []
    used: set[int] = set()
    for word in chain(_WORDS, sorted(t for t in tokenizer.get_vocab() if t.isalpha())):
        ids = encode_text(tokenizer, word)
        if not ids or tokenizer.unk_token_id in ids or used & {ids[0], ids[-1]}:
            continue
        chosen.append(word)
        used |= {ids[0], ids[-1]}
        if len(chosen) == _N_CONTENTS:
            return chosen
    if len(chosen) < 3:
        raise ModelFormatError(f"the tokenizer tells only {len(chosen)} words apart; is it the model's own?")
    return chosen


def _common_prefix(sequences: Sequence[Sequence[int]]) -> list[int]:
    shared = []
    for tokens in zip(*sequences, strict=False):
        if len(set(tokens)) > 1:
            break
        shared.append(tokens[0])
    return shared


def _common_suffix(sequences: Sequence[Sequence[int]]) -> list[int]:
    return _common_prefix([s[::-1] for s in sequences])[::-1]
