"""How far are the engine's scores and steered logits from transformers'? Writes results/parity.json.

    python -m benchmarks.parity

A real vLLM engine (eager, then compiled) and a transformers model with hooks run the same 50 random prompts under four
steerings in mixed batches. The figure is the worst deviation as a share of the bound: for scores 1e-3 of the larger of
|score| and the column's standard deviation, for logits 1e-3 of their standard deviation. 1.0 or less is exact enough.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rows import Row, write_rows
from monitor.types import Operator, Steering
from tests.support.engine import Engine
from tests.support.reference import Reference
from tests.support.tiny import N_WORDS, make_bundle, make_model

N_PROMPTS = 50
STEERINGS = (
    (),
    (Steering("refusal", Operator.ADD, 1.0),),
    (Steering("refusal", Operator.ABLATE, 1.0),),
    (Steering("other", Operator.ADD, -0.5), Steering("refusal", Operator.ABLATE, 0.7)),
)


def measure(engine: Engine, reference: Reference) -> tuple[list[float], list[float]]:
    """Worst share of the bound for each prompt: scores, logits."""
    rng = np.random.default_rng(1)
    prompts = [rng.integers(7, N_WORDS, size=rng.integers(5, 90)).tolist() for _ in range(N_PROMPTS)]
    plans = [engine.plan(steering=STEERINGS[i % len(STEERINGS)]) for i in range(N_PROMPTS)]
    outputs, frames = engine.generate(prompts, plans, logprobs=-1)
    names = [p.name for p in engine.bundle.manifest.probes]
    scores, logits = [], []
    for prompt, plan, output in zip(prompts, plans, outputs, strict=True):
        choice: Any = output.outputs[0]
        wanted, wanted_logits = reference.run((prompt + list(choice.token_ids))[:-1], plan.steering)
        got, truth = frames[plan.request_id, 0].matrix(names), wanted.numpy()
        bound = 1e-3 * np.maximum(np.abs(truth), truth.std(0))
        scores.append(float((np.abs(got - truth) / bound).max()))
        rows = zip(choice.logprobs, wanted_logits[len(prompt) - 1 :], strict=True)
        logits.append(max(_logit_share(entry, row) for entry, row in rows))
    return scores, logits


def _logit_share(entry: Any, row: torch.Tensor) -> float:
    got = torch.tensor([entry[i].logprob for i in range(N_WORDS)])
    return float((got - row).abs().max() / (1e-3 * row.std()))


def main() -> None:
    """Measure both modes, print and write the rows."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        model = make_model(path / "model")
        bundle = make_bundle(path / "bundle", model)
        reference = Reference(model, bundle)
        for mode in ("eager", "compiled"):
            (path / mode).mkdir()
            engine = Engine(model, bundle, path / mode, enforce_eager=mode == "eager")
            for what, shares in zip(("score", "logit"), measure(engine, reference), strict=True):
                name = f"{what}_parity_{mode}"
                rows.append(Row(name, max(shares), "share of the bound", "<= 1", min(shares), max(shares), N_PROMPTS))
            engine.close()
    write_rows("parity", rows, "python -m benchmarks.parity")


if __name__ == "__main__":
    main()
