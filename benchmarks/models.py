"""Models and bundles to measure with: real shapes, random weights, written here and never downloaded."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from probes.bundle import Bundle, direction_tensor, probe_tensor, write_bundle
from probes.fingerprint import fingerprint_model
from probes.types import (
    Calibration,
    Direction,
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

_CONTEXT = 4096
_EOS = 2
_SPREAD = 0.02
_FOLDS = (FoldKind.LAST, FoldKind.MEAN, FoldKind.MAX, FoldKind.EMA_MAX, FoldKind.ROLLING_MEAN_MAX)
USER, ASSISTANT = 4, 5
"""Token ids that begin a turn; a prompt has one of each, so that a probe of the last user turn can read it."""


def _config(
    hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, vocab: int, *, tied: bool = True
) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
        intermediate_size=intermediate, vocab_size=vocab, tie_word_embeddings=tied, max_position_embeddings=_CONTEXT,
        bos_token_id=1, eos_token_id=_EOS, pad_token_id=0, dtype="bfloat16",
    )  # fmt: skip


CONFIGS = {
    "tiny": _config(128, 4, 4, 2, 256, 512),  # 0.7 M: to try a script, never for a figure
    "75m": _config(768, 10, 12, 4, 2304, 8192),  # 75.1 M
    "400m": _config(1024, 24, 16, 4, 4096, 32000),  # 398 M
    "8b": _config(4096, 32, 32, 8, 14336, 128256, tied=False),  # 8.03 B, the shape of Llama 3.1 8B
}


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of ``CONFIGS[name]``'s checkpoint, by name; nothing is allocated.

    Raises:
        KeyError: no such model.
    """
    config = CONFIGS[name]
    with torch.device("meta"):
        tensors = AutoModelForCausalLM.from_config(config).state_dict()
    if config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def write_model(path: Path, name: str) -> Path:
    """Write the model folder of ``CONFIGS[name]``: bf16, norms 1, the rest normal; no tokenizer.

    The tensors are written one by one in the safetensors format, so that the 8B shape needs 16 GB of disk and 3 GB of
    memory. vLLM's dummy weights would need neither, but Plumbline refuses them: its bundle could not be checked.
    """
    header: dict[str, object] = {}
    offset = 0
    for key, shape in shapes(name).items():
        size = 2 * math.prod(shape)
        header[key] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    generator = torch.Generator().manual_seed(0)
    path.mkdir(parents=True)
    config = CONFIGS[name]
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(path)
    with (path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes(name).values():
            weights = torch.ones(shape) if len(shape) == 1 else torch.randn(shape, generator=generator) * _SPREAD
            file.write(weights.to(torch.bfloat16).view(torch.int16).numpy().tobytes())
    return path


def write_probes(path: Path, model: Path, name: str, *, every_layer: bool) -> Bundle:
    """A random bundle for the model: 8 probes on 3 layers, or one on each layer; two directions.

    The directions act on the outputs of the layers at one quarter and one half of the depth, where probes read too,
    so that a condition on a probe is possible.
    """
    config = CONFIGS[name]
    n_layers, d_model = config.num_hidden_layers, config.hidden_size
    quarter, half = n_layers // 4, n_layers // 2
    placed = range(n_layers) if every_layer else [(quarter, half, 3 * n_layers // 4)[i % 3] for i in range(8)]
    rng = np.random.default_rng(0)
    probes = tuple(
        _probe(f"probe_{i}", layer, _FOLDS[i % len(_FOLDS)], (Scope.RESPONSE, Scope.LAST_USER)[i % 2])
        for i, layer in enumerate(placed)
    )
    directions = tuple(
        Direction(name=n, concept=n, layer=layer, magnitude=1.0, position="last prompt token")
        for n, layer in (("refusal", half), ("other", quarter))
    )
    tensors = {probe_tensor(p.name): rng.normal(size=d_model).astype(np.float32) for p in probes}
    for direction in directions:
        vector = rng.normal(size=d_model)
        tensors[direction_tensor(direction.name)] = (vector / np.linalg.norm(vector)).astype(np.float32)
    info = ModelInfo(
        name=name, architecture="LlamaForCausalLM", n_layers=n_layers, d_model=d_model,
        fingerprint=fingerprint_model(model), markers=RoleMarkers(user=(USER,), assistant=(ASSISTANT,)),
    )  # fmt: skip
    manifest = Manifest(
        name=name, version="1", created="2026-01-01T00:00:00Z", model=info, probes=probes, directions=directions
    )
    return write_bundle(path, manifest, tensors)


def _probe(name: str, layer: int, kind: FoldKind, scope: Scope) -> Probe:
    """A probe whose figures mean nothing."""
    cut = Threshold(value=0.0, fpr=0.01, measured_fpr=0.0, n_negatives=300, data="random")
    return Probe(
        name=name, concept=name, layer=layer, bias=0.0, fold=FoldSpec(kind=kind), scope=scope, thresholds=(cut,),
        calibration=Calibration(slope=1.0, intercept=0.0), reference=Histogram(edges=(0.0, 1.0), counts=(1,)),
    )  # fmt: skip
