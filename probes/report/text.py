"""How figures are written: three decimals, shares in percent, and nothing rounded up to perfect."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from probes.cards import Estimate

NOT_MEASURED = "not measured"


def number(value: float | None) -> str:
    """A figure such as an AUROC, a logit or a divergence; a number below 1 is never shown as 1."""
    if value is None:
        return NOT_MEASURED
    size = abs(value)
    if 0 < size < 0.001:
        return f"{value:.2g}"
    if size >= 100:
        return f"{value:,.0f}" if size >= 1000 else f"{value:.1f}"
    text = f"{value:.3f}"
    return ">0.999" if text == "1.000" and value < 1 else text


def share(value: float | None) -> str:
    """A rate in percent; neither something above 0 nor something below 1 is rounded away."""
    if value is None:
        return NOT_MEASURED
    size = abs(value)
    if 0 < size < 0.0001:
        return "<0.01%" if value > 0 else "-<0.01%"
    text = f"{value:.2%}" if 0 < size < 0.01 else f"{value:.1%}"
    return ">99.9%" if text == "100.0%" and value < 1 else text


def limit(value: float | str) -> str:
    """An allowed rate, as it was set: ``1%``, ``0.1%``."""
    return f"{float(value) * 100:g}%"


def estimate(value: Estimate | None, write: Callable[[float | None], str] = number) -> str:
    """A figure with its interval: ``0.981 [0.975, 0.987]``."""
    if value is None:
        return NOT_MEASURED
    return f"{write(value.value)} [{write(value.low)}, {write(value.high)}]"


def anything(value: object) -> str:
    """A cell of which only the card knows what it is: six digits, whole numbers in full, lists with commas."""
    match value:
        case None:
            return NOT_MEASURED
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:,.0f}" if value.is_integer() else f"{value:.6g}"
        case list() | tuple():
            return ", ".join(anything(v) for v in value)
        case dict():
            return ", ".join(f"{k}: {anything(v)}" for k, v in value.items())
        case _:
            return str(value)


def short(text: str, most: int = 44) -> str:
    """One line of at most ``most`` characters, for labels in charts."""
    line = " ".join(
        "".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cs", "Cn") or c.isspace()).split()
    )
    return line if len(line) <= most else line[: most - 1] + "…"


def slug(text: str) -> str:
    """Letters, digits and hyphens, for an anchor."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"


def words(name: str) -> str:
    """A name of the card in words: ``auroc_ablated`` becomes ``AUROC ablated``."""
    text = name.replace("_", " ")
    return re.sub(r"\b(auroc|auprc|tpr|fpr|fnr|kl|ece)\b", lambda m: m[0].upper(), text)
