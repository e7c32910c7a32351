"""From the bytes of a policy file to the model, with errors that a person can act on.

YAML is read with the C loader after a look at its events: size, depth and repeated keys are bounded or
refused, and so are aliases (the stuff of YAML bombs).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from monitor.errors import ConfigError
from monitor.policy.model import PolicyFile

MAX_BYTES = 2**20
MAX_DEPTH = 32


def parse_policy(data: bytes, name: str) -> PolicyFile:
    """Read a policy file.

    Args:
        data: its content.
        name: for messages: where it came from.

    Raises:
        ConfigError: one line per problem: file, path within it, what came, what is wanted.
    """
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{name}: {len(data)} bytes; a policy file may have at most {MAX_BYTES}")
    try:
        text = data.decode("utf-8")
        _look_at_events(text, name)
        value = yaml.load(text, Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{name}: not a YAML file: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: got {_shown(value)}, wanted a mapping with version, default and policies")
    try:
        return PolicyFile.model_validate(value)
    except ValidationError as error:
        lines = (f"{name}: {_problem(detail)}" for detail in error.errors(include_url=False))
        raise ConfigError("\n".join(lines)) from error


def _look_at_events(text: str, name: str) -> None:
    """Refuse aliases, deep nesting and repeated keys before anything is built from the text."""
    stack: list[_Mapping | None] = []
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{name}: line {line}: got an alias (*{event.anchor}); write the value out")
        if isinstance(event, yaml.CollectionEndEvent):
            stack.pop()
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        if stack and (mapping := stack[-1]) is not None:
            key = event.value if isinstance(event, yaml.ScalarEvent) else None
            if not mapping.take(key):
                raise ConfigError(f"{name}: line {line}: the key {key!r} is repeated; keep one")
        if isinstance(event, yaml.CollectionStartEvent):
            if len(stack) >= MAX_DEPTH:
                raise ConfigError(f"{name}: line {line}: nested deeper than {MAX_DEPTH}")
            stack.append(_Mapping() if isinstance(event, yaml.MappingStartEvent) else None)


class _Mapping:
    """The keys of one mapping: its nodes come as key, value, key, value."""

    def __init__(self) -> None:
        self._keys: set[str] = set()
        self._is_key = True

    def take(self, scalar: str | None) -> bool:
        """Count one node; False if it is a key that was there before."""
        is_key, self._is_key = self._is_key, not self._is_key
        if not is_key or scalar is None:
            return True
        new = scalar not in self._keys
        self._keys.add(scalar)
        return new


def _problem(detail: Any) -> str:
    """One validation error as ``path: got X, wanted Y``."""
    path = _path(detail["loc"])
    message = str(detail["msg"]).removeprefix("Value error, ")
    match detail["type"]:
        case "missing":
            return f"{path}: missing"
        case "extra_forbidden":
            return f"{path}: unknown field; check the spelling against the documentation"
        case "value_error":
            return f"{path}: {message}"
        case _:
            return f"{path}: got {_shown(detail['input'])}, wanted: {message}"


def _path(location: Sequence[str | int]) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return path.lstrip(".") or "(file)"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
