"""A folder's files as bytes, and back.

Every file is opened once. What is checked later is the bytes that were read here, so that a file that is swapped
between the check and its use changes nothing.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

from probes.bundle.layout import MANIFEST_FILE, MAX_BYTES, OPTIONAL, REQUIRED, UNREAD, Files
from probes.errors import BundleFormatError

_SHOWN = 5


def read_files(path: Path) -> dict[str, bytes]:
    """The files of a bundle by name.

    Entries whose names begin with ``..`` are passed over: Kubernetes keeps the books of a mounted volume there. Its
    files are links that stay within the folder, which are followed; a link that leads out of it is not.

    Raises:
        BundleFormatError: missing or unexpected files, one that is too large, no regular file, or unreadable.
    """
    try:
        if not path.is_dir():
            raise BundleFormatError(f"{path} is not a folder; give the folder that holds {MANIFEST_FILE}.")
        present = {entry.name for entry in path.iterdir() if not entry.name.startswith("..")}
        if missing := sorted(REQUIRED - present):
            raise BundleFormatError(f"{path} is not a bundle: it lacks {', '.join(missing)}.")
        if extra := sorted(present - REQUIRED - OPTIONAL - UNREAD):
            raise BundleFormatError(f"{path} holds files that belong to no bundle: {_some(extra)}. Remove them.")
        root = path.resolve()
        return {name: _read(root, path / name) for name in sorted(present - UNREAD)}
    except OSError as error:
        raise BundleFormatError(f"{path} cannot be read: {error}") from error


def write_files(path: Path, files: Files) -> None:
    """Write a folder as a whole or not at all: into a temporary folder beside ``path``, then renamed.

    A folder that is there is replaced; :func:`check_target` says whether it may be.

    Raises:
        BundleFormatError: a file is larger than :func:`read_files` would read.
        OSError: it could not be written; what was there is there still.
    """
    for name, data in files.items():
        check_size(path / name, len(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        fresh = scratch / "new"
        fresh.mkdir()
        for name, data in files.items():
            write_durably(fresh / name, data)
        for name in UNREAD:  # for people: kept when a bundle is replaced
            if (path / name).is_file() and not (path / name).is_symlink():
                shutil.copy2(path / name, fresh / name)
        if path.exists():
            path.rename(scratch / "old")
        fresh.rename(path)
    except BaseException:  # also of an interrupt
        if (scratch / "old").exists() and not path.exists():
            (scratch / "old").rename(path)
        raise
    finally:
        if path.exists() or not (scratch / "old").exists():
            shutil.rmtree(scratch, ignore_errors=True)


def write_durably(path: Path, data: bytes) -> None:
    """Write a new file, and return when it is on the disk; never through a link, and never over another file."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def check_target(path: Path, *, overwrite: bool) -> None:
    """Whether a bundle may be written to ``path``: never over anything that is not a bundle.

    Raises:
        BundleFormatError: ``path`` is taken.
    """
    if not path.exists():
        return
    if not path.is_dir():
        raise BundleFormatError(f"{path} is a file; give the name of a folder to make.")
    present = {entry.name for entry in path.iterdir()}
    if strangers := sorted(present - REQUIRED - OPTIONAL - UNREAD):
        raise BundleFormatError(f"{path} holds {_some(strangers)} and is no bundle; it is left alone.")
    if present and not overwrite:
        raise BundleFormatError(f"{path} holds a bundle already; give another name, or ask to overwrite it.")


def check_size(path: Path, n_bytes: int) -> None:
    """Whether a file of a bundle may be this large.

    Raises:
        BundleFormatError: it may not.
    """
    limit = MAX_BYTES[path.name]
    if n_bytes > limit:
        raise BundleFormatError(f"{path} has {n_bytes} bytes; at most {limit} are read. This is no file of a bundle.")


def _read(root: Path, path: Path) -> bytes:
    try:
        target = path.resolve(strict=True)
    except RuntimeError as error:  # how Python 3.11 reports links that lead in a circle
        raise BundleFormatError(f"{path} is a link that leads in a circle.") from error
    if not target.is_relative_to(root):
        raise BundleFormatError(f"{path} is a link that leads out of the bundle; put the file itself there (cp -L).")
    # Neither follows a link that has just been put there, nor waits for the writer of a pipe.
    descriptor = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BundleFormatError(f"{path} is no regular file; put the file itself there.")
        check_size(path, status.st_size)
        data = file.read(MAX_BYTES[path.name] + 1)
    check_size(path, len(data))  # it may have grown
    return data


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
