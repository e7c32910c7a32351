"""Every error that ``probes`` raises.

    PlumblineError                 base of everything raised on purpose, also by ``monitor``
    ├── ShapeError                 tensors that do not fit together; names both shapes
    ├── DataError                  labelled data that cannot be used; names file, line and field
    │   └── NoDirectionError       the model does not show the behaviour whose direction is sought
    ├── ModelFormatError           a model folder that cannot be used; names what is missing
    └── BundleError                a bundle that cannot be used
        ├── BundleFormatError      unreadable, altered or of an unknown schema version
        └── ModelMismatchError     made for another model; names what differs

Messages say what came, what was wanted and what to do.
"""

from __future__ import annotations


class PlumblineError(Exception):
    """Base of every error raised on purpose."""


class ShapeError(PlumblineError, ValueError):
    """Tensors whose shapes do not fit together."""


class DataError(PlumblineError, ValueError):
    """Labelled data that cannot be used."""


class NoDirectionError(DataError):
    """The model does not show the behaviour whose direction is sought."""


class ModelFormatError(PlumblineError, ValueError):
    """A model folder, or a model's architecture, that cannot be used."""


class BundleError(PlumblineError):
    """A bundle that cannot be used."""


class BundleFormatError(BundleError):
    """Unreadable, altered, or written by an unknown version of the schema."""


class ModelMismatchError(BundleError):
    """Made for another model."""
