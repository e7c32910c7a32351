"""``plumbline watch``: verdicts or token scores of all requests, as they happen."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from monitor.cli.check import ADDRESS, STYLES, quiet_grpc

if TYPE_CHECKING:
    import grpc
    from rich.text import Text

    from monitor.v1 import monitor_pb2

    Request: TypeAlias = monitor_pb2.WatchScoresRequest | monitor_pb2.WatchVerdictsRequest
    Event: TypeAlias = monitor_pb2.WatchScoresResponse | monitor_pb2.WatchVerdictsResponse

FIRST_DELAY, LONGEST_DELAY = 0.5, 10.0  # seconds between attempts to connect
EXIT_ERROR = 2


def watch(
    *,
    scores: Annotated[bool, typer.Option("--scores/--verdicts", help="Token scores, or verdicts.")] = False,
    request: Annotated[str, typer.Option(help="Only this request (scores).")] = "",
    probe: Annotated[list[str] | None, typer.Option(help="Only this probe; may be repeated (scores).")] = None,
    policy: Annotated[str, typer.Option(help="Only this policy (verdicts).")] = "",
    tripped: Annotated[bool, typer.Option("--tripped", help="Only verdicts that tripped.")] = False,
    address: Annotated[str, typer.Option(envvar="PLUMBLINE_ADDRESS", help="The monitor's gRPC address.")] = ADDRESS,
    limit: Annotated[int, typer.Option(min=0, help="Stop after this many lines; 0 never stops.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each event.")] = False,
) -> None:
    """Print a line for each verdict, or for each step's token scores, until Ctrl-C.

    When the server goes away, connects again with a growing delay and says so.
    """
    quiet_grpc()
    import grpc
    from rich.console import Console

    from monitor.rpc.client import explain
    from monitor.v1 import monitor_pb2 as pb

    wanted: Request
    if scores:
        wanted = pb.WatchScoresRequest(request_id=request, probes=probe or [])
    else:
        wanted = pb.WatchVerdictsRequest(policy=policy, only_tripped=tripped)
    console = Console(soft_wrap=True, highlight=False, emoji=False)
    lost = 0
    try:
        with _ended_by_interrupts(), closing(events(wanted, address)) as stream:
            for count, event in enumerate(stream, start=1):
                if event.dropped > lost:
                    _note(f"too slow: {event.dropped - lost} events were lost")
                lost = event.dropped
                console.print(_json(event) if as_json else line(event), markup=False)
                if count == limit:
                    return
    except grpc.RpcError as error:
        typer.echo(f"plumbline watch: {explain(error, address)}", err=True)
        raise typer.Exit(EXIT_ERROR) from error
    except ValueError as error:  # the server is newer and says something that we do not know
        typer.echo(f"plumbline watch: {error}", err=True)
        raise typer.Exit(EXIT_ERROR) from error


@contextmanager
def _ended_by_interrupts() -> Iterator[None]:
    """Inside, Ctrl-C ends the process: an exception that is raised amid grpc's own locks may hang it or get lost.

    Every line is flushed when it is printed, so that nothing is. Other threads than the main one take no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(number: int, frame: object) -> None:  # noqa: ARG001  # the signature of a handler
    os.write(2, b"plumbline watch: stopped\n")
    os._exit(0)


def events(wanted: Request, address: str) -> Generator[Event]:
    """Events without end, over as many connections as that takes.

    Raises:
        grpc.RpcError: the server refused the watch, so trying again would not help.
    """
    import grpc

    from monitor.rpc.client import explain, may_pass, open_channel

    delay = FIRST_DELAY
    while True:
        connected = False
        try:
            with open_channel(address) as channel:
                call = _call(channel, wanted)
                call.initial_metadata()  # waits for the server, or for the failure that the loop below raises
                if connected := call.is_active():
                    _note(f"watching {address}")
                    delay = FIRST_DELAY
                yield from call
            reason = "the server ended the stream"
        except grpc.RpcError as error:
            if not may_pass(error):
                raise
            reason = f"lost {address} ({error.details()})" if connected else explain(error, address)
        pause = delay * random.uniform(0.8, 1.2)  # noqa: S311  # spreads watchers; no secret
        _note(f"{reason}; trying again in {pause:.1f} s")
        time.sleep(pause)
        delay = min(2 * delay, LONGEST_DELAY)


def _call(channel: grpc.Channel, wanted: Request) -> Any:
    """The running call: an iterator of events."""
    from monitor.v1 import monitor_pb2 as pb
    from monitor.v1.monitor_pb2_grpc import MonitorServiceStub

    stub = MonitorServiceStub(channel)
    return stub.WatchScores(wanted) if isinstance(wanted, pb.WatchScoresRequest) else stub.WatchVerdicts(wanted)


def line(event: Event) -> Text:
    """One event as one line."""
    from monitor.v1 import monitor_pb2 as pb

    return _verdict_line(event) if isinstance(event, pb.WatchVerdictsResponse) else _scores_line(event)


def _verdict_line(event: monitor_pb2.WatchVerdictsResponse) -> Text:
    from rich.text import Text

    from monitor.rpc.convert import verdict_from_proto

    verdict = verdict_from_proto(event.verdict)
    clock = time.strftime("%H:%M:%S", time.localtime(verdict.created))
    done = verdict.action.value + ("" if verdict.enforced else " (observed)")
    text = Text(f"{clock}  {verdict.request_id}#{verdict.choice}  ")
    text.append(f"{verdict.status.value:<8}", style=STYLES[verdict.status])
    text.append(f"  {done}  policy {verdict.policy}")
    for found in verdict.detections:
        value = "unscored" if found.probability is None else f"{found.probability:.3f}"
        where = f"@{found.position}" if found.position is not None else ""
        text.append(f"  {found.probe} {value}{where}", style="red" if found.tripped else "dim")
    for reason, count in verdict.unscored.items():
        text.append(f"  unscored: {reason.value} ({count or 'all'})", style="yellow")
    return text


def _scores_line(event: monitor_pb2.WatchScoresResponse) -> Text:
    """The highest score of each probe in this step; a step of decoding has one token."""
    from rich.text import Text

    positions = [token.position for token in event.token_scores]
    span = "-" if not positions else f"{positions[0]}..{positions[-1]}" if len(positions) > 1 else f"{positions[0]}"
    phase = "response" if positions and positions[-1] >= event.prompt_tokens else "prompt"
    text = Text(f"{event.request_id}#{event.choice}  {phase:<8}  token {span:<9}")
    highest: dict[str, float | None] = {}
    for token in event.token_scores:
        for entry in token.scores:
            before = highest.setdefault(entry.probe, None)
            if entry.HasField("score"):
                highest[entry.probe] = entry.score if before is None else max(before, entry.score)
    for name, score in highest.items():
        text.append(f"  {name} " + ("unscored" if score is None else f"{score:+.2f}"))
    for rule in event.rules:
        if rule.HasField("trip_position"):
            text.append(f"  {rule.rule} tripped at {rule.trip_position}", style="red")
    if event.stopped_by:
        text.append(f"  stopped by {event.stopped_by}", style="bold red")
    return text.append("  end", style="dim") if event.ended else text


def _json(event: Event) -> str:
    """One event as one line of protobuf's JSON; fields that are absent are left out."""
    from google.protobuf.json_format import MessageToJson

    return MessageToJson(
        event, indent=None, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _note(text: str) -> None:
    """Tell the person, not the pipe."""
    typer.echo(f"plumbline watch: {text}", err=True)
