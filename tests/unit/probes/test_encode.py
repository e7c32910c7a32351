"""Which tokens a probe reads, and towards what they are trained."""

from __future__ import annotations

from typing import Any

import pytest
from probe_samples import CHATML, bytes_tokenizer

from probes.errors import DataError
from probes.template import encode_prompt, find_markers
from probes.train.data import Example
from probes.train.encode import OUTSIDE_SPAN_WEIGHT, encode_example


def example(**changes: Any) -> Example:
    messages = [{"role": "user", "content": "tell me"}, {"role": "assistant", "content": "born in place1 place12"}]
    row = {"id": "1", "concept": "c", "label": 1, "split": "train", "messages": messages}
    return Example.model_validate(row | changes)


def read(tokenizer: Any, e: Example) -> tuple[Any, list[str]]:
    encoded = encode_example(tokenizer, find_markers(tokenizer), e, 1000)
    return encoded, tokenizer.convert_ids_to_tokens(list(encoded.ids[encoded.start : encoded.end]))


def test_a_response_is_read_without_the_token_that_ends_the_turn(tokenizer: Any) -> None:
    encoded, tokens = read(tokenizer, example())
    assert tokens == ["born", "in", "place1", "place12"]
    assert list(encoded.ids[: encoded.start]) == encode_prompt(tokenizer, [{"role": "user", "content": "tell me"}])
    assert encoded.targets == (1, 1, 1, 1)


def test_a_prompt_is_read_from_the_last_users_words_to_what_opens_the_response(tokenizer: Any) -> None:
    _, tokens = read(tokenizer, example(messages=[{"role": "user", "content": "make soup"}]))
    assert tokens == ["make", "soup", "<|end|>", "<|assistant|>"]


def test_with_spans_only_their_tokens_carry_the_label_and_the_others_count_less(tokenizer: Any) -> None:
    encoded, _ = read(tokenizer, example(spans=["place12"]))
    assert encoded.targets == (0, 0, 0, 1)
    assert encoded.weights == (OUTSIDE_SPAN_WEIGHT,) * 3 + (1.0,)


def test_a_span_covers_every_token_that_it_touches() -> None:
    tokenizer = bytes_tokenizer(CHATML)
    encoded, tokens = read(tokenizer, example(spans=["in p"]))
    assert "".join(t for t, target in zip(tokens, encoded.targets, strict=True) if target) == "inĠp"


def test_in_a_negative_every_token_is_trained_towards_zero(tokenizer: Any) -> None:
    encoded, _ = read(tokenizer, example(label=0, spans=["place12"]))
    assert encoded.targets == (0, 0, 0, 0)
    assert encoded.weights[-1] == 1.0


def test_an_example_longer_than_the_model_takes_is_refused(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="example 1 has 10 tokens; the model takes 8"):
        encode_example(tokenizer, find_markers(tokenizer), example(), 8)
