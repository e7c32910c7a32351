"""SHA256SUMS: one line for each file that it covers, as ``sha256sum`` writes them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from probes.bundle.layout import SUMMED, SUMS_FILE, Files
from probes.errors import BundleFormatError

_LINE = re.compile(rb"([0-9a-f]{64})  ([\x21-\x7e]{1,64})")


def sha256(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def make_sums(files: Files) -> bytes:
    """SHA256SUMS of those files that it covers."""
    return "".join(f"{sha256(files[name])}  {name}\n" for name in SUMMED if name in files).encode()


def check_sums(path: Path, files: Files) -> None:
    """Whether every file is the one whose sum is listed, and none is left out.

    Names in SHA256SUMS are compared with the files that were read; nothing is opened by them.

    Args:
        path: of the bundle, for messages. files: as read, with SHA256SUMS among them.

    Raises:
        BundleFormatError: a malformed or doubled line, a file that is listed but not there or there but not listed,
            or an altered file.
    """
    wanted = [name for name in SUMMED if name in files]
    sums: dict[str, str] = {}
    lines = files[SUMS_FILE].split(b"\n")
    for line in lines[:-1]:
        found = _LINE.fullmatch(line)
        name = found[2].decode() if found else ""
        if found is None or name in sums:
            what = "twice" if found else "which is no line of sha256sum"
            raise BundleFormatError(f"{path / SUMS_FILE} lists {_shown(line)} {what}; {_remedy(wanted)}")
        sums[name] = found[1].decode()
    if lines[-1] or sums.keys() != set(wanted):
        listed = ", ".join(sorted(sums)) or "nothing"
        raise BundleFormatError(
            f"{path / SUMS_FILE} lists {listed}{' and an unfinished line' * bool(lines[-1])}; {_remedy(wanted)}"
        )
    for name, sum_ in sums.items():
        if (is_ := sha256(files[name])) != sum_:
            raise BundleFormatError(
                f"{path / name} was altered: SHA-256 is {is_[:12]}…, {SUMS_FILE} says {sum_[:12]}…. "
                "Copy the bundle again from where it was made, or train it anew."
            )


def _shown(line: bytes) -> str:
    text = repr(line.decode("ascii", errors="replace"))
    return text if len(text) <= 100 else text[:99] + "…"


def _remedy(wanted: list[str]) -> str:
    return f"wanted one line each for {', '.join(wanted)}. Copy the bundle again from where it was made."
