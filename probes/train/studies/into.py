"""Studies into the card of a bundle that lies on the disk. Importable without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from probes.bundle import Bundle, read_bundle, write_bundle
from probes.bundle.match import differing_parts
from probes.cards import Card, Failure, Study
from probes.errors import ModelMismatchError


def extend_card(path: Path, studied: Bundle, studies: Sequence[Study], failures: Sequence[Failure]) -> bool:
    """Rewrite the bundle at ``path`` with studies in its card.

    A study takes the place of one with the same title, and of the failures that begin with it.

    Args:
        path: of the bundle to extend.
        studied: the bundle whose probes were studied.
        studies, failures: to add.

    Returns:
        Whether a signature was dropped.

    Raises:
        ModelMismatchError: the bundle at ``path`` is for another model than the one studied.
        BundleFormatError: it cannot be read or written.
    """
    target = read_bundle(path)
    if differing := differing_parts(target.manifest.model.fingerprint, studied.manifest.model.fingerprint):
        raise ModelMismatchError(
            f"{path} belongs to another model than {studied.path}: {', '.join(differing)} differ. Give a bundle of the "
            "model that was studied."
        )
    card = target.card or Card()
    kept = [f for f in card.failures if not f.what.startswith(tuple(f"{s.title}:" for s in studies))]
    others = [s for s in card.studies if s.title not in {s.title for s in studies}]
    extended = card.model_copy(update={"studies": (*others, *studies), "failures": (*kept, *failures)})
    write_bundle(path, target.manifest, target.tensors, card=extended, overwrite=True)
    return target.signature is not None
