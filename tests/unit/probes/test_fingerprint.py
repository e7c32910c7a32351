"""What changes a fingerprint, and what does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from probes import fingerprint as module
from probes.errors import ModelFormatError
from probes.fingerprint import fingerprint_model, resolve_model


@pytest.fixture
def copy(model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_dir, tmp_path / "copy"))


def changed_fields(a: Path, b: Path) -> set[str]:
    first, second = fingerprint_model(a).model_dump(), fingerprint_model(b).model_dump()
    return {k for k in first if first[k] != second[k]}


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=7))


def test_a_copy_has_the_same_fingerprint(model_dir: Path, copy: Path) -> None:
    assert changed_fields(model_dir, copy) == set()


def test_other_weights_of_the_same_shape_change_only_the_weights(model_dir: Path, other_model_dir: Path) -> None:
    assert changed_fields(model_dir, other_model_dir) == {"weights"}


def test_the_configuration_counts_but_not_which_library_wrote_it(model_dir: Path, copy: Path) -> None:
    edit_json(copy / "config.json", transformers_version="0.0.1", _name_or_path="elsewhere")
    assert changed_fields(model_dir, copy) == set()
    edit_json(copy / "config.json", rms_norm_eps=0.1)
    assert changed_fields(model_dir, copy) == {"config"}


def test_the_tokenizer_counts_but_not_the_padding_that_its_last_user_left_on(model_dir: Path, copy: Path) -> None:
    edit_json(copy / "tokenizer.json", padding={"strategy": "BatchLongest"}, truncation={"max_length": 3})
    assert changed_fields(model_dir, copy) == set()
    edit_json(copy / "tokenizer.json", normalizer={"type": "Lowercase"})
    assert changed_fields(model_dir, copy) == {"tokenizer"}


def test_the_chat_template_counts_wherever_it_is_kept(model_dir: Path, copy: Path) -> None:
    template = (copy / "chat_template.jinja").read_text()
    (copy / "chat_template.jinja").unlink()
    assert changed_fields(model_dir, copy) == {"chat_template"}
    edit_json(copy / "tokenizer_config.json", chat_template=template)
    assert changed_fields(model_dir, copy) == set()
    (copy / "chat_template.jinja").write_text(template + " ")
    assert changed_fields(model_dir, copy) == {"chat_template"}


def test_the_same_tensors_in_other_shards_are_the_same_model(model_dir: Path, copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, chosen in files.items():
        save_file({n: tensors[n] for n in chosen}, copy / file)
    index = {"weight_map": {n: f for f, chosen in files.items() for n in chosen}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert changed_fields(model_dir, copy) == set()


def test_one_changed_small_tensor_is_seen(model_dir: Path, copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + np.eye(1, 64, 17, dtype=np.float32)[0]
    save_file(tensors, copy / "model.safetensors")
    assert changed_fields(model_dir, copy) == {"weights"}


def test_a_huge_model_is_sampled_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    header = json.dumps({"big": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}}).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2**40)  # sparse: a terabyte that takes no disk
    read: list[int] = []
    pread = module.os.pread
    monkeypatch.setattr(module.os, "pread", lambda fd, n, at: read.append(n) or pread(fd, n, at))
    fingerprint_model(tmp_path)
    assert sum(read) <= 4_000_000


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=r"no config\.json"):
        fingerprint_model(tmp_path)


def test_weights_in_another_format_are_refused_with_the_conversion(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelFormatError, match=r"no \*\.safetensors\. Convert"):
        fingerprint_model(copy)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1", b"\xff" * 64])
def test_a_damaged_weight_file_is_refused_naming_it(copy: Path, content: bytes) -> None:
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelFormatError, match=r"model\.safetensors is not a safetensors file"):
        fingerprint_model(copy)


def test_a_missing_shard_is_refused_naming_it(copy: Path) -> None:
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "model-2.safetensors"}}))
    with pytest.raises(ModelFormatError, match=r"lacks model-2\.safetensors"):
        fingerprint_model(copy)


def test_a_path_resolves_to_itself_and_an_unknown_name_says_how_to_fetch_it(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve_model(str(model_dir)) == model_dir.resolve()
    with pytest.raises(ModelFormatError, match="hf download nobody/nothing"):
        resolve_model("nobody/nothing")
    with pytest.raises(ModelFormatError, match="is a file"):
        resolve_model(str(model_dir / "config.json"))


def test_a_hub_id_resolves_to_its_cached_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    repo = tmp_path / "models--someone--tiny"
    commit = "0" * 40
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert resolve_model("someone/tiny").resolve() == snapshot.resolve()
