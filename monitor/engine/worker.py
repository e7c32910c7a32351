"""Where the plugin enters vLLM's worker (V1 runner; the CPU runner extends it).

    Worker.load_model               check, instrument, change the compile-cache key
    runner.initialize_kv_cache      allocate the score cache
    Worker.compile_or_warm_up_model self-test, then say hello
    runner._update_states           requests that finished, KV blocks that were copied
    runner._model_forward           before the forward pass (real steps only)
    runner.sample_tokens            after it; verdicts ride on the step's output

Runs in: vLLM worker.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
import vllm

from monitor.engine.compat import check_engine, check_kv_groups
from monitor.engine.core import STOPS_ATTRIBUTE
from monitor.engine.instrument import Instrumentation, instrument
from monitor.engine.ops import register_ops
from monitor.engine.publish import FramePublisher
from monitor.engine.rows import V1Rows
from monitor.engine.score_cache import ScoreCache
from monitor.engine.settings import EngineSettings
from monitor.engine.step import StepHooks
from monitor.errors import EngineSetupError
from probes.bundle import Bundle, check_model, read_bundle
from probes.fingerprint import resolve_model

log = logging.getLogger(__name__)

_PATCHED = "_plumbline"
_SELF_TEST_TOKENS = 4
_UNTOUCHED = -(2.0**100)


def patch_worker(settings: EngineSettings) -> None:
    """Install the six entry points; a second call does nothing."""
    from vllm.v1.worker.cpu_worker import CPUWorker
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner
    from vllm.v1.worker.gpu_worker import Worker

    if getattr(Worker, _PATCHED, False):
        return
    setattr(Worker, _PATCHED, True)
    _patch_load(Worker, settings)
    for worker in (Worker, CPUWorker):
        _patch_warm_up(worker)
    _patch_kv_cache(GPUModelRunner)
    _patch_step(GPUModelRunner)


def _patch_load(worker_cls: Any, settings: EngineSettings) -> None:
    original = worker_cls.load_model

    @functools.wraps(original)
    def load_model(self: Any, *args: Any, **kwargs: Any) -> None:
        bundle = read_bundle(settings.bundle)
        check_engine(vllm.__version__, self.vllm_config)
        check_model(bundle, resolve_model(self.vllm_config.model_config.model))
        original(self, *args, **kwargs)
        _attach(self, bundle, settings)

    worker_cls.load_model = load_model


def _attach(worker: Any, bundle: Bundle, settings: EngineSettings) -> None:
    """Instrument the loaded model and hang the hooks on its runner."""
    runner, config = worker.model_runner, worker.vllm_config
    register_ops()
    max_requests = config.scheduler_config.max_num_seqs
    taps = instrument(runner.get_model(), bundle, runner.max_num_tokens)
    publisher = FramePublisher(settings.frames, bundle.digest, taps.probes, vllm.__version__)
    runner.plumbline_taps = taps
    runner.plumbline_publisher = publisher
    runner.plumbline = StepHooks(bundle, settings, taps, V1Rows(runner), publisher, max_requests)
    # The ahead-of-time compile cache keys on the configuration, not on our code: without this an
    # uninstrumented graph is loaded, and no tap ever runs.
    shape = f"{bundle.digest[:16]}:{tuple(taps.scores.shape)}:{max_requests}:{taps.layers}"
    config.additional_config = {**(config.additional_config or {}), "plumbline": shape}
    log.warning("Plumbline reads layers %s with probes %s", taps.layers, ", ".join(taps.probes))


def _patch_kv_cache(runner_cls: Any) -> None:
    original = runner_cls.initialize_kv_cache

    @functools.wraps(original)
    def initialize_kv_cache(self: Any, kv_cache_config: Any, *args: Any, **kwargs: Any) -> None:
        original(self, kv_cache_config, *args, **kwargs)
        if (hooks := getattr(self, "plumbline", None)) is not None:
            groups = kv_cache_config.kv_cache_groups
            check_kv_groups(len(groups))
            n_columns = len(self.plumbline_taps.probes)
            block_size = groups[0].kv_cache_spec.block_size
            hooks.cache = ScoreCache(kv_cache_config.num_blocks, block_size, n_columns, torch.device("cpu"))

    runner_cls.initialize_kv_cache = initialize_kv_cache


def _patch_warm_up(worker_cls: Any) -> None:
    if "compile_or_warm_up_model" not in vars(worker_cls):
        return
    original = worker_cls.compile_or_warm_up_model

    @functools.wraps(original)
    def compile_or_warm_up_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if hasattr(self.model_runner, "plumbline"):
            report = self_test(self.model_runner, self.model_runner.plumbline_taps)
            self.model_runner.plumbline_publisher.start(report)
        return result

    worker_cls.compile_or_warm_up_model = compile_or_warm_up_model


def self_test(runner: Any, taps: Instrumentation) -> str:
    """Run a dummy forward pass over marked rows and see that every tap wrote.

    Raises:
        EngineSetupError: a column is untouched; the engine must not start.
    """
    rows = taps.scores[:_SELF_TEST_TOKENS]
    rows.fill_(_UNTOUCHED)
    runner._dummy_run(_SELF_TEST_TOKENS)  # without attention metadata the values mean nothing, and may be NaN
    silent = (rows == _UNTOUCHED).any(0).nonzero().flatten().tolist()
    rows.fill_(torch.nan)
    if silent:
        names = ", ".join(taps.probes[i] for i in silent)
        raise EngineSetupError(
            f"self-test: the taps of {names} did not run. A graph compiled without them may have been loaded: "
            "clear vLLM's compile cache (~/.cache/vllm/torch_compile_cache) or start with --enforce-eager"
        )
    return f"{len(taps.probes)} columns on layers {', '.join(map(str, taps.layers))} alive"


def _patch_step(runner_cls: Any) -> None:
    update_states, model_forward, sample = (
        runner_cls._update_states,
        runner_cls._model_forward,
        runner_cls.sample_tokens,
    )

    @functools.wraps(update_states)
    def _update_states(self: Any, scheduler_output: Any) -> Any:
        if (hooks := getattr(self, "plumbline", None)) is not None:
            hooks.finished(scheduler_output.finished_req_ids)
            if scheduler_output.kv_cache_block_copies and hooks.cache is not None:
                hooks.cache.copy_blocks(scheduler_output.kv_cache_block_copies)
        return update_states(self, scheduler_output)

    @functools.wraps(model_forward)
    def _model_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if (hooks := getattr(self, "plumbline", None)) is not None:
            hooks.before_forward()
        return model_forward(self, *args, **kwargs)

    @functools.wraps(sample)
    def sample_tokens(self: Any, *args: Any, **kwargs: Any) -> Any:
        hooks = getattr(self, "plumbline", None)
        stops = hooks.after_forward() if hooks is not None else {}
        output = sample(self, *args, **kwargs)
        if stops:
            setattr(output, STOPS_ATTRIBUTE, stops)
        return output

    runner_cls._update_states = _update_states
    runner_cls._model_forward = _model_forward
    runner_cls.sample_tokens = sample_tokens
