"""``report``: a bundle's evaluation card as a page for people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from probes.people import errors_for_people

app = typer.Typer(help="Write the evaluation report of a bundle.")


@app.command()
def report(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    markdown: Annotated[
        Path | None,
        typer.Option(help="Where to write the same content as Markdown. Default: beside the page, ending in .md."),
    ] = None,
) -> None:
    """Write what was measured about a bundle as one HTML page, and as Markdown.

    The page needs nothing else, neither network nor scripts. It shows every
    figure of the bundle's evaluation card (card.json): operating points beside
    text baselines and controls, curves, every layer tried, calibration, scores
    token by token, distribution shift, what the directions cause, and what did
    not work. What was not measured is said to be so.

    plumbline report runs/bundle --out report.html
    """
    twin = markdown or out.with_suffix(".md")
    if twin == out:
        raise typer.BadParameter(f"the page and its Markdown cannot both be {out}; let --out end in .html")
    with errors_for_people(Console(stderr=True)):
        # matplotlib takes a while to load: --help does not wait for it.
        from probes.report.write import write_report

        write_report(bundle, out, twin)
    typer.echo(f"{out}\n{twin}")
