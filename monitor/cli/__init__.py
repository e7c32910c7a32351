"""The ``plumbline`` command. Each command loads what it needs when it runs, so that ``--help`` is fast."""

from __future__ import annotations

from pathlib import Path

import typer

from monitor.cli.check import check
from monitor.cli.demo import demo
from monitor.cli.policy import policy_app
from monitor.cli.serve import monitor, serve
from monitor.cli.watch import watch

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Monitoring and guardrails for deployed LLMs that look inside the model.",
)
for _command in (demo, serve, monitor, check, watch):
    app.command()(_command)
app.add_typer(policy_app, name="policy")


def main() -> None:
    """Entry point of the command."""
    _refuse_namesakes()
    _mount_probes()
    app()


def _mount_probes() -> None:
    """The commands of ``probes``; they load torch only when they run."""
    from probes.cli import app as probes_app

    app.registered_commands += probes_app.registered_commands
    app.registered_groups += probes_app.registered_groups


def _refuse_namesakes() -> None:
    """``monitor`` and ``probes`` are common words: both must come from one installation."""
    import probes

    ours, theirs = Path(__file__).resolve().parents[2], Path(probes.__file__ or "").resolve().parents[1]
    if ours != theirs:
        raise SystemExit(
            f"plumbline: the package probes was found at {theirs}, but Plumbline is installed at {ours}; "
            "remove the other one from PYTHONPATH"
        )
