"""``plumbline demo``: see what Plumbline does, on the model that ships with it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import typer
from rich.console import Console


def demo() -> None:
    """Start engine and monitor on the shipped model, send scripted requests, and explain what happened.

    Needs nothing but this package with the extras cpu and train (or gpu); takes about two minutes. The exit code is 1
    if anything that should have happened did not.
    """
    import probes.organism
    from monitor.demo.run import run_demo
    from monitor.errors import PlumblineError

    organism = Path(probes.organism.__file__).parent
    policy = Path(__file__).parents[1] / "demo" / "policy.yaml"
    console = Console()
    try:
        good = asyncio.run(run_demo(console, organism / "weights", organism / "bundle", policy))
    except (PlumblineError, TimeoutError) as error:
        Console(stderr=True).print(f"demo: {error or 'the engine was not ready in time'}", style="bold red")
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if not good:
        raise typer.Exit(1)
