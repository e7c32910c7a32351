"""Whether this engine may be instrumented: refused, untested (only where that is allowed), or verified.

Runs in: vLLM worker, before the model is instrumented. An engine that cannot be right does not start.
"""

from __future__ import annotations

import logging
from typing import Any

from monitor.engine.architectures import VERIFIED_ARCHITECTURES
from monitor.engine.refusals import REFUSALS
from monitor.engine.verified import Setup, minor_version, read_results, untested
from monitor.errors import EngineSetupError

log = logging.getLogger(__name__)

SUPPORTED_VERSIONS = tuple(f"0.{minor}" for minor in range(26, 34))
"""vLLM's minor versions whose sources have the points that the plugin patches."""


def check_engine(version: str, config: Any, *, device: str | None = None, allow_untested: bool = False) -> str:
    """Refuse what has not been shown to give exact scores.

    Args:
        version: ``vllm.__version__``.
        config: the ``VllmConfig`` of this engine, as the platform left it.
        device: ``cpu`` or ``cuda``; by default the one that ``config`` names.
        allow_untested: start a setup that has no parity result, with a warning. What is always refused stays so.

    Returns:
        What is untested about this engine; empty if a parity result covers it.

    Raises:
        EngineSetupError: every reason at once, each with what to change.
    """
    setup = Setup.of(version, config, device or config.device_config.device_type)
    reasons = [*_version(version), *_architecture(config), *(str(r) for r in REFUSALS if r.applies(config))]
    missing = untested(setup, read_results())
    if missing and not allow_untested:
        reasons.append(
            f"untested: no parity result covers {missing}; set PLUMBLINE_ALLOW_UNTESTED=1 "
            "(plumbline serve --allow-untested) to run it all the same, with a warning"
        )
    if reasons:
        raise EngineSetupError("Plumbline cannot instrument this engine:\n" + "\n".join(f"  - {r}" for r in reasons))
    if missing:
        log.warning("UNTESTED: no parity result covers %s; the scores may be wrong", missing)
    return missing


def _version(version: str) -> list[str]:
    if minor_version(version) in SUPPORTED_VERSIONS:
        return []
    window = f"{SUPPORTED_VERSIONS[0]} to {SUPPORTED_VERSIONS[-1]}"
    return [f"vLLM {version} is outside of the supported versions; install one of {window}"]


def _architecture(config: Any) -> list[str]:
    found = config.model_config.architecture
    if found in VERIFIED_ARCHITECTURES:
        return []
    return [f"architecture {found} is not verified; verified are: {', '.join(VERIFIED_ARCHITECTURES)}"]
