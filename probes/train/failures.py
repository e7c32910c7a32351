"""What did not work, read off the cards by stated rules: a report that hides it is worth nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from probes.cards import DirectionCard, Estimate, Failure, ProbeCard
from probes.train.data import Example
from probes.train.families import divided_groups
from probes.types import Direction, Probe

MARGIN = 0.1  # AUROC by which a probe should be above what the words alone tell
MOST_MISSED = 0.03  # of positives under a shift
_WEAK = 0.5
_MAX_KL = 0.1
_MAX_RANDOM = 0.05
_SPREAD = 0.05
_NEAR_CHANCE = 0.1
_SHOWN = 3


def probe_failures(probe: Probe, card: ProbeCard) -> Iterator[Failure]:
    """Where a probe falls short of what its users will assume."""
    yield from _comparisons(probe, card)
    yield from _rates(probe, card)
    yield from _shifts(probe, card)
    if card.n_unscored:
        yield Failure(
            what=f"{probe.name}: a score for every test example",
            found=f"{card.n_unscored} were unscored: fewer than {probe.fold.min_tokens} tokens in scope",
        )
    if max(card.by_seed) - min(card.by_seed) > _SPREAD:
        yield Failure(
            what=f"{probe.name}: the same AUROC whichever training families were drawn",
            found=f"{min(card.by_seed):.3f} to {max(card.by_seed):.3f} over {len(card.by_seed)} seeds",
        )
    ours = next(c for c in card.candidates if c.chosen)
    better = max((c for c in card.candidates if not c.servable), key=lambda c: c.auroc.value, default=ours)
    if better.auroc.value > ours.auroc.value + 0.01:
        yield Failure(
            what=f"{probe.name}: the best probe that was tried",
            found=f"{better.estimator} on layer {better.layer} reaches {better.auroc.value:.3f} on the validation "
            f"split, the chosen one {ours.auroc.value:.3f}; the engine has no such fold",
        )


def data_failures(concept: str, examples: Iterable[Example]) -> Iterator[Failure]:
    """Where figures are too good, or too sure, because of the examples themselves; shifted ones are meant to repeat."""
    plain = [e for e in examples if not e.shift]
    divided, n = divided_groups(plain)
    if divided:
        names = ", ".join(" / ".join(filter(None, group)) for group in divided[:_SHOWN])
        yield Failure(
            what=f"{concept}: every template family in one split, so that none is known before the test",
            found=f"{len(divided)} of {n} families are in several splits, such as {names}; plumbline data split keeps "
            "families whole",
        )
    if repeated := len(plain) - len({e.messages for e in plain}):
        yield Failure(
            what=f"{concept}: every conversation once",
            found=f"{repeated} of {len(plain)} repeat another one, and count as if they said something new",
        )


def direction_failures(direction: Direction, card: DirectionCard) -> Iterator[Failure]:
    """Where a direction does not control what it is named after, or more than that."""
    m = direction.metrics
    for name, deed in (("bypass_rate", "ablating it stops the behaviour"), ("induce_rate", "adding it causes it")):
        if m.get(name, 1.0) < _WEAK:
            yield Failure(what=f"direction {direction.name}: {deed}", found=f"in {m[name]:.0%} of test prompts")
    if m.get("kl", 0.0) > _MAX_KL:
        yield Failure(
            what=f"direction {direction.name}: ablation leaves harmless answers alone (KL at most {_MAX_KL})",
            found=f"KL of {m['kl']:.2f} nats at the next token",
        )
    for control in card.random:
        if control.worst > _MAX_RANDOM:
            yield Failure(
                what=f"direction {direction.name}: random directions change the behaviour by less than "
                f"{_MAX_RANDOM:.0%} ({control.operator})",
                found=f"the worst of {control.n} changes it by {control.worst:.1%}",
            )


def _comparisons(probe: Probe, card: ProbeCard) -> Iterator[Failure]:
    for other in card.comparisons:
        gap = other.gap
        if other.kind == "text" and gap is not None and (gap.value < MARGIN or gap.low <= 0):
            yield Failure(
                what=f"{probe.name}: AUROC at least {MARGIN} above the text baseline ({other.name})",
                found=f"{_interval(gap)} above its {other.auroc.value:.3f}",
            )
        elif other.kind == "control" and gap is not None and gap.low <= 0:
            yield Failure(
                what=f"{probe.name}: better than the control ({other.name})",
                found=f"{_interval(gap)} above its {other.auroc.value:.3f}",
            )
        elif other.name.startswith("shuffled labels") and abs(other.auroc.value - 0.5) > _NEAR_CHANCE:
            yield Failure(
                what=f"{probe.name}: the control is near chance ({other.name})",
                found=f"AUROC {_interval(other.auroc)}",
            )


def _rates(probe: Probe, card: ProbeCard) -> Iterator[Failure]:
    first = probe.thresholds[0].fpr
    measured = [(float(rate), found, "on the test split") for rate, found in card.measured_fpr_at.items()]
    for name, found in card.conditions.items():
        if name.startswith("fpr_conformal_"):
            measured.append((float(name.removeprefix("fpr_conformal_")), found, "at the conformal threshold"))
        elif name.startswith("fpr_"):
            measured.append((first, found, f"under the condition {name.removeprefix('fpr_')}"))
    for allowed, found, where in measured:
        if found > allowed:
            yield Failure(
                what=f"{probe.name}: a false-positive rate of at most {allowed:.2%} {where}",
                found=f"{found:.2%} of {card.n_negative} negatives",
            )


def _shifts(probe: Probe, card: ProbeCard) -> Iterator[Failure]:
    allowed = probe.thresholds[0].fpr
    for case in card.shifts:
        if case.fnr is not None and case.fnr > MOST_MISSED:
            yield Failure(
                what=f"{probe.name}: at most {MOST_MISSED:.0%} of positives missed under the shift {case.name}",
                found=f"{case.fnr:.1%} of {case.n_positive} missed",
            )
        if case.fpr is not None and case.fpr > allowed:
            yield Failure(
                what=f"{probe.name}: a false-positive rate of at most {allowed:.2%} under the shift {case.name}",
                found=f"{case.fpr:.1%} of {case.n_negative} negatives",
            )


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
