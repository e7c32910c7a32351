"""``plumbline serve`` (engine and monitor in one command) and ``plumbline monitor`` (beside an engine)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from monitor.config import MonitorSettings

EXIT_FAILED = 1
EXIT_ERROR = 2

BundlePath = Annotated[
    Path, typer.Option("--bundle", envvar="PLUMBLINE_BUNDLE", help="Bundle of probes and directions.")
]
PolicyPath = Annotated[Path, typer.Option("--policy", envvar="PLUMBLINE_POLICY", help="Policy file (YAML).")]
Host = Annotated[str, typer.Option(help="Address to serve on.")]
HttpPort = Annotated[int, typer.Option("--port", help="Port of the OpenAI-compatible API; 0 picks a free one.")]
GrpcPort = Annotated[int, typer.Option(help="Port of gRPC; 0 picks a free one.")]
DirectionsPath = Annotated[
    Path | None,
    typer.Option("--directions", envvar="PLUMBLINE_DIRECTIONS", help="Folder of bundles with directions to load."),
]
TrustedKeys = Annotated[
    list[Path] | None,
    typer.Option(
        "--trusted-key",
        envvar="PLUMBLINE_TRUSTED_KEYS",
        help="Public key, or folder of *.pub files, of which one must have signed every bundle; repeatable.",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show all log lines.")]


def serve(
    model: Annotated[str, typer.Option(help="Model directory, or its name in the local Hugging Face cache.")],
    bundle: BundlePath,
    policy: PolicyPath,
    *,
    host: Host = "127.0.0.1",
    port: HttpPort = 8000,
    grpc_port: GrpcPort = 50051,
    engine_port: Annotated[int, typer.Option(help="vLLM's port on the loopback interface; 0 picks a free one.")] = 0,
    engine_arg: Annotated[
        list[str] | None, typer.Option(help='Arguments for "vllm serve", as "--max-model-len 4096"; repeatable.')
    ] = None,
    engine_log: Annotated[Path | None, typer.Option(help="File for the engine's log.")] = None,
    served_model_name: Annotated[
        list[str] | None, typer.Option(help="Name of the model in the API; repeatable. Default: the bundle's.")
    ] = None,
    directions: DirectionsPath = None,
    trusted_key: TrustedKeys = None,
    allow_untested: Annotated[
        bool,
        typer.Option(
            "--allow-untested",
            envvar="PLUMBLINE_ALLOW_UNTESTED",
            help="Start an engine that no parity test covers; what it scores may be wrong.",
        ),
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Start vLLM with taps, and the monitor in front of it, in one command."""
    from monitor.supervise import EngineOptions, supervise

    options = EngineOptions(
        model=model,
        port=engine_port,
        arguments=tuple(engine_arg or ()),
        names=tuple(served_model_name or ()),
        log=engine_log,
        allow_untested=allow_untested,
    )
    settings = {"host": host, "port": port, "grpc_port": grpc_port, "directions": directions}
    settings |= {"trusted_keys": tuple(trusted_key)} if trusted_key else {}
    _run(lambda: supervise(options, bundle, policy, _settings(**settings), verbose=verbose), "serve", verbose=verbose)


def monitor(
    engine: Annotated[str, typer.Option(help="URL of vLLM's API server.")],
    frames: Annotated[str, typer.Option(envvar="PLUMBLINE_FRAMES", help="ZeroMQ endpoint that the engine binds.")],
    bundle: BundlePath,
    policy: PolicyPath,
    *,
    host: Host = "127.0.0.1",
    port: HttpPort = 8000,
    grpc_port: GrpcPort = 50051,
    directions: DirectionsPath = None,
    trusted_key: TrustedKeys = None,
    verbose: Verbose = False,
) -> None:
    """Run only the monitor, beside an engine that runs elsewhere; the key comes from PLUMBLINE_PLAN_KEY."""
    from monitor.supervise import beside

    settings = {"host": host, "port": port, "grpc_port": grpc_port, "directions": directions}
    settings |= {"trusted_keys": tuple(trusted_key)} if trusted_key else {}
    settings |= {"engine_url": engine, "frames": frames}
    _run(lambda: beside(bundle, policy, _settings(**settings)), "monitor", verbose=verbose)


def _settings(**values: object) -> MonitorSettings:
    from pydantic import ValidationError

    from monitor.config import MonitorSettings
    from monitor.errors import ConfigError

    try:
        return MonitorSettings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(str(error)) from error


def _run(make: Callable[[], Coroutine[Any, Any, None]], command: str, *, verbose: bool) -> None:
    """Run on uvloop; errors raised on purpose become one message and an exit status."""
    import asyncio

    import uvloop

    from monitor.cli.logs import set_up_logs
    from monitor.errors import ConfigError, EngineSetupError, PlumblineError
    from probes.errors import BundleError

    set_up_logs(verbose=verbose)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(make())
    except PlumblineError as error:
        typer.echo(f"plumbline {command}: {error}", err=True)
        bad_input = isinstance(error, ConfigError | EngineSetupError | BundleError)
        raise typer.Exit(EXIT_ERROR if bad_input else EXIT_FAILED) from error
