"""Collect through vLLM: a process of its own does a written job, because the engine is another room of the house.

The process writes the shards, and says on its standard output how many tokens it has run since it last said so, one
JSON object a line; the last line may be an error. What vLLM logs goes into a file beside the shards.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from probes.activations.job import Job
from probes.errors import DataError, ModelFormatError

JOB, LOG = "job.jsonl", "vllm.log"
_LAST = 2000
"""Characters of the log that an error quotes."""


def collect_through_vllm(model: Path, job: Job, folder: Path, advance: Callable[[int], None]) -> None:
    """Run the chunks of ``job`` that are missing in ``folder``.

    Args:
        model: Hugging Face folder.
        job: what to collect.
        folder: for the shards, the job and the log.
        advance: told how many tokens were run.

    Raises:
        DataError: an activation is not finite.
        OSError: the disk is full.
        ModelFormatError: vLLM cannot run the model here; the message ends as the log does.
    """
    job.write(folder / JOB)
    command = [sys.executable, "-m", "monitor.engine.collect", "--model", str(model)]
    command += ["--job", str(folder / JOB), "--out", str(folder)]
    failure: tuple[str, str] | None = None
    with (folder / LOG).open("w") as log, subprocess.Popen(  # noqa: S603  # our own module
        command, stdout=subprocess.PIPE, stderr=log, text=True
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            for line in process.stdout:
                said = json.loads(line)
                if "error" in said:
                    failure = said["kind"], said["error"]
                else:
                    advance(said["tokens"])
        except BaseException:
            process.terminate()  # whole shards stay, and the next run goes on
            raise
    if failure is not None:
        kind, message = failure
        raise {"OSError": OSError, "DataError": DataError}.get(kind, ModelFormatError)(message)
    if process.returncode:
        end = (folder / LOG).read_text(errors="replace")[-_LAST:]
        raise ModelFormatError(
            f"vLLM cannot collect from {model} (exit status {process.returncode}). Collect through transformers, or "
            f"mend what {folder / LOG} ends with:\n{end}"
        )
