"""The files of a data set that is already in the local Hugging Face cache. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from probes.errors import DataError
from probes.train.sources.records import SUFFIXES


def resolve_files(name: str, pattern: str = "**/*") -> list[Path]:
    """Data files by the name that a person gave: a file, a folder, or a hub id.

    Args:
        name: path or hub id, such as ``walledai/AdvBench``.
        pattern: glob inside a folder or hub data set; only files that can be read are kept.

    Raises:
        DataError: neither a path nor in the cache (the message says how to fetch it), or no file fits.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        try:
            path = Path(snapshot_download(name, repo_type="dataset", local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            raise DataError(
                f"{name} is neither a file or folder nor a data set in the local Hugging Face cache. Check the path, "
                f"or fetch it first: hf download --repo-type dataset {name}"
            ) from None
    files = sorted(f for f in path.glob(pattern) if f.is_file() and f.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{path} has no file {pattern} that ends in one of {', '.join(SUFFIXES)}.")
    return files
