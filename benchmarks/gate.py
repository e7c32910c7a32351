"""Does the gate trip where the offline fold does, with nothing released after? Writes results/gate.json.

    python -m benchmarks.gate

Plain vLLM answers 400 requests (streamed and whole, with ``min_tokens``, grammars, log probabilities); then an
instrumented engine answers them with rules of which half trip, spread over the prompt and response tokens 1 to 200.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from benchmarks.rows import Row, write_rows
from tests.support.engine import Engine, start_llm, stop_llm
from tests.support.reference import Reference
from tests.support.tiny import make_bundle, make_model
from tests.support.trips import ROOM, Outcome, answer_plainly, make_cases, run_gate
from tests.support.variants import give_json_words

N_TRIPS, SPARE = 200, 20


def main() -> None:
    """Run plain and instrumented engine, print and write the rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        model = give_json_words(make_model(path / "model"))
        bundle = make_bundle(path / "bundle", model)
        cases = make_cases(2 * N_TRIPS + SPARE, seed=31)
        os.environ["VLLM_PLUGINS"] = ""  # the plain engine loads none
        llm = start_llm(model, enforce_eager=True, **ROOM)
        del os.environ["VLLM_PLUGINS"]
        reference = Reference(model, bundle)
        cases = answer_plainly(llm, reference, cases)[: 2 * N_TRIPS]
        stop_llm(llm)
        engine = Engine(model, bundle, path, enforce_eager=True, **ROOM)
        outcome = run_gate(engine, reference, cases, N_TRIPS)
        engine.close()
    print(*outcome.problems, sep="\n")
    write_rows("gate", rows(outcome), "python -m benchmarks.gate")


def rows(outcome: Outcome) -> list[Row]:
    """The figures of one run."""

    def row(name: str, value: float, unit: str, goal: str, n: int) -> Row:
        return Row(name, value, unit, goal, value, value, n)

    n_trips = len(outcome.places)
    return [
        row("gate_trips_at_offline_position", outcome.n_right / n_trips, "share of the trips", "== 1", n_trips),
        row("tokens_after_trip", outcome.n_after, "tokens", "== 0", n_trips),
        row("withheld_logprobs", outcome.n_withheld, "log probabilities", "== 0", n_trips),
        row("controls_equal_plain", outcome.n_equal / outcome.n_controls, "share", "== 1", outcome.n_controls),
    ]


if __name__ == "__main__":
    main()
