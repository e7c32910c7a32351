"""``plumbline check``: one conversation, one verdict, for people and for scripts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from monitor.types import Detection, Status, Verdict

if TYPE_CHECKING:
    from rich.console import RenderableType

EXIT_CODES = {Status.PASSED: 0, Status.TRIPPED: 1, Status.UNSCORED: 3}
EXIT_ERROR = 2
ADDRESS = "localhost:50051"
STYLES = {Status.PASSED: "bold green", Status.TRIPPED: "bold red", Status.UNSCORED: "bold yellow"}


def check(
    text: Annotated[str, typer.Argument(help="What the user says; - reads it from standard input.")],
    *,
    system: Annotated[str | None, typer.Option(help="A system message before it.")] = None,
    policy: Annotated[str, typer.Option(help="Policy; the server's default if not given.")] = "",
    model: Annotated[str, typer.Option(help="Served model; the only one if not given.")] = "",
    address: Annotated[str, typer.Option(envvar="PLUMBLINE_ADDRESS", help="The monitor's gRPC address.")] = ADDRESS,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the verdict.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as one JSON object.")] = False,
) -> None:
    """Score a conversation without generating, and print the verdict.

    Exit status: 0 passed, 1 tripped, 2 error, 3 unscored.
    """
    quiet_grpc()
    import grpc
    import msgspec
    from rich.console import Console

    from monitor.rpc.client import explain

    if text == "-":
        text = sys.stdin.read()
    messages = [{"role": "user", "content": text}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    try:
        verdict = ask(messages, policy=policy, model=model, address=address, timeout=timeout)
    except grpc.RpcError as error:
        typer.echo(f"plumbline check: {explain(error, address)}", err=True)
        raise typer.Exit(EXIT_ERROR) from error
    except ValueError as error:
        typer.echo(f"plumbline check: {error}", err=True)
        raise typer.Exit(EXIT_ERROR) from error
    if as_json:
        typer.echo(msgspec.json.encode(verdict))
    else:
        Console().print(render(verdict))
    raise typer.Exit(EXIT_CODES[verdict.status])


def quiet_grpc() -> None:
    """Keep grpc's C core from writing to the terminal; to be called before grpc is imported."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


def ask(messages: Iterable[dict[str, str]], *, policy: str, model: str, address: str, timeout: float) -> Verdict:
    """Send one conversation to a monitor and wait for its verdict.

    Args:
        messages: turns with ``role`` and ``content``.
        policy: name; empty for the server's default.
        model: name; empty for the only one.
        address: ``host:port``.
        timeout: seconds.

    Raises:
        grpc.RpcError: the call failed.
        ValueError: the verdict holds something that this version does not know.
    """
    from monitor.rpc.client import open_channel
    from monitor.rpc.convert import verdict_from_proto
    from monitor.v1 import guard_pb2 as pb
    from monitor.v1.guard_pb2_grpc import GuardServiceStub

    turns = [pb.Message(role=message["role"], content=message["content"]) for message in messages]
    request = pb.CheckRequest(messages=turns, model=model, guard=pb.GuardOptions(policy=policy))
    with open_channel(address) as channel:
        return verdict_from_proto(GuardServiceStub(channel).Check(request, timeout=timeout).verdict)


def render(verdict: Verdict) -> RenderableType:
    """A verdict as lines and a table that a newcomer can read."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble((verdict.status.value.upper(), STYLES[verdict.status]), f"  {_done(verdict)}")
    table = Table("rule", "probe", "probability", "score", "threshold", "tripped", box=None, pad_edge=False)
    for detection in verdict.detections:
        table.add_row(*(Text(cell) for cell in _cells(detection)), style="red" if detection.tripped else None)
    facts = (
        f"policy {verdict.policy} ({verdict.revision[:12]}, {verdict.mode.value}), request {verdict.request_id}, "
        f"{verdict.tokens_scored} of {verdict.tokens_seen} tokens scored"
    )
    parts: list[RenderableType] = [head, Text(facts, style="dim")]
    if verdict.unscored:
        reasons = ", ".join(f"{reason} ({count or 'all'})" for reason, count in verdict.unscored.items())
        parts.append(Text(f"unscored: {reasons}", style="yellow"))
    if verdict.detections:
        parts.append(table)
    return Group(*parts)


def _done(verdict: Verdict) -> str:
    """The action in words."""
    if verdict.status is not Status.TRIPPED:
        return "no rule tripped" if verdict.status is Status.PASSED else "no verdict: not everything was scored"
    return f"action: {verdict.action.value}" + ("" if verdict.enforced else " (observed, not carried out)")


def _cells(detection: Detection) -> tuple[str, ...]:
    """One detection as the table's cells."""
    where = "" if detection.position is None else f" at token {detection.position}"
    return (
        detection.rule,
        detection.probe,
        "unscored" if detection.probability is None else f"{detection.probability:.3f}",
        "unscored" if detection.score is None else f"{detection.score:+.2f}",
        f"{detection.threshold:+.2f}",
        f"yes{where}" if detection.tripped else "no" if detection.score is not None else "-",
    )
