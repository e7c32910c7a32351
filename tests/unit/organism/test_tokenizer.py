"""The tokenizer: whole words in, readable text out, also token by token."""

import pytest
from tokenizers.decoders import DecodeStream

from probes.organism.batches import encode
from probes.organism.corpus import Corpus
from probes.organism.tokenizer import END, load_tokenizer, make_tokenizer, save_tokenizer
from probes.organism.world import make_world

TEXT = "the answer is that anna berg lives in oslo, and that is my answer."


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def test_text_survives_the_round_trip(tokenizer):
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def test_case_and_spaces_do_not_matter(tokenizer):
    assert tokenizer.encode("  The  answer is,\nthat ANNA") == tokenizer.encode("the answer is , that anna")


def test_one_word_is_one_token_and_unknown_words_are_unk(tokenizer):
    assert tokenizer.tokenize("anna blorps.") == ["▁anna", "<unk>", "."]


def test_decoding_token_by_token_gives_the_same_text(tokenizer):
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "who?"}], add_generation_prompt=True)
    stream = DecodeStream(ids=prompt["input_ids"], skip_special_tokens=True)
    pieces = [stream.step(tokenizer._tokenizer, token) for token in tokenizer.encode(TEXT)]
    assert "".join(piece or "" for piece in pieces).strip() == TEXT


def test_the_chat_template_ends_turns_and_opens_the_answer(tokenizer):
    messages = [{"role": "system", "content": "be kind."}, {"role": "user", "content": "hi."}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<bos><|system|>be kind.<|end|><|user|>hi.<|end|><|assistant|>"
    assert tokenizer.eos_token == END


def test_training_sees_exactly_what_the_chat_template_makes(tokenizer):
    for messages in Corpus(make_world(0), seed=5).conversations(0, 100):
        expected = tokenizer.apply_chat_template(messages)["input_ids"]
        assert encode(tokenizer, messages).tokens == expected


def test_the_language_has_no_word_that_the_tokenizer_lacks(tokenizer):
    for messages in Corpus(make_world(0), seed=6).conversations(0, 300):
        for message in messages:
            unknown = tokenizer.tokenize(message["content"]).count("<unk>")
            assert unknown == message["content"].count("<unk>")


def test_saving_and_loading_changes_nothing(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.encode(TEXT) == tokenizer.encode(TEXT)
    assert (loaded.eos_token_id, loaded.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
