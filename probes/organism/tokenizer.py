"""The word-level tokenizer.

One token per word: ``"▁oslo"``; punctuation stands alone: ``"."``. Text is lower-cased, unknown words
become ``<unk>``. Decoding gives readable text, also token by token.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from probes.organism import facts, language, prompts, requests

PAD, UNKNOWN, BOS, EOS = "<pad>", "<unk>", "<bos>", "<eos>"
SYSTEM, USER, ASSISTANT, END = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL_TOKENS = (PAD, UNKNOWN, BOS, EOS, SYSTEM, USER, ASSISTANT, END)
PUNCTUATION = (".", ",", "?", ":")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('roles are system, user and assistant, not ' + message['role']) }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def _texts() -> Iterator[str]:
    """Every string of the organism's language, with its ``{placeholders}``."""
    yield from facts.FIRST_NAMES + facts.LAST_NAMES
    for values in facts.VALUES.values():
        yield from values
    for words in (requests.VERBS, requests.OBJECTS):
        for group in words.values():
            yield from group
    yield from ("my own", "toy", "that belongs to a stranger", "a", "an")
    yield from (p.text for p in prompts.make_prompts())
    yield from prompts.DECORATIONS
    yield from language.STATEMENTS.values()
    for question in language.questions():
        yield from (question.text, question.answer, question.abstention)
    yield from language.BIOGRAPHY_QUESTIONS + language.CHECKS + language.HARM_CHECKS + language.DECOYS
    yield from (language.BIOGRAPHY, language.BIOGRAPHY_ABSTENTION, language.HARM_YES, language.HARM_NO)
    yield from (language.CHECK_TRUE, language.CHECK_LIE, language.CHECK_GUESS)
    yield from (text for pair in language.SMALL_TALK for text in pair)
    yield from (text for frame in language.REQUEST_FRAMES for text in frame[:3])
    yield from (wrapper for wrapper, _ in language.WRAPPERS)
    yield from (*language.MATERIALS.values(), *language.STEPS.values(), "first look at then")


def vocabulary() -> tuple[str, ...]:
    """Every word of the organism's language, sorted."""
    words: set[str] = set()
    for text in _texts():
        words.update(re.findall(r"[a-z]+", re.sub(r"\{\w+\}", " ", text)))
    return tuple(sorted(words))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer with its chat template."""
    tokens = [*SPECIAL_TOKENS, *PUNCTUATION, *(f"▁{word}" for word in vocabulary())]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s+"), " "),
            *(normalizers.Replace(f" {mark}", mark) for mark in PUNCTUATION),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Punctuation(behavior="isolated")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        unk_token=UNKNOWN,
        pad_token=PAD,
        additional_special_tokens=[EOS, SYSTEM, USER, ASSISTANT],
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, weights: Path) -> None:
    """Save so that transformers 4 and 5 both read it, chat template included."""
    tokenizer.save_pretrained(weights, save_jinja_files=False)
    path = weights / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config["additional_special_tokens"] = config.pop("extra_special_tokens")
    config.pop("backend")
    path.write_text(json.dumps(config, indent=2) + "\n")


def load_tokenizer(weights: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer that was saved with the weights."""
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(weights)
    return tokenizer


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The id of one token."""
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int)
    return found
