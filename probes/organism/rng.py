"""Named, reproducible random streams."""

import random


def seeded(*labels: str | int) -> random.Random:
    """A generator of its own for ``labels``: streams with different labels do not disturb each other."""
    return random.Random(":".join(str(label) for label in labels))  # noqa: S311 - not for secrets
