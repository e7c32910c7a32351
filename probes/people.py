"""What commands share when they speak to people."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.markup import escape

from probes.errors import PlumblineError


class errors_for_people:  # noqa: N801  (reads as a statement)
    """Ends the command with a message and exit code 1 on an error raised on purpose, or on one of the file system."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, (PlumblineError, OSError)):
            self._console.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
            raise typer.Exit(1) from error
