"""The cards of several bundles as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from probes.bundle.artifact import Bundle
from probes.cards import Card


def merge_cards(bundles: Sequence[Bundle], names: Sequence[Mapping[str, str]]) -> Card:
    """One card with everything that the others hold, and ``settings.merged_from``: which bundles these were.

    ``data`` and ``settings`` stay as they are where all bundles agree; otherwise they stand under the bundle's name,
    version and digest.

    Args:
        bundles: with or without a card.
        names: of each bundle, what each of its probes and directions is called from now on.
    """
    labels = [f"{b.manifest.name} {b.manifest.version} {b.digest[:12]}" for b in bundles]
    cards = [bundle.card or Card() for bundle in bundles]
    pairs = list(zip(cards, names, strict=True))
    origins = [{"name": b.manifest.name, "version": b.manifest.version, "digest": b.digest} for b in bundles]
    return Card(
        note="\n".join(dict.fromkeys(card.note for card in cards if card.note)),
        advice="\n".join(dict.fromkeys(card.advice for card in cards if card.advice)),
        data=_joined(labels, [card.data for card in cards]),
        settings=_joined(labels, [card.settings for card in cards]) | {"merged_from": origins},
        probes={to[old]: card for whole, to in pairs for old, card in whole.probes.items()},
        directions={to[old]: card for whole, to in pairs for old, card in whole.directions.items()},
        failures=tuple(failure for card in cards for failure in card.failures),
        studies=tuple(study for card in cards for study in card.studies),
    )


def _joined(labels: Sequence[str], values: Sequence[Mapping[str, object]]) -> dict[str, object]:
    filled = {label: value for label, value in zip(labels, values, strict=True) if value}
    distinct = list(filled.values())
    if all(value == distinct[0] for value in distinct):
        return dict(distinct[0]) if distinct else {}
    return dict(filled)
