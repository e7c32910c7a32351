"""``plumbline policy``: check a policy file against a bundle, or say in words what it does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from monitor.policy.compile import Policy
    from monitor.policy.model import RuleModel
    from monitor.policy.store import Snapshot
    from monitor.types import Steering
    from probes.types import Manifest

EXIT_ERROR = 2
policy_app = typer.Typer(no_args_is_help=True, help="Check a policy file, or say what it does.")

File = Annotated[Path, typer.Argument(help="Policy file (YAML).")]
BundlePath = Annotated[Path, typer.Option("--bundle", help="Bundle that the policy is meant for.")]
DirectionsPath = Annotated[
    Path | None,
    typer.Option("--directions", envvar="PLUMBLINE_DIRECTIONS", help="Folder of bundles with directions to load."),
]


@policy_app.command()
def validate(file: File, bundle: BundlePath, directions: DirectionsPath = None) -> None:
    """Check FILE against a bundle; exit status 2 if it cannot be used."""
    snapshot, _ = _load(file, bundle, directions)
    names = ", ".join(snapshot.policies)
    typer.echo(f"{file}: good: revision {snapshot.revision}, default {snapshot.default}, policies {names}")


@policy_app.command()
def explain(file: File, bundle: BundlePath, directions: DirectionsPath = None) -> None:
    """Say what each policy in FILE reads, what it does, and what callers may ask for."""
    from rich.console import Console

    snapshot, manifest = _load(file, bundle, directions)
    console = Console()
    for policy in snapshot.policies.values():
        default = "  (default)" if policy.name == snapshot.default else ""
        console.print(f"\n[bold]{policy.name}[/bold]{default}", highlight=False)
        for line in _sentences(policy):
            console.print(f"  {line}", highlight=False)
        if policy.detectors:
            console.print(_rules(policy, manifest))


def _load(file: Path, bundle: Path, directions: Path | None) -> tuple[Snapshot, Manifest]:
    from monitor.errors import PlumblineError
    from monitor.policy.steering import Names
    from monitor.policy.store import load_snapshot
    from probes.bundle import read_bundle

    try:
        manifest = read_bundle(bundle).manifest
        return load_snapshot(file, Names.of(manifest, directions)), manifest
    except PlumblineError as error:
        typer.echo(f"plumbline policy: {error}", err=True)
        raise typer.Exit(EXIT_ERROR) from error


def _sentences(policy: Policy) -> list[str]:
    model = policy.model
    said = [
        "enforces: rules act" if model.mode == "enforce" else "observes: records what rules would have done",
        "hold: nothing is released before it is scored"
        if model.release == "hold"
        else "live: no delay, at most one token late",
        "what cannot be scored is blocked"
        if policy.blocks_unscored
        else "what cannot be scored is let through, counted",
    ]
    if policy.steering:
        said.append(f"always steers: {_steerings(policy.steering)}")
    allowed = "; ".join(
        f"{'/'.join(entry.operators)} {entry.direction} up to {entry.max_strength:g}"
        for entry in model.callers.may_steer
    )
    said.append(f"callers may steer: {allowed or 'nothing'}")
    said.append(f"callers may add probes: {'yes' if model.callers.may_add_probes else 'no'}")
    if not model.callers.may_select:
        said.append("callers may not select it")
    return said


def _rules(policy: Policy, manifest: Manifest) -> Table:
    from rich.table import Table

    table = Table("rule", "reads", "over", "trips at", "then", box=None, padding=(0, 2))
    for rule, detector in zip(policy.model.rules, policy.detectors, strict=True):
        probe = manifest.probe(rule.probe)
        assert probe is not None  # the policy was checked against this manifest
        then = rule.action if not detector.steering else f"steer: {_steerings(detector.steering)}"
        then = then if rule.text is None else f"replace by: {rule.text}"
        reads = f"{probe.name} (layer {probe.layer}, {probe.fold.kind})"
        table.add_row(rule.name, reads, probe.scope, _cut(rule, detector.threshold, manifest), then)
    return table


def _cut(rule: RuleModel, threshold: float, manifest: Manifest) -> str:
    probe = manifest.probe(rule.probe)
    known = [t for t in probe.thresholds if t.value == threshold] if probe else []
    if rule.threshold is not None or not known:
        return f"{threshold:.3g}"
    return f"{threshold:.3g} (FPR {known[0].measured_fpr:.2%} on {known[0].n_negatives} negatives of {known[0].data})"


def _steerings(steering: tuple[Steering, ...]) -> str:
    return ", ".join(_steering(one) for one in steering)


def _steering(steering: Steering) -> str:
    """One steering in words; what is left at its default is not said."""
    said = [f"{steering.operator} {steering.direction} x {steering.strength:g} ({steering.scope})"]
    if steering.low is not None:
        said.append(f"from {steering.low:g}")
    if steering.high is not None:
        said.append(f"to {steering.high:g}")
    if steering.start:
        said.append(f"from token {steering.start} on")
    if steering.half_life is not None:
        said.append(f"halved every {steering.half_life:g} tokens")
    if (when := steering.when) is not None:
        said.append(f"where {when.probe} reaches {when.threshold:g} (sharpness {when.sharpness:g})")
    return " ".join(said)
