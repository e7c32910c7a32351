"""Which setups have a parity result: read from ``verified.json``, written by ``python -m benchmarks.parity --record``.

A result stands for one minor version of vLLM, one runner, one device, one way of scheduling, eager or compiled, and
one number of ranks. It says nothing about any other: each of them can give a token to the wrong request in a way
that no error shows.

Runs in: vLLM worker, before the model is instrumented; and in the benchmark that records.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from monitor.errors import EngineSetupError

RESULTS = Path(__file__).with_name("verified.json")


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine runs, as far as it decides whose token is in which row.

    Attributes:
        vllm: version, for example ``0.32.0``; two patch releases of one minor version count as the same.
        runner: vLLM's model runner.
        device: where the model runs.
        scheduling: ``async`` schedules a step before the previous one's tokens are known.
        mode: ``eager``, or ``compiled`` (torch.compile, CUDA graphs, or both).
        parallel: ``single``, or the ranks of tensor, pipeline and data parallelism, as in ``tp2 pp2``.
    """

    vllm: str
    runner: Literal["v1", "v2"]
    device: Literal["cpu", "cuda"]
    scheduling: Literal["sync", "async"]
    mode: Literal["eager", "compiled"]
    parallel: str = "single"

    @classmethod
    def of(cls, version: str, config: Any, device: str) -> Self:
        """The setup of an engine.

        Args:
            version: ``vllm.__version__``.
            config: its ``VllmConfig``, as the platform left it.
            device: ``cpu`` or ``cuda``.

        Raises:
            EngineSetupError: another device.
        """
        if device not in {"cpu", "cuda"}:
            raise EngineSetupError(f"Plumbline runs on cpu and cuda devices; this engine's device is {device}")
        compilation = config.compilation_config
        compiled = compilation.mode.name != "NONE" or compilation.cudagraph_mode.name != "NONE"
        return cls(
            vllm=version, runner="v2" if config.use_v2_model_runner else "v1",
            device="cpu" if device == "cpu" else "cuda",
            scheduling="async" if config.scheduler_config.async_scheduling else "sync",
            mode="compiled" if compiled else "eager", parallel=_parallel(config.parallel_config),
        )  # fmt: skip

    def covers(self, other: Setup) -> bool:
        """Whether a result for this setup speaks for ``other``."""
        mine, others = (msgspec.structs.asdict(s) | {"vllm": minor_version(s.vllm)} for s in (self, other))
        return all(mine[name] == others[name] for name in Setup.__struct_fields__)

    def __str__(self) -> str:
        ranks = "one rank" if self.parallel == "single" else self.parallel
        return (
            f"vLLM {self.vllm}, runner {self.runner}, {self.device}, {self.scheduling} scheduling, {self.mode}, {ranks}"
        )


class Result(Setup, frozen=True, kw_only=True):
    """A parity run under one setup.

    Attributes:
        scores, logits: worst deviation from transformers, as a share of the bound (``benchmarks.parity``); at most 1.
        prompts: how many prompts were compared.
        note: what was not stock about the run, for example a shim.
        date: when, ISO 8601.
    """

    scores: float
    logits: float
    prompts: int
    note: str
    date: str


def minor_version(version: str) -> str:
    """``0.32`` of ``0.32.1``; a version of another form is its own."""
    match = re.match(r"(\d+\.\d+)\.", version)
    return match[1] if match else version


def read_results(path: Path = RESULTS) -> tuple[Result, ...]:
    """Every recorded result.

    Raises:
        EngineSetupError: the file is damaged, or holds a result over the bound.
    """
    try:
        results = msgspec.json.decode(path.read_bytes(), type=tuple[Result, ...])
    except (OSError, msgspec.DecodeError) as error:
        raise EngineSetupError(f"{path} cannot be read ({error}); install Plumbline again") from error
    if wrong := [r for r in results if not _exact(r)]:
        raise EngineSetupError(f"{path} holds a result over the bound ({wrong[0]}); install Plumbline again")
    return results


def record_result(result: Result, path: Path = RESULTS) -> None:
    """Add ``result``, in the place of one for the same setup.

    Raises:
        EngineSetupError: it is over the bound: such a setup is wrong, and must not count as verified.
    """
    if not _exact(result):
        raise EngineSetupError(f"not recorded: {result} is off by {max(result.scores, result.logits):.3g} bounds")
    kept = [r for r in read_results(path) if not r.covers(result)]
    lines = sorted(msgspec.json.encode(r).decode() for r in (*kept, result))
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def untested(setup: Setup, results: Iterable[Result]) -> str:
    """What no result speaks for; empty if one does."""
    return "" if any(r.covers(setup) for r in results) else str(setup)


def _exact(result: Result) -> bool:
    return 0 <= result.scores <= 1 and 0 <= result.logits <= 1


def _parallel(parallel: Any) -> str:
    sizes = {
        "tp": parallel.tensor_parallel_size, "pp": parallel.pipeline_parallel_size, "dp": parallel.data_parallel_size,
    }  # fmt: skip
    return " ".join(f"{name}{size}" for name, size in sizes.items() if size > 1) or "single"
