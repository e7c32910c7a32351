"""Role markers and prompt encoding for chat templates of every kind in use."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.errors import DataError
from probes.scope import scope_interval
from probes.template import encode_prompt, find_markers, render_text
from probes.types import RoleMarkers, Scope
from tests.support.probe_samples import CHATML, GEMMA, LLAMA2, bytes_tokenizer


@pytest.mark.parametrize(
    ("template", "user", "assistant", "end"),
    [
        (CHATML, "<|im_end|>\n<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n"),
        (LLAMA2, "<s>[INST] ", " [/INST]", " </s>"),
        (GEMMA, "<start_of_turn>user\n", "<start_of_turn>model\n", "<end_of_turn>\n"),
    ],
)
def test_markers_are_what_the_template_writes_around_a_turn(template: str, user: str, assistant: str, end: str) -> None:
    tokenizer = bytes_tokenizer(template)
    markers = find_markers(tokenizer)
    assert [tokenizer.decode(list(m)) for m in (markers.user, markers.assistant, markers.end)] == [user, assistant, end]


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=12)


@pytest.mark.parametrize("template", [CHATML, LLAMA2, GEMMA])
@given(turns=st.lists(WORDS, min_size=1, max_size=4), last=WORDS)
@settings(max_examples=25, deadline=None)
def test_last_user_begins_with_the_last_users_words(template: str, turns: list[str], last: str) -> None:
    tokenizer = bytes_tokenizer(template)
    messages = [{"role": r, "content": t} for t in turns for r in ("user", "assistant")]
    prompt = encode_prompt(tokenizer, [*messages, {"role": "user", "content": last}])
    start, end = scope_interval(Scope.LAST_USER, prompt, find_markers(tokenizer))
    assert end == len(prompt)
    assert tokenizer.decode(prompt[start:]).startswith(last)


def test_without_a_template_there_are_no_markers_and_the_contents_are_lines() -> None:
    tokenizer = bytes_tokenizer(None)
    assert find_markers(tokenizer) == RoleMarkers()
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]
    assert render_text(tokenizer, messages) == "be kind\nhello"


def test_prompts_are_encoded_as_vllms_chat_endpoint_does(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "make soup please"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert encode_prompt(tokenizer, messages) == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_word_level_tokenizer_with_unknown_words_still_shows_its_markers(tokenizer: Any) -> None:
    markers = find_markers(tokenizer)
    as_text = [tokenizer.convert_ids_to_tokens(list(m)) for m in (markers.user, markers.assistant, markers.end)]
    assert as_text == [["<|user|>"], ["<|assistant|>"], ["<|end|>"]]


def test_a_conversation_that_the_template_refuses_is_a_data_error_naming_the_roles() -> None:
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]
    with pytest.raises(DataError, match=r"roles system, user: System role not supported"):
        encode_prompt(bytes_tokenizer(GEMMA), messages)
