"""Quantised copies of a tiny model, packed by hand as each format defines it, and what their weights stand for.

Every format gives two folders: the packed checkpoint, and a float32 one with exactly the weights that the packed one
means. Tensors that a format leaves alone are rounded to bfloat16 in both, so that loading them rounds nothing more.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

GROUP = 32
"""Input channels that share one scale, in the four-bit formats."""

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
Packed = tuple[dict[str, Tensor], Tensor]
"""Tensors by the suffix that replaces ``weight``, and the float32 weight ``(n_out, n_in)`` that they mean."""


@dataclass(frozen=True)
class Format:
    """One way to store a linear layer.

    Attributes:
        config: ``quantization_config`` of ``config.json``.
        pack: packs a weight ``(n_out, n_in)``.
    """

    config: dict[str, object]
    pack: Callable[[Tensor], Packed]


def quantise(source: Path, target: Path, meaning: Path, name: str) -> Path:
    """Write the checkpoint ``target`` in format ``name``, and the float32 one that it means at ``meaning``."""
    form = FORMATS[name]
    packed: dict[str, Tensor] = {}
    plain: dict[str, Tensor] = {}
    for key, weight in load_file(source / "model.safetensors").items():
        if not key.endswith("_proj.weight"):
            packed[key] = plain[key] = weight.bfloat16().float()
            continue
        parts, plain[key] = form.pack(weight)
        packed |= {key.removesuffix("weight") + suffix: tensor.contiguous() for suffix, tensor in parts.items()}
    config = json.loads((source / "config.json").read_text())
    for folder, tensors, extra in ((target, packed, {"quantization_config": form.config}), (meaning, plain, {})):
        shutil.copytree(source, folder)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config | extra))
    return target


def gptq(weight: Tensor) -> Packed:
    """Symmetric four bits: ``(q - 8) * scale``; eight input channels to an int32, the zero stored less one."""
    grouped = weight.T.reshape(-1, GROUP, weight.shape[0])  # (groups, GROUP, n_out)
    scale = (grouped.abs().amax(1) / 7).bfloat16().float()
    q = (grouped / scale[:, None]).round().clamp(-8, 7) + 8
    meant = ((q - 8) * scale[:, None]).reshape(-1, weight.shape[0]).T
    rows = q.reshape(-1, weight.shape[0]).long()
    zeros = torch.full_like(scale, 7, dtype=torch.long)
    parts = {
        "qweight": _pack(rows.reshape(-1, 8, weight.shape[0]).transpose(1, 2)),
        "qzeros": _pack(zeros.reshape(len(zeros), -1, 8)),
        "scales": scale.bfloat16(),
        "g_idx": (torch.arange(weight.shape[1]) // GROUP).int(),
    }
    return parts, meant.contiguous()


def awq(weight: Tensor) -> Packed:
    """Four bits with a zero point: ``(q - zero) * scale``; eight output channels to an int32, interleaved."""
    grouped = weight.T.reshape(-1, GROUP, weight.shape[0])
    low, high = grouped.amin(1), grouped.amax(1)
    scale = ((high - low) / 15).bfloat16().float()
    zero = (-low / scale).round().clamp(0, 15)
    q = ((grouped / scale[:, None]).round() + zero[:, None]).clamp(0, 15)
    meant = ((q - zero[:, None]) * scale[:, None]).reshape(-1, weight.shape[0]).T
    rows = q.reshape(-1, weight.shape[0]).long()
    order = list(_AWQ_ORDER)
    parts = {
        "qweight": _pack(rows.reshape(len(rows), -1, 8)[:, :, order]),
        "qzeros": _pack(zero.long().reshape(len(zero), -1, 8)[:, :, order]),
        "scales": scale.bfloat16(),
    }
    return parts, meant.contiguous()


def int8(weight: Tensor) -> Packed:
    """Symmetric eight bits, one scale for each output channel."""
    scale = weight.abs().amax(1, keepdim=True) / 127
    q = (weight / scale).round().clamp(-127, 127)
    return {"weight": q.to(torch.int8), "weight_scale": scale}, q * scale


def float8(weight: Tensor) -> Packed:
    """Eight-bit floats (e4m3), one scale for the whole weight."""
    scale = weight.abs().amax() / torch.finfo(torch.float8_e4m3fn).max
    q = (weight / scale).to(torch.float8_e4m3fn)
    return {"weight": q, "weight_scale": scale.reshape(())}, q.float() * scale


def round_activations(model: nn.Module) -> None:
    """Round what enters each quantised layer as W8A8 does: symmetric, eight bits, one scale for each token."""

    def round_input(_module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        scale = args[0].abs().amax(-1, keepdim=True) / 127
        return ((args[0] / scale).round() * scale,)

    for name, module in model.named_modules():
        if name.endswith("_proj"):
            module.register_forward_pre_hook(round_input)


def _pack(nibbles: Tensor) -> Tensor:
    """``(..., 8)`` values of four bits to one int32 each, the first in the lowest bits."""
    words = (nibbles << (4 * torch.arange(8))).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).int()


FORMATS = {
    "gptq": Format(
        {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True, "lm_head": False},
        gptq,
    ),
    "awq": Format({"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}, awq),
    "compressed-tensors": Format(
        {
            "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
            "ignore": ["lm_head"],
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
                    "input_activations": {
                        "num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True,
                    },
                }
            },
        },
        int8,
    ),
    "fp8": Format({"quant_method": "fp8", "activation_scheme": "dynamic"}, float8),
}  # fmt: skip
