"""Whether a bundle was made for the model that it is to be used with."""

from __future__ import annotations

from pathlib import Path

from probes.bundle.artifact import Bundle
from probes.errors import ModelMismatchError
from probes.fingerprint import fingerprint_model
from probes.types import Fingerprint


def check_model(bundle: Bundle, model_dir: Path) -> None:
    """Check that ``bundle`` was made for the model in ``model_dir``.

    Raises:
        ModelMismatchError: it was not; the message names which of config, tokenizer, chat_template and
            weights differ.
        ModelFormatError: ``model_dir`` is no model folder.
    """
    if differing := differing_parts(bundle.manifest.model.fingerprint, fingerprint_model(model_dir)):
        raise ModelMismatchError(
            f"bundle {bundle.manifest.name!r} ({bundle.path}) was made for another model than {model_dir}: "
            f"{', '.join(differing)} {'differs' if len(differing) == 1 else 'differ'}. "
            f"It belongs to {bundle.manifest.model.name!r}. Serve that model, or train a bundle for this one: "
            f"plumbline train --model {model_dir} --data DIR --out BUNDLE"
        )


def differing_parts(one: Fingerprint, other: Fingerprint) -> list[str]:
    """Which of config, tokenizer, chat_template and weights differ."""
    return [field for field in Fingerprint.model_fields if getattr(one, field) != getattr(other, field)]
