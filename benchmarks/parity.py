"""How far are the engine's scores and steered logits from transformers'? Writes results/parity.json.

    python -m benchmarks.parity

A real vLLM engine (eager, then compiled) and a transformers model with hooks run the same 50 random prompts under five
steerings in mixed batches. The figure is the worst deviation as a share of the bound: for scores 1e-3 of the larger of
|score| and the column's standard deviation, for logits 1e-3 of their standard deviation. 1.0 or less is exact enough.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.rows import Row, write_rows
from tests.support.engine import Engine
from tests.support.parity import measure, random_prompts
from tests.support.reference import Reference
from tests.support.tiny import make_bundle, make_model

N_PROMPTS = 50


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
            shares = measure(engine, reference, random_prompts(N_PROMPTS, seed=1))
            for what, column in zip(("score", "logit"), zip(*shares, strict=True), strict=True):
                name = f"{what}_parity_{mode}"
                rows.append(Row(name, max(column), "share of the bound", "<= 1", min(column), max(column), N_PROMPTS))
            engine.close()
    write_rows("parity", rows, "python -m benchmarks.parity")


if __name__ == "__main__":
    main()
