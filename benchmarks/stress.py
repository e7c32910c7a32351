"""Are scores complete and one's own while hundreds of requests come, go and are preempted? Writes results/stress.json.

    python -m benchmarks.stress

One engine with a KV cache that is too small for its batch; requests arrive over the steps, share prefixes, have ten
different steerings or none, several choices, and a part of them is given up on the way. Every reported score is
compared with transformers.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.rows import Row, write_rows
from tests.support.engine import Engine
from tests.support.load import CRAMPED
from tests.support.reference import Reference
from tests.support.stress import Stress, run_stress
from tests.support.tiny import make_bundle, make_model

N_REQUESTS = 520


def main() -> None:
    """Run the requests, print and write the rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        model = make_model(path / "model")
        bundle = make_bundle(path / "bundle", model)
        engine = Engine(model, bundle, path, **CRAMPED)
        result = run_stress(engine, Reference(model, bundle), N_REQUESTS, seed=1)
        engine.close()
    write_rows("stress", rows(result), "python -m benchmarks.stress")


def rows(result: Stress) -> list[Row]:
    """The figures of one run."""

    def row(name: str, value: float, unit: str, goal: str, n: int) -> Row:
        return Row(f"stress_{name}", value, unit, goal, value, value, n)

    return [
        row("requests", result.n_requests, "requests", ">= 500", 1),
        row("tokens_missing", result.n_missing, "tokens", "== 0", result.n_tokens),
        row("tokens_misattributed", result.n_misattributed, "tokens", "== 0", result.n_tokens),
        row("worst_share", result.worst_share, "share of the bound", "<= 1", result.n_tokens),
        row("preemptions", result.n_preemptions, "preemptions", ">= 1", result.n_requests),
    ]


if __name__ == "__main__":
    main()
