"""A small random LoRA adapter in PEFT's format, written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

RANK = 8


def make_adapter(folder: Path, model: Path, seed: int = 0) -> Path:
    """Write an adapter for the query and value projections of every layer of ``model``, strong enough to matter."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, weight in load_file(model / "model.safetensors").items():
        if key.endswith(("q_proj.weight", "v_proj.weight")):
            prefix = "base_model.model." + key.removesuffix(".weight")
            for part, shape in (("lora_A", (RANK, weight.shape[1])), ("lora_B", (weight.shape[0], RANK))):
                tensors[f"{prefix}.{part}.weight"] = torch.randn(shape, generator=generator) * 0.2
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(model), "r": RANK,
        "lora_alpha": RANK, "lora_dropout": 0.0, "bias": "none", "target_modules": ["q_proj", "v_proj"],
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
