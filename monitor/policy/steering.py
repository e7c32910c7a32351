"""Whether a steering makes sense for a bundle, and the name that its direction has in a plan.

The same checks for what a policy demands and for what a caller asks; only the error differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from monitor.errors import ConfigError, PlanError, PlumblineError
from monitor.policy.directions import Directions, is_loaded
from monitor.types import Operator, Steering
from probes.bundle import trusted_keys
from probes.types import Direction, FoldKind, Manifest, Probe

_LAST_START = 2**31 - 1
_CONDITIONAL = (Operator.ADD, Operator.CLAMP)

Refusal = Callable[[str], PlumblineError]


@dataclass(frozen=True, slots=True)
class Names:
    """What policies and callers may name: probes and directions of the bundle, and directions that are loaded."""

    manifest: Manifest
    directions: Directions

    @classmethod
    def of(cls, manifest: Manifest, folder: Path | None = None, trusted: Sequence[Path] = ()) -> Names:
        """Of a bundle, and of the folder that directions are loaded from (None: none are), signed if keys are trusted.

        Raises:
            ConfigError: there is no such folder.
            PlumblineError: a trusted key cannot be read.
        """
        if folder is not None and not folder.is_dir():
            raise ConfigError(f"--directions {folder}: wanted a folder that holds bundles, one sub-folder each")
        return cls(manifest, Directions(folder, manifest.model.fingerprint, trusted_keys(trusted)))

    def probe(self, name: str, at: str, refusal: Refusal) -> Probe:
        """The probe of this name; ``refusal``, naming ``at`` and those that there are, if there is none."""
        probe = self.manifest.probe(name)
        if probe is None:
            known = _listed(p.name for p in self.manifest.probes)
            raise refusal(f"{at}: got {name!r}, the bundle's probes are {known}")
        return probe

    def direction(self, name: str, at: str, refusal: Refusal) -> tuple[Direction, str]:
        """The direction of this name and what a plan calls it; ``refusal`` as in :meth:`probe`."""
        if is_loaded(name):
            try:
                return self.directions.resolve(name)
            except PlanError as error:
                raise refusal(f"{at}: {error}") from error
        direction = self.manifest.direction(name)
        if direction is None:
            known = _listed(d.name for d in self.manifest.directions)
            raise refusal(f"{at}: got {name!r}, the bundle's directions are {known}")
        return direction, name

    def check(self, steering: Iterable[Steering], at: str, refusal: Refusal) -> tuple[Steering, ...]:
        """Check steerings, and give each direction the name that it has in a plan.

        Args:
            steering: as written by a person.
            at: where the list stands, for messages.
            refusal: makes the error of a message.

        Raises:
            PlumblineError: as ``refusal`` makes it: one line for each problem of the first steering that has any.
        """
        return tuple(self._check(one, f"{at}[{index}]", refusal) for index, one in enumerate(steering))

    def _check(self, steering: Steering, at: str, refusal: Refusal) -> Steering:
        direction, qualified = self.direction(steering.direction, f"{at}.direction", refusal)
        problems = [*_amount(steering), *_bounds(steering), *_schedule(steering)]
        if steering.when is not None:
            probe = self.probe(steering.when.probe, f"{at}.when.probe", refusal)
            problems += _condition(steering, probe, direction)
        if problems:
            raise refusal("\n".join(f"{at}.{problem}" for problem in problems))
        return msgspec.structs.replace(steering, direction=qualified)


def _amount(steering: Steering) -> Iterator[str]:
    if not math.isfinite(steering.strength):
        yield f"strength: got {steering.strength:g}, wanted a finite number"
    elif steering.operator is not Operator.ADD and not 0 < steering.strength <= 1:
        yield f"strength: got {steering.strength:g}, {steering.operator} wants more than 0, at most 1"


def _bounds(steering: Steering) -> Iterator[str]:
    low, high = steering.low, steering.high
    given = {name: bound for name, bound in (("low", low), ("high", high)) if bound is not None}
    if steering.operator is not Operator.CLAMP:
        for name in given:
            yield f"{name}: belongs to clamp, the operator is {steering.operator}"
        return
    if not given:
        yield "low: clamp needs low, high or both: bounds of the projection, in units of the direction's magnitude"
    for name, bound in given.items():
        if not math.isfinite(bound):
            yield f"{name}: got {bound:g}, wanted a finite number"
    if low is not None and high is not None and low > high:
        yield f"low: got {low:g}, wanted at most high, which is {high:g}"


def _schedule(steering: Steering) -> Iterator[str]:
    if not 0 <= steering.start <= _LAST_START:
        yield f"start: got {steering.start}, wanted a position from 0 to {_LAST_START}"
    if steering.half_life is not None and not (steering.half_life > 0 and math.isfinite(steering.half_life)):
        yield f"half_life: got {steering.half_life:g}, wanted a number of tokens greater than 0"


def _condition(steering: Steering, probe: Probe, direction: Direction) -> Iterator[str]:
    when = steering.when
    assert when is not None  # asked for by the caller
    if steering.operator not in _CONDITIONAL:
        yield f"when: belongs to {' and '.join(_CONDITIONAL)}, the operator is {steering.operator}"
    if not math.isfinite(when.threshold):
        yield f"when.threshold: got {when.threshold:g}, wanted a finite logit"
    if not (when.sharpness > 0 and math.isfinite(when.sharpness)):
        yield f"when.sharpness: got {when.sharpness:g}, wanted a number greater than 0"
    if probe.fold.kind is FoldKind.ATTENTION:
        yield f"when.probe: {probe.name} folds by attention, so that the score of one token alone says nothing"
    if probe.layer > direction.layer:
        yield (
            f"when.probe: {probe.name} reads layer {probe.layer}, and {steering.direction} acts at layer "
            f"{direction.layer}; wanted a probe that is read no later"
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "(none)"
