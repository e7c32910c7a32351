"""A quantised checkpoint has a fingerprint of its own, made of what its files hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from probes.fingerprint import fingerprint_model
from tests.support.quantised import FORMATS, quantise


@pytest.fixture(params=FORMATS)
def quantised(request: pytest.FixtureRequest, model_dir: Path, tmp_path: Path) -> Path:
    return quantise(model_dir, tmp_path / "packed", tmp_path / "meaning", request.param)


def changed_fields(a: Path, b: Path) -> set[str]:
    first, second = fingerprint_model(a).model_dump(), fingerprint_model(b).model_dump()
    return {k for k in first if first[k] != second[k]}


def test_a_quantised_checkpoint_is_neither_its_source_nor_what_it_means(quantised: Path, model_dir: Path) -> None:
    assert changed_fields(quantised, model_dir) == {"config", "weights"}
    assert changed_fields(quantised, quantised.parent / "meaning") == {"config", "weights"}


def test_no_two_formats_of_one_model_share_a_fingerprint(model_dir: Path, tmp_path: Path) -> None:
    folders = [quantise(model_dir, tmp_path / f, tmp_path / f"{f}-meaning", f) for f in FORMATS]
    prints = [fingerprint_model(folder) for folder in folders]
    assert len({p.config for p in prints}) == len({p.weights for p in prints}) == len(FORMATS)


def test_the_quantisation_settings_count(quantised: Path) -> None:
    copy = Path(shutil.copytree(quantised, quantised.parent / "copy"))
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"]["zero"] = "elsewhere"
    (copy / "config.json").write_text(json.dumps(config))
    assert changed_fields(quantised, copy) == {"config"}


@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json", "hf_quant_config.json"])
def test_settings_in_a_file_of_their_own_count_too(name: str, model_dir: Path, tmp_path: Path) -> None:
    folders = []
    for bits in (None, 4, 8):
        folder = Path(shutil.copytree(model_dir, tmp_path / str(bits)))
        if bits is not None:
            (folder / name).write_text(json.dumps({"bits": bits}))
        folders.append(fingerprint_model(folder))
    assert len({f.config for f in folders}) == 3
    assert len({f.weights for f in folders}) == 1


def test_one_changed_packed_tensor_is_seen(quantised: Path) -> None:
    copy = Path(shutil.copytree(quantised, quantised.parent / "copy"))
    tensors = load_file(copy / "model.safetensors")
    name = next(n for n, t in sorted(tensors.items()) if t.dtype in {torch.int32, torch.int8, torch.float8_e4m3fn})
    tensors[name].view(torch.uint8).flatten()[0] ^= 1
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    assert changed_fields(quantised, copy) == {"weights"}


def test_packed_tensors_of_another_shape_or_type_are_another_model(quantised: Path) -> None:
    copy = Path(shutil.copytree(quantised, quantised.parent / "copy"))
    tensors = load_file(copy / "model.safetensors")
    name = next(n for n, t in sorted(tensors.items()) if t.dtype in {torch.int32, torch.int8, torch.float8_e4m3fn})
    tensors[name] = tensors[name].view(torch.uint8)  # the same bytes
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    assert changed_fields(quantised, copy) == {"weights"}
