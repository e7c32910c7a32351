"""Settings of the monitor: defaults, then ``PLUMBLINE_*`` environment variables, then the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Port = Annotated[int, Field(ge=0, le=65_535)]


class MonitorSettings(BaseSettings):
    """Everything that can be set without a policy.

    Attributes:
        host, port: where HTTP is served. grpc_port: where gRPC is served; 0 picks a free port.
        engine_url: base URL of the vLLM server.
        frames: ZeroMQ endpoint that the engine binds; further data-parallel ranks bind ones derived from it.
        plan_key: the secret shared with the engine, hex.
        bundle, policy: paths.
        directions: folder of bundles whose directions may be loaded into the running engine; None: none may.
        trusted_keys: public keys, or folders of them, of which one must have signed every bundle; none: unsigned ones
            are taken. In the variable, separated by colons.
        heartbeat_timeout: the taps count as silent after this long without a heartbeat.
        frame_timeout: wait for missing scores after the engine's answer.
        connect_timeout: of the engine. request_timeout: of one whole request.
        plan_ttl: the engine refuses to start a request whose plan is older.
        drain_timeout: wait for requests in flight when stopping.
        start_timeout: wait for the engine when starting.
        max_body: bytes of a request. max_event: bytes of one event of the engine's stream.
        stream_buffer: events of one stream that may wait for their scores.
        frame_buffer: frames that may wait for the monitor; more are dropped and counted.
    """

    model_config = SettingsConfigDict(env_prefix="PLUMBLINE_", extra="ignore", frozen=True)

    host: str = "127.0.0.1"
    port: Port = 8000
    grpc_port: Port = 50051
    engine_url: str = "http://127.0.0.1:8001"
    frames: str = ""
    plan_key: SecretStr = SecretStr("")
    bundle: Path | None = None
    policy: Path | None = None
    directions: Path | None = None
    trusted_keys: Annotated[tuple[Path, ...], NoDecode] = ()
    heartbeat_timeout: Seconds = 5.0
    frame_timeout: Seconds = 2.0
    connect_timeout: Seconds = 5.0
    request_timeout: Seconds = 600.0
    plan_ttl: Seconds = 600.0
    drain_timeout: Seconds = 15.0
    start_timeout: Seconds = 600.0
    max_body: Annotated[int, Field(ge=1024)] = 10 * 2**20
    max_event: Annotated[int, Field(ge=1024)] = 16 * 2**20
    stream_buffer: Annotated[int, Field(ge=2)] = 1024
    frame_buffer: Annotated[int, Field(ge=16)] = 100_000

    @field_validator("trusted_keys", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """As the variable has them; an empty one is refused, since somebody meant to demand signatures."""
        return value.split(os.pathsep) if isinstance(value, str) else value

    @field_validator("trusted_keys")
    @classmethod
    def _named(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        if Path() in value:
            raise ValueError("PLUMBLINE_TRUSTED_KEYS names an empty path; name public keys, or unset it")
        return value
