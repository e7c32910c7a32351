"""What differs between two bundles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from probes.bundle.artifact import Bundle
from probes.bundle.flatten import Leaf, flatten
from probes.bundle.layout import direction_tensor, probe_tensor, query_tensor
from probes.bundle.sums import sha256
from probes.cards import Card
from probes.types import Frozen

Kind = Literal["probe", "direction"]

# The figures of a card that are compared one by one; any other difference shows in the card's digest.
_FIGURES = {
    "auroc", "auprc", "tpr_at", "measured_fpr_at", "n_positive", "n_negative", "n_unscored", "conditions",
    "comparisons", "shifts", "detection",  # of a probe
    "method", "effects", "random",  # of a direction
}  # fmt: skip
_ITEMS = {"probes", "directions"}


class Change(Frozen):
    """One field that differs; None: it is not there."""

    field: str
    before: Leaf
    after: Leaf


class ItemDiff(Frozen):
    """A probe or a direction that differs.

    Attributes:
        cosine: between the vectors before and after; None if one is missing, zero, or of another width.
        changes: empty for one that was added or removed.
    """

    kind: Kind
    name: str
    status: Literal["added", "removed", "changed"]
    cosine: float | None = None
    changes: tuple[Change, ...] = ()


class BundleDiff(Frozen):
    """All that differs between two bundles, signatures and the layout of their files aside.

    Attributes:
        before, after: digests. equal: nothing differs.
        changes: of the bundle as a whole: name, version, model, data and settings of the card.
        items: probes and directions that differ.
    """

    before: str
    after: str
    equal: bool
    changes: tuple[Change, ...]
    items: tuple[ItemDiff, ...]


@dataclass(frozen=True)
class _Item:
    """A probe or direction: its fields by path, and its vector ``(d_model,)`` fp32."""

    fields: dict[str, Leaf]
    vector: NDArray[np.float32]


def diff_bundles(before: Bundle, after: Bundle) -> BundleDiff:
    """Compare manifests, tensors and cards of two bundles."""
    changes = _changes(_whole(before), _whole(after))
    items = _compare("probe", _probes(before), _probes(after))
    items += _compare("direction", _directions(before), _directions(after))
    return BundleDiff(
        before=before.digest, after=after.digest, equal=not changes and not items, changes=changes, items=tuple(items)
    )


def _whole(bundle: Bundle) -> dict[str, Leaf]:
    fields = flatten(bundle.manifest.model_dump(mode="json", exclude=_ITEMS))
    if (card := bundle.card) is None:
        return fields
    own = card.model_dump(mode="json", include={"note", "advice", "data", "settings"})
    return fields | flatten(own, "card.") | {"card.digest": sha256(card.model_dump_json().encode())}


def _probes(bundle: Bundle) -> dict[str, _Item]:
    cards = (bundle.card or Card()).probes
    items = {}
    for probe in bundle.manifest.probes:
        tensors = {"weights": probe_tensor(probe.name), "query": query_tensor(probe.name)}
        fields = _fields(bundle, probe, cards.get(probe.name), tensors)
        items[probe.name] = _Item(fields, bundle.probe_weights(probe.name))
    return items


def _directions(bundle: Bundle) -> dict[str, _Item]:
    cards = (bundle.card or Card()).directions
    items = {}
    for direction in bundle.manifest.directions:
        tensors = {"vector": direction_tensor(direction.name)}
        fields = _fields(bundle, direction, cards.get(direction.name), tensors)
        items[direction.name] = _Item(fields, bundle.direction_vector(direction.name))
    return items


def _fields(bundle: Bundle, item: BaseModel, card: BaseModel | None, tensors: dict[str, str]) -> dict[str, Leaf]:
    fields = flatten(item.model_dump(mode="json"))
    if card is not None:
        fields |= flatten(card.model_dump(mode="json", include=_FIGURES), "card.")
    there = {label: bundle.tensors[name] for label, name in tensors.items() if name in bundle.tensors}
    return fields | {f"{label} (SHA-256)": sha256(tensor.tobytes()) for label, tensor in there.items()}


def _compare(kind: Kind, before: dict[str, _Item], after: dict[str, _Item]) -> list[ItemDiff]:
    items = []
    for name in dict.fromkeys([*before, *after]):
        if name not in before or name not in after:
            items.append(ItemDiff(kind=kind, name=name, status="removed" if name in before else "added"))
        elif changes := _changes(before[name].fields, after[name].fields):
            cosine = _cosine(before[name].vector, after[name].vector)
            items.append(ItemDiff(kind=kind, name=name, status="changed", cosine=cosine, changes=changes))
    return items


def _changes(before: dict[str, Leaf], after: dict[str, Leaf]) -> tuple[Change, ...]:
    fields: Iterator[str] = (f for f in dict.fromkeys([*before, *after]) if before.get(f) != after.get(f))
    return tuple(Change(field=f, before=before.get(f), after=after.get(f)) for f in fields)


def _cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float | None:
    """Of two ``(d_model,)`` vectors, summed in fp64."""
    if one.shape != other.shape or not one.any() or not other.any():
        return None
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float(np.clip(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1))
