"""From a bundle on disk to a page and its Markdown twin on disk."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from probes.bundle import read_bundle
from probes.errors import BundleFormatError
from probes.report.build import build_report
from probes.report.markdown import render_markdown
from probes.report.page import render_page


def write_report(bundle: Path, page: Path, markdown: Path) -> None:
    """Write the report of the bundle in ``bundle``: both files, or neither if it cannot be made.

    Raises:
        BundleFormatError: the bundle cannot be read, or has no evaluation card.
        OSError: a file cannot be written.
    """
    read = read_bundle(bundle)
    card = read.card
    if card is None:
        raise BundleFormatError(
            f"{bundle} has no card.json, so there is nothing to report. Bundles that plumbline train writes have one: "
            "train it anew, or look at it with: plumbline bundle show"
        )
    report = build_report(read.manifest, card, read.digest)
    texts = {page: render_page(report), markdown: render_markdown(report)}
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, text)


def _replace(path: Path, text: str) -> None:
    """Write beside ``path``, then rename: a reader never sees half a page."""
    handle, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        Path(scratch).chmod(0o666 & ~mask)  # mkstemp's is for its owner alone
        Path(scratch).replace(path)
    finally:
        Path(scratch).unlink(missing_ok=True)
