"""Nested data as ``path -> leaf``, so that two of them can be compared field by field."""

from __future__ import annotations

from collections.abc import Mapping

Leaf = str | int | float | bool | list[object] | None  # a list of numbers or words is one leaf

# What tells the entries of a list apart, such as thresholds[0.01 empirical] or comparisons[TF-IDF]; else their index.
_LABELS = ("name", "operator", "steering", "fpr", "method")


def flatten(value: Mapping[str, object], prefix: str = "") -> dict[str, Leaf]:
    """Every leaf of nested objects, by its path: ``fold.kind``, ``thresholds[0.01].value``.

    Args:
        value: of ``model_dump(mode="json")``. prefix: what the paths begin with.
    """
    leaves: dict[str, Leaf] = {}
    for key, inner in value.items():
        leaves |= _leaves(f"{prefix}{key}", inner)
    return leaves


def _leaves(path: str, value: object) -> dict[str, Leaf]:
    if isinstance(value, Mapping):
        return flatten(value, f"{path}.")
    if not (isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value)):
        return {path: value}  # type: ignore[dict-item]  # JSON has no other leaves
    leaves: dict[str, Leaf] = {}
    taken: set[str] = set()
    for index, item in enumerate(value):
        label = " ".join(str(item[key]) for key in _LABELS if key in item) or str(index)
        label = label if label not in taken else f"{label} #{index}"
        taken.add(label)
        leaves |= flatten(item, f"{path}[{label}].")
    return leaves
