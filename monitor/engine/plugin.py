"""The entry point that stock vLLM calls in each of its processes (``vllm.general_plugins``).

Inert without ``PLUMBLINE_BUNDLE``. With it, the engine is instrumented or does not start.

vLLM swallows an exception while a plugin is *imported* and lets one out of the plugin function, so this
module imports nothing that could fail. It cannot vouch for its own presence (``VLLM_PLUGINS`` may leave it
out): the monitor treats an engine that does not say hello as unscored.
"""

from __future__ import annotations


def register() -> None:
    """Patch the worker, the scheduler and the engine core.

    Raises:
        ConfigError: the environment is incomplete.
        BundleError: the bundle cannot be read.
    """
    from monitor.engine.settings import EngineSettings  # noqa: PLC0415  # see the module docstring

    settings = EngineSettings.from_env()
    if settings is None:
        return
    from monitor.engine.core import patch_engine_core  # noqa: PLC0415
    from monitor.engine.worker import patch_worker  # noqa: PLC0415

    patch_engine_core(settings)
    patch_worker(settings)
