"""Tiny models with random weights, and random bundles for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from probes.bundle import Bundle, direction_tensor, probe_tensor, query_tensor, write_bundle
from probes.fingerprint import fingerprint_model
from probes.types import (
    Calibration,
    Direction,
    Fingerprint,
    FoldKind,
    FoldSpec,
    Histogram,
    Manifest,
    ModelInfo,
    Probe,
    RoleMarkers,
    Scope,
    Threshold,
)
from tests.support.families import FAMILIES, N_WORDS

SPECIAL = ["<pad>", "<bos>", "<eos>", "<|system|>", "<|user|>", "<|assistant|>", "<unk>"]
USER, ASSISTANT = SPECIAL.index("<|user|>"), SPECIAL.index("<|assistant|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
FINGERPRINT = Fingerprint(config="0", tokenizer="0", chat_template="0", weights="0")
ProbeSpec = tuple[str, int, FoldSpec, Scope]
# All folds and scopes, on every layer (-1: the last one).
SPECS: tuple[ProbeSpec, ...] = (
    ("intent", 1, FoldSpec(kind=FoldKind.LAST), Scope.LAST_USER),
    ("intent_mean", 1, FoldSpec(kind=FoldKind.MEAN), Scope.PROMPT),
    ("deceit", 2, FoldSpec(kind=FoldKind.MEAN, min_tokens=3), Scope.RESPONSE),
    ("invention", -1, FoldSpec(kind=FoldKind.ROLLING_MEAN_MAX, window=3), Scope.RESPONSE),
    ("first", 0, FoldSpec(kind=FoldKind.MAX), Scope.ALL),
    ("smooth", 2, FoldSpec(kind=FoldKind.EMA_MAX), Scope.RESPONSE),
)


def make_model(path: Path, family: str = "llama", seed: int = 0, sizes: Mapping[str, int] | None = None) -> Path:
    """Write a random model of ``family`` with a word-level tokenizer and a chat template; ``sizes`` overrides."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(FAMILIES[family].make_config(**(sizes or {})))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases, which start at zero, and the scales of norms, which start at one
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.generation_config.eos_token_id = 2
    model.save_pretrained(path)
    words = {w: i for i, w in enumerate(SPECIAL + [f"w{i}" for i in range(N_WORDS - len(SPECIAL))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>",
        additional_special_tokens=SPECIAL[3:6], chat_template=CHAT_TEMPLATE,
    )  # fmt: skip
    fast.save_pretrained(path)
    return path


def make_probe(name: str, layer: int, fold: FoldSpec, scope: Scope, bias: float, threshold: float = 0.0) -> Probe:
    """A probe whose threshold means nothing."""
    cut = Threshold(value=threshold, fpr=0.01, measured_fpr=0.0, n_negatives=300, data="random")
    return Probe(
        name=name, concept=name, layer=layer, bias=bias, fold=fold, scope=scope, thresholds=(cut,),
        calibration=Calibration(slope=1.0, intercept=0.0), reference=Histogram(edges=(0.0, 1.0), counts=(1,)),
    )  # fmt: skip


def make_bundle(path: Path, model: Path, seed: int = 0, specs: Sequence[ProbeSpec] = SPECS) -> Bundle:
    """A random bundle that is bound to ``model``."""
    config = AutoConfig.from_pretrained(model)
    return random_bundle(
        path, config.hidden_size, config.num_hidden_layers, config.architectures[0], fingerprint_model(model), seed,
        specs,
    )  # fmt: skip


def random_bundle(
    path: Path, d_model: int, n_layers: int, architecture: str = "LlamaForCausalLM",
    fingerprint: Fingerprint = FINGERPRINT, seed: int = 0, specs: Sequence[ProbeSpec] = SPECS,
) -> Bundle:  # fmt: skip
    """Random probes as ``specs`` says (name, layer, fold, scope), and two directions."""
    rng = np.random.default_rng(seed)
    placed = [(name, layer % n_layers, fold, scope) for name, layer, fold, scope in specs]
    probes = tuple(make_probe(n, layer, f, s, float(rng.normal())) for n, layer, f, s in placed)
    vectors = {probe_tensor(p.name): rng.normal(size=d_model).astype(np.float32) * 0.1 for p in probes}
    attending = [p.name for p in probes if p.fold.kind is FoldKind.ATTENTION]
    vectors |= {query_tensor(name): rng.normal(size=d_model).astype(np.float32) * 0.1 for name in attending}
    directions = tuple(
        Direction(name=n, concept=n, layer=layer, magnitude=m, position="last prompt token")
        for n, layer, m in (("refusal", 2, 4.0), ("other", 1, 3.0))
    )
    for d in directions:
        v = rng.normal(size=d_model)
        vectors[direction_tensor(d.name)] = (v / np.linalg.norm(v)).astype(np.float32)
    info = ModelInfo(
        name="tiny", architecture=architecture, n_layers=n_layers, d_model=d_model,
        fingerprint=fingerprint, markers=RoleMarkers(user=(USER,), assistant=(ASSISTANT,)),
    )  # fmt: skip
    manifest = Manifest(
        name="tiny", version="1", created="2026-01-01T00:00:00Z", model=info, probes=probes, directions=directions
    )
    return write_bundle(path, manifest, vectors)
