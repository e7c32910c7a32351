"""The figures of one direction as tables: what steering with it does."""

from __future__ import annotations

from collections.abc import Sequence

from probes.cards import DirectionCandidate, DoseResponse, Effect, RandomControl
from probes.report.document import Table
from probes.report.text import estimate, number, share, words


def effects(caption: str, found: Sequence[Effect]) -> Table:
    """Each quantity without steering and with it."""
    return Table(
        caption,
        ("Quantity", "Steering", "Unit", "Before", "After"),
        tuple(
            (words(e.name), e.steering, e.unit, write(e.before), estimate(e.after, write))
            for e in found
            for write in (share if e.unit == "rate" else number,)
        ),
    )


def random_control(controls: Sequence[RandomControl]) -> Table:
    """Random unit vectors in the direction's place."""
    return Table(
        "Random directions in its place: change of the target behaviour, in points of its rate",
        ("Operator", "Random directions", "Mean change", "Largest change"),
        tuple((r.operator, f"{r.n:,}", share(r.mean), share(r.worst)) for r in controls),
    )


def dose(response: DoseResponse) -> Table:
    """All quantities of one operator at each strength."""
    names = list(dict.fromkeys(name for point in response.points for name in point.values))
    return Table(
        f"Dose-response of {response.operator}",
        ("Strength", *(words(n) for n in names)),
        tuple((number(p.strength), *(number(p.values.get(n)) for n in names)) for p in response.points),
        folded=True,
    )


def candidates(tried: Sequence[DirectionCandidate]) -> Table:
    """Every direction that was tried."""
    names = list(dict.fromkeys(name for c in tried for name in c.figures))
    return Table(
        f"All {len(tried)} directions tried, figures of the validation split",
        ("Layer", "Position", *(words(n) for n in names), "Remark"),
        tuple(
            (str(c.layer), c.position, *(number(c.figures.get(n)) for n in names), "chosen" if c.chosen else "")
            for c in sorted(tried, key=lambda c: (c.layer, c.position))
        ),
        folded=True,
    )
