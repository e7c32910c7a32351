"""The policies in force: an immutable snapshot of one file, replaced as a whole on reload.

A reload that fails keeps the last good snapshot. Requests in flight carry their plan and are not affected.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from monitor.errors import ConfigError, InvalidRequestError, LoosensPolicyError
from monitor.policy.compile import Policy, resolve_policy
from monitor.policy.load import MAX_BYTES, parse_policy
from monitor.policy.steering import Names

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One file's policies.

    Attributes:
        policies: by name. default: for requests that name none.
        revision: 12 hex digits of the file's SHA-256.
        loaded: Unix time.
    """

    policies: Mapping[str, Policy]
    default: str
    revision: str
    loaded: float

    def select(self, name: str | None) -> Policy:
        """The policy that a request runs under.

        Raises:
            InvalidRequestError: no such policy.
            LoosensPolicyError: callers may not name it.
        """
        if name is None or name == self.default:
            return self.policies[self.default]
        others = [p.name for p in self.policies.values() if p.model.callers.may_select and p.name != self.default]
        policy = self.policies.get(name)
        if policy is None:
            raise InvalidRequestError(
                f"guard.policy: got {name!r}, the policies are {', '.join([self.default, *others])}"
            )
        if not policy.model.callers.may_select:
            raise LoosensPolicyError(f"guard.policy: callers may not select {name}")
        return policy


def load_snapshot(path: Path, names: Names) -> Snapshot:
    """Read a policy file and check it against a bundle and the directions that are loaded.

    Raises:
        ConfigError: one line per problem.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    parsed = parse_policy(data, str(path))
    policies = {
        model.name: resolve_policy(model, names, f"{path}: policies[{index}]")
        for index, model in enumerate(parsed.policies)
    }
    revision = hashlib.sha256(data).hexdigest()[:12]
    return Snapshot(MappingProxyType(policies), parsed.default, revision, time.time())


class PolicyStore:
    """Holds the current snapshot.

    Attributes:
        snapshot: the current one; replaced, never changed.
    """

    def __init__(self, path: Path, names: Names, on_reload: Callable[[str, float], None]) -> None:
        """Load the file.

        Args:
            path: of the policy file.
            names: that policies may use.
            on_reload: told the result of each load (success or failure) and when the current snapshot was loaded.

        Raises:
            ConfigError: there is no good snapshot to start with.
        """
        self._path = path
        self._names = names
        self._on_reload = on_reload
        self.snapshot = load_snapshot(path, names)
        on_reload("success", self.snapshot.loaded)

    def reload(self) -> bool:
        """Read the file again; keeps the last good snapshot (and says so) if it cannot be used."""
        try:
            self.snapshot = load_snapshot(self._path, self._names)
        except ConfigError as error:
            _log.error("policy reload failed, revision %s stays in force:\n%s", self.snapshot.revision, error)
            self._on_reload("failure", self.snapshot.loaded)
            return False
        _log.info("policy reloaded: revision %s", self.snapshot.revision)
        self._on_reload("success", self.snapshot.loaded)
        return True
