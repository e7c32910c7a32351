"""Where the plugin enters a model runner: what V1 and V2 have in common.

    execute_model    before it: the scheduler's output, and the scores of earlier pipeline stages
                     after it, on a stage that is not the last: our scores travel on with the hidden states
    (V1, V2 differ)  inputs are prepared: the order of the requests in the batch is known
    sample_tokens    before it: the scores of the step; after it: what must stop rides on its output

A runner without hooks (``runner.plumbline``) is left as it is.

Runs in: vLLM worker.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vllm.sequence import IntermediateTensors

from monitor.engine.stops import attach_stops

if TYPE_CHECKING:  # they bring numba, which must not be there yet (see worker.py)
    from monitor.engine.step import Step, StepHooks

_SCORES = "plumbline_scores"
_DUMMY_RUN = 2  # its place among the arguments of V2's execute_model


def patch_runner(runner_cls: Any, prepared: str, order: Callable[[Any, Any], Sequence[str]]) -> None:
    """Install the hooks.

    Args:
        runner_cls: a ``GPUModelRunner``. prepared: its method that prepares a real step's inputs.
        order: from the runner and that method's result to the request ids in the order of the batch.
    """
    _patch_execute(runner_cls)
    _patch_prepared(runner_cls, prepared, order)
    _patch_sample(runner_cls)


def _patch_execute(runner_cls: Any) -> None:
    original = runner_cls.execute_model

    @functools.wraps(original)
    def execute_model(self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        hooks: StepHooks | None = getattr(self, "plumbline", None)
        dummy = kwargs.get("dummy_run") or (len(args) >= _DUMMY_RUN and args[_DUMMY_RUN - 1])
        if hooks is None or dummy:
            return original(self, scheduler_output, *args, **kwargs)
        received = args[0] if args else kwargs.get("intermediate_tensors")
        hooks.received = received.tensors.pop(_SCORES, None) if received is not None else None
        hooks.schedule(scheduler_output)
        result = original(self, scheduler_output, *args, **kwargs)
        if isinstance(result, IntermediateTensors) and (scores := hooks.hand_on()) is not None:
            result.tensors[_SCORES] = scores
        return result

    runner_cls.execute_model = execute_model


def _patch_prepared(runner_cls: Any, name: str, order: Callable[[Any, Any], Sequence[str]]) -> None:
    original = getattr(runner_cls, name)

    @functools.wraps(original)
    def prepared(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if (hooks := getattr(self, "plumbline", None)) is not None:
            hooks.before_forward(order(self, result))
        return result

    setattr(runner_cls, name, prepared)


def _patch_sample(runner_cls: Any) -> None:
    original = runner_cls.sample_tokens

    @functools.wraps(original)
    def sample_tokens(self: Any, *args: Any, **kwargs: Any) -> Any:
        hooks: StepHooks | None = getattr(self, "plumbline", None)
        step = hooks.after_forward() if hooks is not None else None
        if hooks is None or step is None:
            return original(self, *args, **kwargs)
        if step.ready is None:  # the scores are on the host already
            stops = hooks.complete(step)
            output = original(self, *args, **kwargs)
            attach_stops(_inner(output), stops)
            return output
        output = original(self, *args, **kwargs)
        if hasattr(output, "get_output"):
            _complete_on_arrival(output, hooks, step)
        else:
            attach_stops(output, hooks.complete(step))
        return output

    runner_cls.sample_tokens = sample_tokens


def _inner(output: Any) -> Any:
    """The ``ModelRunnerOutput`` that an asynchronous output will deliver, or the output itself."""
    for name in ("_model_runner_output", "model_runner_output"):  # V1, V2
        if (inner := getattr(output, name, None)) is not None:
            return inner
    return output


def _complete_on_arrival(output: Any, hooks: StepHooks, step: Step) -> None:
    """Fold where vLLM itself waits for the sampled tokens."""
    original = output.get_output

    @functools.wraps(original)
    def get_output() -> Any:
        del output.get_output  # or output and wrapper would keep each other alive
        result = original()
        attach_stops(result, hooks.complete(step))
        return result

    output.get_output = get_output
