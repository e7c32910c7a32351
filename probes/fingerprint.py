"""What a bundle is bound to: four hashes of a model folder, made from files alone.

    config          config.json without volatile fields (its quantization_config counts), and the files beside it in
                    which quantised checkpoints may keep their settings
    tokenizer       every tokenizer file, tokenizer_config.json without its chat template
    chat_template   the template that transformers and vLLM would use
    weights         name, dtype and shape of every tensor, plus a strided sample of the bytes

A quantised checkpoint is a model of its own: its packed tensors are taken as they are stored, never as an engine
unpacks them. The sample reads at most about 2 MB through ``pread``, whatever the model's size. It tells a fine-tune
from its base model; it is no proof against somebody who edits single weights on purpose. Splitting the same tensors
over other shards changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from probes.errors import ModelFormatError
from probes.types import Fingerprint

_VOLATILE = frozenset({"transformers_version", "_name_or_path", "name_or_path", "_commit_hash", "_attn_implementation"})
_QUANTISATION_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "tekken.json",
)
_RUNTIME_STATE = frozenset({"padding", "truncation"})  # tokenizer.json keeps the last caller's settings
_CHUNK_BYTES = 256
_MAX_CHUNKS = 8192
_MAX_CHUNKS_PER_TENSOR = 16
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class _Tensor:
    """One entry of a safetensors header: ``start`` and ``size`` are bytes within ``shard``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: Path
    start: int
    size: int


def fingerprint_model(model_dir: Path) -> Fingerprint:
    """Fingerprint a Hugging Face model folder.

    Args:
        model_dir: folder with ``config.json`` and safetensors weights.

    Raises:
        ModelFormatError: no model folder, no safetensors, or an unreadable file.
    """
    if not (model_dir / "config.json").is_file():
        raise ModelFormatError(
            f"{model_dir} is not a model folder: it has no config.json. "
            "Give the folder that holds config.json, tokenizer.json and *.safetensors."
        )
    return Fingerprint(
        config=_digest(_config_parts(model_dir)),
        tokenizer=_digest(_tokenizer_parts(model_dir)),
        chat_template=_digest([_canonical(_chat_templates(model_dir))]),
        weights=_digest(_weight_parts(_tensors(model_dir))),
    )


def resolve_model(model: str) -> Path:
    """A model folder from a path, or from a Hugging Face hub id that is already in the local cache.

    Nothing is downloaded.

    Raises:
        ModelFormatError: neither; the message says how to fetch it.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.is_file():
        raise ModelFormatError(f"{model} is a file; wanted the model folder that holds config.json.")
    try:
        from huggingface_hub import snapshot_download  # noqa: PLC0415  (only hub ids need it)
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415
    except ImportError:
        raise ModelFormatError(
            f"{model} is not a folder, and without the package huggingface_hub no hub id can be looked up. "
            "Give a folder, or install plumbline[train]."
        ) from None
    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        raise ModelFormatError(
            f"{model} is neither a folder nor a model in the local Hugging Face cache. "
            f"Check the path, or fetch it first: hf download {model}"
        ) from None


def _config_parts(model_dir: Path) -> Iterator[bytes]:
    yield _canonical(_without(_load_json(model_dir / "config.json"), _VOLATILE))
    for name in _QUANTISATION_FILES:
        if (path := model_dir / name).is_file():
            yield name.encode()
            yield _canonical(_without(_load_json(path), _VOLATILE))


def _tokenizer_parts(model_dir: Path) -> Iterator[bytes]:
    extra = sorted(p.name for p in model_dir.glob("*.tiktoken"))
    for name in (*_TOKENIZER_FILES, *extra):
        path = model_dir / name
        if not path.is_file():
            continue
        yield name.encode()
        if name == "tokenizer_config.json":
            yield _canonical(_without(_load_json(path), _VOLATILE | {"chat_template"}))
        elif name == "tokenizer.json":
            yield _canonical(_without(_load_json(path), _RUNTIME_STATE))
        else:
            yield path.read_bytes()


def _chat_templates(model_dir: Path) -> dict[str, object]:
    """Template by name; the default one where transformers looks first."""
    found: dict[str, object] = {}
    for path in (model_dir / "tokenizer_config.json", model_dir / "chat_template.json"):
        if path.is_file():
            template = _load_json(path).get("chat_template")
            if isinstance(template, str):
                found["default"] = template
            elif isinstance(template, list):
                found |= {str(t["name"]): t["template"] for t in template if isinstance(t, dict)}
    if (jinja := model_dir / "chat_template.jinja").is_file():
        found["default"] = jinja.read_text(encoding="utf-8")
    for path in (model_dir / "additional_chat_templates").glob("*.jinja"):
        found[path.stem] = path.read_text(encoding="utf-8")
    return found


def _weight_parts(tensors: list[_Tensor]) -> Iterator[bytes]:
    yield _canonical([[t.name, t.dtype, t.shape] for t in tensors])
    sampled = tensors[:: -(-len(tensors) // _MAX_CHUNKS)]
    n_chunks = min(_MAX_CHUNKS_PER_TENSOR, _MAX_CHUNKS // len(sampled))
    shards = {t.shard: os.open(t.shard, os.O_RDONLY) for t in sampled}
    try:
        for tensor in sampled:
            for offset, size in _chunks(tensor.size, n_chunks):
                yield os.pread(shards[tensor.shard], size, tensor.start + offset)
    finally:
        for descriptor in shards.values():
            os.close(descriptor)


def _chunks(size: int, n: int) -> Iterator[tuple[int, int]]:
    """``(offset, size)`` of ``n`` evenly spaced chunks, first and last bytes included; all of a small tensor."""
    if size <= n * _CHUNK_BYTES:
        yield 0, size
        return
    for i in range(n):
        yield (size - _CHUNK_BYTES) * i // max(n - 1, 1), _CHUNK_BYTES


def _tensors(model_dir: Path) -> list[_Tensor]:
    """Every tensor of the model, by name."""
    tensors = [t for shard in _shards(model_dir) for t in _read_header(shard)]
    if not tensors:
        raise ModelFormatError(f"{model_dir}: its safetensors files hold no tensor.")
    return sorted(tensors, key=lambda t: t.name)


def _shards(model_dir: Path) -> list[Path]:
    index = model_dir / "model.safetensors.index.json"
    single = model_dir / "model.safetensors"
    if index.is_file():
        weight_map = _load_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ModelFormatError(f"{index} has no weight_map; fetch the model again.")
        shards = [model_dir / str(name) for name in sorted(set(weight_map.values()))]
    elif single.is_file():
        shards = [single]
    else:
        shards = sorted(model_dir.glob("*.safetensors"))
    if not shards:
        raise ModelFormatError(
            f"{model_dir} has no *.safetensors. Convert the model first: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder), and copy the tokenizer."
        )
    if missing := [s.name for s in shards if not s.is_file()]:
        raise ModelFormatError(f"{model_dir} lacks {', '.join(missing)}, named by {index.name}; fetch them.")
    return shards


def _read_header(shard: Path) -> list[_Tensor]:
    """Source: the safetensors format: u64 header length (little endian), JSON header, data."""
    try:
        with shard.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER_BYTES, shard.stat().st_size - 8):
                raise ValueError(f"header of {length} bytes")  # noqa: TRY301  (explained below)
            header = json.loads(file.read(length))
        return [
            _Tensor(
                name=name,
                dtype=str(entry["dtype"]),
                shape=tuple(int(n) for n in entry["shape"]),
                shard=shard,
                start=8 + length + int(entry["data_offsets"][0]),
                size=int(entry["data_offsets"][1]) - int(entry["data_offsets"][0]),
            )
            for name, entry in header.items()
            if name != "__metadata__"
        ]
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ModelFormatError(
            f"{shard} is not a safetensors file ({error}). "
            "An unfinished download, or a Git LFS pointer? Fetch it again."
        ) from error


def _load_json(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelFormatError(f"{path} holds a JSON {type(value).__name__}; wanted an object.")
    return value


def _without(value: Mapping[str, object], keys: frozenset[str]) -> dict[str, object]:
    """A copy without ``keys``, also in nested objects (``text_config`` and the like)."""
    return {k: _without(v, keys) if isinstance(v, dict) else v for k, v in value.items() if k not in keys}


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _digest(parts: Iterable[bytes]) -> str:
    """SHA-256 over length-prefixed parts, so that no two lists of parts collide by concatenation."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
