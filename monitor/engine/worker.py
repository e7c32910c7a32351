"""Where the plugin enters vLLM's worker, for both model runners; what happens in a step is in ``runner*.py``.

    Worker.load_model                 check, instrument, change the compile-cache key
    runner.initialize_kv_cache        now the sizes are known: score cache, ledger, gate
    Worker.compile_or_warm_up_model   self-test, then say hello
    Worker.update_weights, ...        the model is another one: nothing is scored any more

Runs in: vLLM worker.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import vllm

from monitor.engine.compat import check_engine
from monitor.engine.instrument import instrument
from monitor.engine.loaded import N_SPARE
from monitor.engine.ops import register_ops
from monitor.engine.runner_v1 import patch_runner_v1
from monitor.engine.runner_v2 import patch_runner_v2
from monitor.engine.self_test import self_test
from monitor.engine.settings import EngineSettings
from probes.bundle import Bundle, check_model, read_bundle, trusted_keys
from probes.fingerprint import resolve_model

log = logging.getLogger(__name__)

_PATCHED = "_plumbline"
_GRAPH = 4
"""Counts up whenever the ops in the graph change, so that no compiled graph of an older Plumbline is loaded."""

_WEIGHT_UPDATES = ("reload_weights", "update_weights", "update_config")


def patch_worker(settings: EngineSettings) -> None:
    """Install the entry points; a second call does nothing."""
    from vllm.v1.worker.cpu_worker import CPUWorker
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner as RunnerV2
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner as RunnerV1
    from vllm.v1.worker.gpu_worker import Worker

    if getattr(Worker, _PATCHED, False):
        return
    setattr(Worker, _PATCHED, True)
    _patch_load(Worker, settings)
    for worker in (Worker, CPUWorker):
        _patch_warm_up(worker)
        _patch_weight_updates(worker)
    for runner in (RunnerV1, RunnerV2):
        _patch_kv_cache(runner)
    patch_runner_v1()
    patch_runner_v2()


def _patch_load(worker_cls: Any, settings: EngineSettings) -> None:
    original = worker_cls.load_model

    @functools.wraps(original)
    def load_model(self: Any, *args: Any, **kwargs: Any) -> None:
        bundle = read_bundle(settings.bundle, trusted=trusted_keys(settings.trusted_keys))
        untested = check_engine(vllm.__version__, self.vllm_config, allow_untested=settings.allow_untested)
        check_model(bundle, resolve_model(self.vllm_config.model_config.model))
        original(self, *args, **kwargs)
        _attach(self, bundle, settings, untested)

    worker_cls.load_model = load_model


def _attach(worker: Any, bundle: Bundle, settings: EngineSettings, untested: str) -> None:
    """Instrument the loaded model, and leave with the runner what is needed once the KV cache is known."""
    # Brings numba, which must not be there before: vLLM's CPU platform looks through all modules once and fails on it.
    from monitor.engine.assemble import assemble, publisher_for

    runner, config = worker.model_runner, worker.vllm_config
    register_ops()
    n_spare = N_SPARE if settings.directions is not None else 0
    max_tokens = config.scheduler_config.max_num_batched_tokens
    max_tokens = max(max_tokens, getattr(runner, "max_num_tokens", 0))
    taps = instrument(runner.get_model(), bundle, max_tokens, settings.operators, n_spare)
    publisher = publisher_for(config, bundle, settings, taps, untested)
    runner.plumbline_taps, runner.plumbline_publisher = taps, publisher
    runner.plumbline_assemble = functools.partial(assemble, config, bundle, settings, taps, publisher)
    # The ahead-of-time compile cache keys on the configuration, not on our code: without this an
    # uninstrumented graph is loaded, and no tap ever runs.
    shape = (
        f"{_GRAPH}:{bundle.digest[:16]}:{tuple(taps.scores.shape)}:{taps.layers}:{sorted(settings.operators)}:{n_spare}"
    )
    config.additional_config = {**(config.additional_config or {}), "plumbline": shape}
    log.warning("Plumbline reads layers %s with columns %s", taps.layers, ", ".join(taps.probes))


def _patch_kv_cache(runner_cls: Any) -> None:
    original = runner_cls.initialize_kv_cache

    @functools.wraps(original)
    def initialize_kv_cache(self: Any, kv_cache_config: Any, *args: Any, **kwargs: Any) -> None:
        original(self, kv_cache_config, *args, **kwargs)
        if (build := getattr(self, "plumbline_assemble", None)) is not None:
            self.plumbline = build(kv_cache_config)

    runner_cls.initialize_kv_cache = initialize_kv_cache


def _patch_warm_up(worker_cls: Any) -> None:
    if "compile_or_warm_up_model" not in vars(worker_cls):
        return
    original = worker_cls.compile_or_warm_up_model

    @functools.wraps(original)
    def compile_or_warm_up_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if (taps := getattr(self.model_runner, "plumbline_taps", None)) is not None:
            report = self_test(self.model_runner, taps)
            if (publisher := self.model_runner.plumbline_publisher) is not None:
                publisher.start(report)
        return result

    worker_cls.compile_or_warm_up_model = compile_or_warm_up_model


def _patch_weight_updates(worker_cls: Any) -> None:
    for name in _WEIGHT_UPDATES:
        if name in vars(worker_cls):
            setattr(worker_cls, name, _stale_after(vars(worker_cls)[name]))


def _stale_after(original: Any) -> Any:
    @functools.wraps(original)
    def update(self: Any, *args: Any, **kwargs: Any) -> Any:
        if (hooks := getattr(self.model_runner, "plumbline", None)) is not None:
            hooks.distrust(original.__name__)
            log.error("%s: the bundle belongs to other weights; nothing is scored until a restart", original.__name__)
        return original(self, *args, **kwargs)

    return update
