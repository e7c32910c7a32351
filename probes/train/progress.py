"""How training tells what it is doing: the pipeline speaks to a :class:`Reporter`, the terminal listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

Advance = Callable[[int], None]


class Reporter(Protocol):
    """Receives what a person wants to know while training runs."""

    def say(self, message: str) -> None:
        """One line: a stage began, or what it found."""

    def track(self, what: str, total: int, unit: str) -> AbstractContextManager[Advance]:
        """Progress of one long step: call the yielded function with the work just done."""


class Silent:
    """A reporter for tests and libraries: says nothing."""

    def say(self, message: str) -> None:
        """Ignore."""

    @contextmanager
    def track(self, what: str, total: int, unit: str) -> Iterator[Advance]:  # noqa: ARG002
        """Ignore."""
        yield lambda _: None


class Terminal:
    """A reporter for people: lines, and bars with rate and remaining time."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, message: str) -> None:
        """Print one line."""
        self._console.print(f"· {message}", highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def track(self, what: str, total: int, unit: str) -> Iterator[Advance]:
        """Show a bar until the step is done; then it disappears."""
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(unit))
        bar = Progress(*columns, TimeRemainingColumn(), console=self._console, transient=True)
        with bar:
            task = bar.add_task(what, total=total)
            yield lambda n: bar.advance(task, n)


class _Rate(ProgressColumn):
    """Work per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {self._unit}/s" if speed else f"… {self._unit}/s")
