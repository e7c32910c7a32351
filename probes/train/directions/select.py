"""Every candidate's effect on validation prompts, and the choice among them.

A direction that merely separates two kinds of prompts may do nothing. So each candidate is ablated where the model
shows the behaviour, and added where it does not.

Source: Arditi et al. 2024 (arXiv:2406.11717), section 2.3 and appendix C: lowest bypass score among the candidates
with induce >= 0, KL <= 0.1 and layer < 0.8 L. One difference: shares of prompts that flip are compared before the
bypass score, because log-odds go on growing long after every prompt has flipped, and because a direction has to work
both ways to be of use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from probes.cards import DirectionCandidate
from probes.train.directions.behaviour import Behaviour, Cases
from probes.train.directions.means import Difference
from probes.train.directions.passes import disturbance, nothing
from probes.train.interventions import ablate, add
from probes.train.model import LoadedModel
from probes.train.progress import Advance, Reporter

MAX_KL = 0.1
MAX_DEPTH = 0.8
N_PROMPTS = 128  # of each kind, to measure a candidate on


@dataclass(frozen=True)
class Candidate:
    """A difference of means and its effect.

    Attributes:
        difference: layer, position and vector.
        bypass: mean score of the behaviour under ablation, where it was shown (below 0: not any more).
        induce: mean score under addition, where it was not shown (above 0: it is now).
        bypass_rate: share of the former that do not show it under ablation.
        induce_rate: share of the latter that show it under addition.
        kl: mean KL divergence, in nats, of the next token under ablation, where it was not shown.
    """

    difference: Difference
    bypass: float
    induce: float
    bypass_rate: float
    induce_rate: float
    kl: float

    @property
    def figures(self) -> dict[str, float]:
        """For manifest and card."""
        names = ("bypass", "induce", "bypass_rate", "induce_rate", "kl")
        return {n: round(float(getattr(self, n)), 6) for n in names}

    @property
    def admissible(self) -> bool:
        """Whether it meets the criteria on KL and induce."""
        return self.kl <= MAX_KL and self.induce >= 0

    def reported(self, *, chosen: bool) -> DirectionCandidate:
        """Its row in the card."""
        figures = {**self.figures, "magnitude": round(self.difference.magnitude, 4)}
        return DirectionCandidate(
            layer=self.difference.layer, position=self.difference.position, figures=figures, chosen=chosen
        )


def measure(
    model: LoadedModel, difference: Difference, behaviour: Behaviour, cases: Cases, advance: Advance = nothing
) -> Candidate:
    """Ablate and add one difference of means."""
    removed = ablate(difference.unit)
    bypass = behaviour.scores(model, cases.present, removed, advance)
    induce = behaviour.scores(model, cases.absent, add(difference.layer, difference.vector.float()), advance)
    kl = disturbance(model, [s.prompt for s in cases.absent], removed, advance).kl
    return Candidate(
        difference=difference,
        bypass=float(bypass.mean()),
        induce=float(induce.mean()),
        bypass_rate=float((bypass < 0).double().mean()),
        induce_rate=float((induce > 0).double().mean()),
        kl=float(kl.mean()),
    )


def measure_all(
    model: LoadedModel, differences: Sequence[Difference], behaviour: Behaviour, cases: Cases, reporter: Reporter
) -> list[Candidate]:
    """Measure the candidates of the first 80 % of the layers; later ones write the logits themselves.

    Args:
        model: that shows the behaviour.
        differences: of every layer and position.
        behaviour: to be controlled.
        cases: of the validation split; ``N_PROMPTS`` of each kind are used.
        reporter: told about progress.
    """
    tried = [d for d in differences if d.layer < MAX_DEPTH * len(model.layers)]
    sample = cases.sample(N_PROMPTS)
    found = []
    with reporter.track(f"effect of each {behaviour.name} direction", len(tried), "candidates") as advance:
        for difference in tried:
            found.append(measure(model, difference, behaviour, sample))
            advance(1)
    return found


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate that flips the most prompts both ways, then the one with the lowest bypass score.

    Among the admissible ones; if there are none, among those that leave harmless answers alone; if there are none of
    those either, among all. :attr:`Candidate.admissible` of what was chosen tells.
    """
    gentle = [c for c in candidates if c.kl <= MAX_KL]
    admitted = [c for c in gentle if c.admissible] or gentle or list(candidates)
    return max(admitted, key=lambda c: (round(min(c.bypass_rate, c.induce_rate), 2), -c.bypass))
