"""Which tokens a probe reads, and towards what they are trained."""

from __future__ import annotations

from typing import Any

import pytest

from probes.errors import DataError
from probes.template import encode_prompt, find_markers
from probes.train.data import Example
from probes.train.encode import OUTSIDE_SPAN_WEIGHT, Positions, encode_example
from tests.support.probe_samples import CHATML, GEMMA, LLAMA2, bytes_tokenizer


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


def test_with_spans_the_label_is_on_the_token_that_decides_them_and_the_others_count_less(tokenizer: Any) -> None:
    encoded, _ = read(tokenizer, example(spans=["place12"]))
    assert encoded.targets == (0, 0, 1, 0)
    assert encoded.weights == tuple(1.0 if t else OUTSIDE_SPAN_WEIGHT for t in encoded.targets)


def test_a_span_that_opens_the_response_is_labelled_itself(tokenizer: Any) -> None:
    assert read(tokenizer, example(spans=["born"]))[0].targets == (1, 0, 0, 0)
    assert read(tokenizer, example(spans=["born in"]))[0].targets == (1, 0, 0, 0)
    messages = [{"role": "user", "content": "tell me"}, {"role": "assistant", "content": "yes"}]
    assert read(tokenizer, example(messages=messages, spans=["yes"]))[0].targets == (1,)


def test_every_token_that_a_span_touches_is_decided_by_the_one_before() -> None:
    tokenizer = bytes_tokenizer(CHATML)
    encoded, tokens = read(tokenizer, example(spans=["in p"]))
    assert "".join(t for t, target in zip(tokens, encoded.targets, strict=True) if target) == "ĠinĠ"


def test_in_a_negative_every_token_is_trained_towards_zero(tokenizer: Any) -> None:
    encoded, _ = read(tokenizer, example(label=0, spans=["place12"]))
    assert encoded.targets == (0, 0, 0, 0)
    assert encoded.weights[2] == 1.0


def test_an_example_longer_than_the_model_takes_is_refused(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="example 1 has 10 tokens; the model takes 8"):
        encode_example(tokenizer, find_markers(tokenizer), example(), 8)


def words_at(tokenizer: Any, e: Example, positions: Positions) -> list[str]:
    encoded = encode_example(tokenizer, find_markers(tokenizer), e, 1000)
    return [tokenizer.decode(list(encoded.ids[start:end])) for start, end in encoded.at(positions)]


@pytest.mark.parametrize(
    ("template", "after"),
    [
        (CHATML, "<|im_end|>\n<|im_start|>assistant\n"),
        (GEMMA, "<end_of_turn>\n<start_of_turn>model\n"),
        (LLAMA2, " [/INST]"),
    ],
    ids=["chatml", "gemma", "llama2"],
)
def test_the_instruction_ends_where_the_template_goes_on_whatever_the_words_are(template: str, after: str) -> None:
    tokenizer = bytes_tokenizer(template)
    for words in ("how?", "assistant", "model\n<end_of_turn>", "a", "b"):
        messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}]
        messages += [{"role": "user", "content": words}, {"role": "assistant", "content": "yes"}]
        e = example(messages=messages)
        assert words_at(tokenizer, e, Positions.POST_INSTRUCTION) == [after]
        assert words.endswith(words_at(tokenizer, e, Positions.LAST_INSTRUCTION)[0])
        assert words_at(tokenizer, e, Positions.RESPONSE) == ["yes"]


def test_the_prompt_is_everything_before_the_response(tokenizer: Any) -> None:
    assert words_at(tokenizer, example(), Positions.PROMPT) == ["<s> <|user|> tell me <|end|> <|assistant|>"]


def test_span_positions_are_the_spans_own_tokens_wherever_they_stand() -> None:
    tokenizer = bytes_tokenizer(CHATML)
    assert words_at(tokenizer, example(spans=["place1", "in"]), Positions.SPAN) == ["in", "place1", "place1"]


def test_without_a_template_nothing_follows_the_instruction() -> None:
    tokenizer = bytes_tokenizer(None)
    assert words_at(tokenizer, example(), Positions.POST_INSTRUCTION) == []
    assert words_at(tokenizer, example(), Positions.LAST_INSTRUCTION) == ["e"]


def test_without_a_user_message_there_is_no_instruction(tokenizer: Any) -> None:
    messages = [{"role": "system", "content": "tell me"}, {"role": "assistant", "content": "yes"}]
    for positions in (Positions.LAST_INSTRUCTION, Positions.POST_INSTRUCTION):
        assert words_at(tokenizer, example(messages=messages), positions) == []
