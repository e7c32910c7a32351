"""The plugin's configuration: environment variables set by ``plumbline serve``, or by hand.

Runs in: every process of vLLM. Imports nothing heavy.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from monitor.errors import ConfigError
from monitor.policy.plan import parse_key
from monitor.types import Operator


@dataclass(frozen=True)
class EngineSettings:
    """What an instrumented engine needs.

    Attributes:
        bundle: directory of the bundle (``PLUMBLINE_BUNDLE``).
        frames: ZeroMQ endpoint that the engine binds (``PLUMBLINE_FRAMES``).
        plan_key: secret shared with the monitor (``PLUMBLINE_PLAN_KEY``, hex, at least 16 bytes).
        default_plan: signed plan for requests that carry none (``PLUMBLINE_DEFAULT_PLAN``), or None.
        directions: folder of bundles whose directions may be loaded while it runs (``PLUMBLINE_DIRECTIONS``), or None.
        trusted_keys: public keys, or folders of them, of which one must have signed every bundle
            (``PLUMBLINE_TRUSTED_KEYS``, separated by colons); none: unsigned ones are taken.
        ranks: data-parallel ranks on this machine (``PLUMBLINE_RANKS``).
        operators: what requests may steer with; the graph is prepared for these only (``PLUMBLINE_OPERATORS``,
            comma-separated; ``none``; all if it is not set).
        allow_untested: start where no parity result says that the scores are right (``PLUMBLINE_ALLOW_UNTESTED=1``).
    """

    bundle: Path
    frames: str
    plan_key: bytes
    default_plan: str | None
    directions: Path | None = None
    trusted_keys: tuple[Path, ...] = ()
    ranks: int = 1
    operators: frozenset[Operator] = frozenset(Operator)
    allow_untested: bool = False

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> EngineSettings | None:
        """Read the settings; None if ``PLUMBLINE_BUNDLE`` is not set (the plugin is then inert).

        Raises:
            ConfigError: the bundle is named but something else is missing or malformed.
        """
        bundle = env.get("PLUMBLINE_BUNDLE")
        if not bundle:
            return None
        missing = [name for name in ("PLUMBLINE_FRAMES", "PLUMBLINE_PLAN_KEY") if not env.get(name)]
        if missing:
            raise ConfigError(
                f"PLUMBLINE_BUNDLE is set but {' and '.join(missing)} is not; "
                "start the engine with `plumbline serve`, or set all three"
            )
        directions = env.get("PLUMBLINE_DIRECTIONS")
        return cls(
            bundle=Path(bundle),
            frames=env["PLUMBLINE_FRAMES"],
            plan_key=parse_key(env["PLUMBLINE_PLAN_KEY"]),
            default_plan=env.get("PLUMBLINE_DEFAULT_PLAN") or None,
            directions=Path(directions) if directions else None,
            trusted_keys=_trusted_keys(env.get("PLUMBLINE_TRUSTED_KEYS")),
            ranks=_ranks(env.get("PLUMBLINE_RANKS") or "1"),
            operators=_operators(env.get("PLUMBLINE_OPERATORS") or ",".join(Operator)),
            allow_untested=env.get("PLUMBLINE_ALLOW_UNTESTED") == "1",
        )


def _trusted_keys(text: str | None) -> tuple[Path, ...]:
    if text is None:
        return ()
    if not all(names := text.split(os.pathsep)):
        raise ConfigError(
            f"PLUMBLINE_TRUSTED_KEYS: got {text!r}, wanted public keys separated by colons, or no variable"
        )
    return tuple(map(Path, names))


def _ranks(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"PLUMBLINE_RANKS: got {text!r}, wanted the number of data-parallel ranks, at least 1")
    return int(text)


def _operators(text: str) -> frozenset[Operator]:
    try:
        return frozenset(Operator(name.strip()) for name in text.split(",") if text.strip() != "none")
    except ValueError as error:
        known = ", ".join(Operator)
        raise ConfigError(f"PLUMBLINE_OPERATORS: got {text!r}, wanted none, or some of {known}") from error
