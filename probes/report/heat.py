"""A conversation as coloured tokens."""

from __future__ import annotations

from probes.cards import HeatMap
from probes.report.document import Heat, Table, Token
from probes.report.text import number

N_LEVELS = 4


def heat(card: HeatMap) -> Heat:
    """The map for both renderers. A level is the distance to the threshold, the widest one of this map being 4."""
    widest = max((abs(s - card.threshold) for s in card.scores if s is not None), default=0.0) or 1.0
    tokens = tuple(
        Token(text, "not read" if score is None else number(score), _level(score, card.threshold, widest), trips)
        for text, score, trips in (
            (text, score, i == card.tripped_at)
            for i, (text, score) in enumerate(zip(card.tokens, card.scores, strict=True))
        )
    )
    label = "positive" if card.label else "negative"
    where = "never trips" if card.tripped_at is None else f"trips at token {card.tripped_at + 1}"
    caption = f"{card.id} ({label}, {len(tokens)} tokens): {where}; threshold {number(card.threshold)}"
    rows = tuple((str(i), t.text, t.score, "trips" if t.trips else "") for i, t in enumerate(tokens, start=1))
    data = Table(f"Scores of {card.id}", ("Token", "Text", "Score", "Trip"), rows, folded=True)
    return Heat(caption, tokens, _glue(card.tokens), data)


def _level(score: float | None, threshold: float, widest: float) -> int | None:
    if score is None:
        return None
    distance = round(N_LEVELS * (score - threshold) / widest)
    # At the threshold itself the score trips: the mark of "above" starts there.
    return max(distance, 1) if score >= threshold else min(distance, 0)


def _glue(tokens: tuple[str, ...]) -> str:
    """A space where the tokens bring none themselves, as those of a word-level vocabulary."""
    return "" if any(t[:1].isspace() or t[-1:].isspace() for t in tokens) else " "
