"""Two hundred rules trip where they trip offline, nothing comes after, and two hundred others change nothing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from tests.support.engine import start_llm, stop_llm
from tests.support.start import start
from tests.support.trips import ROOM, Case, answer_plainly, make_cases, run_gate

pytestmark = [pytest.mark.vllm, pytest.mark.full, pytest.mark.timeout(3600)]
N_TRIPS, SPARE = 200, 20


@pytest.fixture(scope="module")
def cases(model, reference) -> list[Case]:
    """Four hundred requests and what vLLM answers that has no plugin loaded."""
    found = make_cases(2 * N_TRIPS + SPARE, seed=31)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vLLM and its dependencies warn while they are imported
        patch.setenv("VLLM_PLUGINS", "")
        llm = start_llm(model, enforce_eager=True, **ROOM)
    answered = answer_plainly(llm, reference, found)
    stop_llm(llm)
    assert len(answered) >= 2 * N_TRIPS
    return answered[: 2 * N_TRIPS]


@pytest.fixture(scope="module", params=["eager", "compiled"])
def engine(request, cases, model, bundle, tmp_path_factory) -> Iterator[object]:
    scratch = tmp_path_factory.mktemp(request.param)
    running = start(model, bundle, scratch, enforce_eager=request.param == "eager", **ROOM)
    yield running
    running.close()


def test_rules_trip_where_they_trip_offline_and_release_nothing_after(engine, reference, cases):
    outcome = run_gate(engine, reference, cases, N_TRIPS)
    assert outcome.problems == ()
    assert (outcome.n_right, outcome.n_after, outcome.n_withheld) == (N_TRIPS, 0, 0)
    assert (outcome.n_controls, outcome.n_equal) == (N_TRIPS, N_TRIPS)
    assert outcome.n_observed_equal == len(cases)
    # The trips were where they should be: some on the prompt, and on every stretch of the response.
    counts, _ = np.histogram(outcome.places, bins=[-1, 0, 20, 40, 60, 80, 100, 120, 140, 160, 180, 201])
    assert counts.min() >= 10
