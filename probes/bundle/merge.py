"""Several bundles for the same model as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from probes.bundle.artifact import Bundle
from probes.bundle.layout import direction_tensor, probe_tensor, query_tensor
from probes.bundle.match import differing_parts
from probes.bundle.merge_cards import merge_cards
from probes.bundle.problems import problems
from probes.cards import Card
from probes.errors import BundleFormatError, ModelMismatchError
from probes.types import Direction, Manifest, Probe

_Item = TypeVar("_Item", Probe, Direction)
_Names = Sequence[Mapping[str, str]]  # of each bundle: what each of its names becomes


@dataclass(frozen=True)
class Rename:
    """Another name for a probe or direction (or for both, if both have it).

    Attributes:
        old, new: names.
        bundle: index of the bundle in which; None: the last one that has ``old``, so that a name that clashes stays
            with the bundle given first.
    """

    old: str
    new: str
    bundle: int | None = None


@dataclass(frozen=True)
class Merged:
    """What :func:`probes.bundle.write_bundle` needs; ``tensors`` are ``(d_model,)`` fp32."""

    manifest: Manifest
    tensors: Mapping[str, NDArray[np.float32]]
    card: Card


def merge_bundles(
    bundles: Sequence[Bundle], *, name: str, version: str, created: str, renames: Iterable[Rename] = ()
) -> Merged:
    """Put probes, directions and cards of several bundles together; the card says which bundles they came from.

    Args:
        bundles: at least two, all for the same model.
        name, version, created: of the new bundle.
        renames: to keep names apart.

    Raises:
        ModelMismatchError: they were made for different models; names what differs.
        BundleFormatError: fewer than two bundles, a name that two of them have, or a rename that cannot be made.
    """
    if len(bundles) < 2:
        raise BundleFormatError(f"got {len(bundles)} bundles to merge; give at least two.")
    _check_models(bundles)
    names = _names(bundles, renames)
    _check_clashes(bundles, names)
    manifests = [bundle.manifest for bundle in bundles]
    try:
        probes = [_named(p, to[p.name]) for m, to in zip(manifests, names, strict=True) for p in m.probes]
        directions = [_named(d, to[d.name]) for m, to in zip(manifests, names, strict=True) for d in m.directions]
    except ValidationError as error:
        raise BundleFormatError(f"a new name cannot be used: {problems(error)}") from error
    manifest = Manifest(
        name=name,
        version=version,
        created=created,
        model=manifests[0].model,
        probes=tuple(probes),
        directions=tuple(directions),
    )
    return Merged(manifest, _tensors(bundles, names), merge_cards(bundles, names))


def _check_models(bundles: Sequence[Bundle]) -> None:
    first, *others = (bundle.manifest.model for bundle in bundles)
    for bundle, model in zip(bundles[1:], others, strict=True):
        differing = differing_parts(first.fingerprint, model.fingerprint)
        differing += [f for f in ("architecture", "n_layers", "d_model", "markers") if _differs(f, first, model)]
        if differing:
            raise ModelMismatchError(
                f"{bundles[0].path} was made for {first.name!r}, {bundle.path} for {model.name!r}: "
                f"{', '.join(differing)} {'differs' if len(differing) == 1 else 'differ'}. Only bundles for one model "
                "can be merged."
            )


def _differs(field: str, one: object, other: object) -> bool:
    return bool(getattr(one, field) != getattr(other, field))


def _names(bundles: Sequence[Bundle], renames: Iterable[Rename]) -> _Names:
    names = [{name: name for kind in _kinds(bundle) for name in kind} for bundle in bundles]
    for rename in renames:
        having = [i for i, known in enumerate(names) if rename.old in known and rename.bundle in (None, i)]
        if not having:
            where = "no bundle has it" if rename.bundle is None else f"bundle {rename.bundle + 1} has no such name"
            known = "; ".join(f"{i + 1}: {', '.join(sorted(to))}" for i, to in enumerate(names))
            raise BundleFormatError(f"{rename.old!r} is to be renamed, but {where}; there are {known}.")
        names[having[-1]][rename.old] = rename.new
    return names


def _kinds(bundle: Bundle) -> tuple[set[str], set[str]]:
    """The names of its probes and of its directions, those with nothing but a card included."""
    card = bundle.card or Card()
    probes = {probe.name for probe in bundle.manifest.probes} | card.probes.keys()
    return probes, {direction.name for direction in bundle.manifest.directions} | card.directions.keys()


def _check_clashes(bundles: Sequence[Bundle], names: _Names) -> None:
    for kind, title in enumerate(("probe", "direction")):
        seen: dict[str, int] = {}
        for i, bundle in enumerate(bundles):
            for old in sorted(_kinds(bundle)[kind]):
                new = names[i][old]
                if new in seen:
                    raise BundleFormatError(
                        f"{bundles[seen[new]].path} and {bundle.path} both have a {title} {new!r}; rename one: "
                        f"--rename {i + 1}:{old}=NEW"
                    )
                seen[new] = i


def _tensors(bundles: Sequence[Bundle], names: _Names) -> dict[str, NDArray[np.float32]]:
    tensors: dict[str, NDArray[np.float32]] = {}
    for bundle, to in zip(bundles, names, strict=True):
        for make, known in ((probe_tensor, 0), (query_tensor, 0), (direction_tensor, 1)):
            for old in _kinds(bundle)[known]:
                if make(old) in bundle.tensors:
                    tensors[make(to[old])] = bundle.tensors[make(old)]
    return tensors


def _named(item: _Item, name: str) -> _Item:
    return type(item).model_validate(item.model_dump() | {"name": name})
