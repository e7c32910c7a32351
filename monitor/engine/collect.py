"""Collect activations through vLLM: a written job in, shards out.

    python -m monitor.engine.collect --model DIR --job JOB --out FOLDER

The engine runs in this process, so that the streams of a step are read where they lie. Every sequence is a prompt whose
one sampled token is thrown away. fp32, no prefix cache (a cached token is not run, so it has no activation), eager: a
prompt is compute-bound, and there is no compiling to wait for.

Standard output has one JSON object a line: ``{"tokens": n}`` after n more tokens, or ``{"error": ..., "kind": ...}``.

Runs in: a process of its own, started by ``plumbline train``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from monitor.errors import EngineSetupError
from probes.activations.job import Chunk, Job, read_job
from probes.activations.shards import ChunkBuffer, Piece, ShardWriter, find_rows
from probes.errors import DataError, PlumblineError

_STREAM_BYTES = 256 * 2**20
_FEWEST, _MOST = 256, 4096
"""Tokens of a step."""
_AHEAD = 4
"""Steps for which sequences wait in the engine; more would only hold more chunks open."""
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # room for the sampled token behind the longest prompt; it is never run
    "PLUMBLINE_BUNDLE": "",  # the plugin stays inert
}
_DEFAULTS = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_CPU_KVCACHE_SPACE": "4"}

Say = Callable[[int], None]


class Collector:
    """Puts the streams of each step into the chunks' buffers, and writes a chunk when its last row is there."""

    def __init__(self, job: Job, writer: ShardWriter) -> None:
        self._job, self._writer = job, writer
        self._chunk_of = {i: chunk for chunk in writer.missing for i in chunk.sequences}
        self._open: dict[Chunk, ChunkBuffer] = {}
        self._written: set[Chunk] = set()

    def take(self, pieces: Sequence[Piece], streams: Any) -> None:
        """Keep what is wanted of one step; what a preempted sequence brings a second time changes nothing."""
        by_chunk: dict[Chunk, list[Piece]] = {}
        for piece in pieces:
            by_chunk.setdefault(self._chunk_of[piece[0]], []).append(piece)
        for chunk, own in by_chunk.items():
            sources, targets = find_rows(self._job, own)
            if not len(targets) or chunk in self._written:
                continue
            buffer = self._open.get(chunk) or ChunkBuffer(self._job, chunk)
            self._open[chunk] = buffer
            for layer, stream in streams.items():
                buffer.put(layer, targets, stream[sources.to(stream.device)])
            buffer.mark(targets)
            if buffer.complete:
                self._writer.write(self._open.pop(chunk))
                self._written.add(chunk)


def start_engine(model: Path, layers: Sequence[int], d_model: int, longest: int) -> Any:
    """Start an offline ``LLM`` whose worker hands out streams.

    Args:
        model: Hugging Face folder. layers: 0-based blocks. d_model: width of the stream.
        longest: tokens of the longest sequence.

    Raises:
        EngineSetupError: this engine cannot give exact activations.
    """
    os.environ.update(_ENVIRONMENT)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    from vllm import LLM  # noqa: PLC0415  # it reads the environment while it is imported
    from vllm.platforms import current_platform  # noqa: PLC0415

    from monitor.engine.collect_worker import LAYERS  # noqa: PLC0415

    step = min(_MOST, max(_FEWEST, _STREAM_BYTES // (len(layers) * d_model * 4)))
    platform = "CPU" if current_platform.is_cpu() else "GPU"
    return LLM(
        str(model), dtype="float32", max_model_len=longest + 1, max_num_seqs=_FEWEST, max_num_batched_tokens=step,
        enforce_eager=True, enable_prefix_caching=False, enable_chunked_prefill=True, async_scheduling=False,
        worker_cls=f"monitor.engine.collect_worker.Collecting{platform}Worker",
        additional_config={LAYERS: list(layers)}, skip_tokenizer_init=True, use_tqdm_on_load=False, seed=0,
    )  # fmt: skip


def run_job(llm: Any, job: Job, folder: Path, say: Say) -> None:
    """Run what is missing of a job.

    Args:
        llm: of :func:`start_engine`. job: of the same layers. folder: for the shards.
        say: told how many tokens were run.

    Raises:
        DataError: an activation is not finite, or the folder holds another job.
        EngineSetupError: the engine did not run every token.
        OSError: the disk is full.
    """
    writer = ShardWriter(folder, job)
    for chunk in (c for c in writer.missing if not c.rows):
        writer.write(ChunkBuffer(job, chunk))
    llm.collective_rpc("collect_into", args=(Collector(job, writer).take,))
    for i in _finished(llm, job, [i for c in writer.missing for i in c.sequences]):
        say(len(job.sequences[i].ids))
    llm.collective_rpc("collect_into", args=(None,))
    if left := ShardWriter(folder, job).missing:
        raise EngineSetupError(
            f"vLLM ended every request, yet {len(left)} of {len(job.chunks)} chunks lack rows: it did not run every "
            "token. Collect through transformers."
        )


def _finished(llm: Any, job: Job, wanted: Sequence[int]) -> Iterator[int]:
    """Run sequences, and yield each one when it is done."""
    from vllm import SamplingParams  # noqa: PLC0415  # as above

    from monitor.engine.collect_worker import SEQUENCE  # noqa: PLC0415

    engine = llm.llm_engine
    limit = _AHEAD * engine.vllm_config.scheduler_config.max_num_batched_tokens
    waiting, in_flight = iter(wanted), 0
    while True:
        while in_flight < limit and (i := next(waiting, None)) is not None:
            if not job.sequences[i].keep:
                yield i
                continue
            ids = list(job.sequences[i].ids)
            params = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False, extra_args={SEQUENCE: i})
            engine.add_request(str(i), {"prompt_token_ids": ids}, params)
            in_flight += len(ids)
        if not in_flight:
            return
        for output in engine.step():
            i = int(output.request_id)
            in_flight -= len(job.sequences[i].ids)
            yield i


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one job; the exit status says whether it is done."""
    parser = argparse.ArgumentParser(prog="python -m monitor.engine.collect", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder")
    parser.add_argument("--job", type=Path, required=True, help="JSONL, see probes/activations/job.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    options = parser.parse_args(arguments)
    tell = _own_stdout()
    try:
        job = read_job(options.job)
        longest = max(len(s.ids) for s in job.sequences)
        llm = start_engine(options.model, job.layers, job.d_model, longest)
        run_job(llm, job, options.out, lambda n: tell({"tokens": n}))
        llm.llm_engine.engine_core.shutdown()
    except (PlumblineError, OSError) as error:
        kind = next((k.__name__ for k in (OSError, DataError) if isinstance(error, k)), "PlumblineError")
        tell({"error": str(error), "kind": kind})
        return 1
    return 0


def _own_stdout() -> Callable[[object], None]:
    """Standard output for ourselves alone: whatever else writes to it goes to standard error from now on."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return lambda message: print(json.dumps(message), file=channel)


if __name__ == "__main__":
    sys.exit(main())
