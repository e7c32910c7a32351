"""What a caller may ask for besides a prompt; rules must hold under all of it.

The vocabulary has words only, so :func:`give_json_words` names some of them ``{``, ``[``, ``1`` and so on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

JSON_WORDS = (*"0123456789", *"[]{},:-", '"a"', '"b"')
LIST = {"type": "array", "items": {"type": "integer"}, "minItems": 40}
OBJECT = {"type": "object", "properties": {"a": LIST, "b": LIST}, "required": ["a", "b"]}
WORDS = r"(w[1-9][0-9]*){30,400}"
CHOICES = ["w20", "w30", "w40"]


def give_json_words(model: Path) -> Path:
    """Rename the tokenizer's last words to the pieces of JSON; before a bundle is bound to ``model``."""
    path = model / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    words = tokenizer["model"]["vocab"]
    last = sorted(words, key=words.get)[-len(JSON_WORDS) :]
    for old, new in zip(last, JSON_WORDS, strict=True):
        words[new] = words.pop(old)
    path.write_text(json.dumps(tokenizer))
    return model


def make_params(index: int, max_tokens: int) -> dict[str, Any]:
    """Parameters of the request number ``index``: every variant in turn, streamed and whole."""
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    variants: list[dict[str, Any]] = [
        {},
        {"ignore_eos": False},
        {"ignore_eos": False, "min_tokens": 150},
        {"logprobs": 2},
        {"logprobs": 1, "prompt_logprobs": 1},
        {"structured_outputs": StructuredOutputsParams(regex=WORDS), "ignore_eos": False},
        {"structured_outputs": StructuredOutputsParams(json=LIST), "ignore_eos": False},
        {"structured_outputs": StructuredOutputsParams(json=OBJECT), "ignore_eos": False, "logprobs": 1},
        {"structured_outputs": StructuredOutputsParams(choice=CHOICES), "ignore_eos": False},
        {"stop_token_ids": [100], "logprobs": 0},
    ]
    kinds = (RequestOutputKind.DELTA, RequestOutputKind.FINAL_ONLY)
    kind = kinds[index // len(variants) % 2]
    return {"max_tokens": max_tokens, "output_kind": kind, **variants[index % len(variants)]}
