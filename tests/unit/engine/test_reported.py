"""The scores by which training calibrates are those that the engine's frames, and then the verdicts, report."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monitor.engine.gate import Gate
from monitor.engine.instrument import QUERY
from monitor.engine.request import follow
from monitor.frames import DetectorState, RequestScores
from monitor.policy.plan import DetectorPlan, GatePlan
from monitor.session.state import Session
from monitor.session.verdict import Ending, build_verdict
from monitor.types import Action
from probes.train.calibrate import calibrate
from probes.train.statistic import reported, statistics
from probes.types import FoldKind, FoldSpec, Manifest, ModelInfo, RoleMarkers, Scope
from tests.support.tiny import FINGERPRINT, make_probe

PROMPT = (1, 2, 3)
N_RESPONSES, LONGEST = 40, 12
THRESHOLD = 0.5
MODEL = ModelInfo(name="t", architecture="t", n_layers=1, d_model=8, fingerprint=FINGERPRINT, markers=RoleMarkers())


def served(manifest: Manifest, scores: np.ndarray, queries: np.ndarray) -> tuple[float | None, float | None]:
    """Score and probability of the verdict on a response whose tokens have these scores, ``(n_tokens,)`` each."""
    probe = manifest.probes[0]
    columns = (probe.name, *([probe.name + QUERY] if probe.fold.kind is FoldKind.ATTENTION else []))
    gate = Gate(manifest, columns, 1)
    rule = DetectorPlan("rule", probe.name, THRESHOLD, Action.FLAG)
    plan = GatePlan("id", "p", "1", "b", 0.0, enforce=True, hold=False, n=1, detectors=(rule,))
    request = follow(plan, plan.digest, 0, len(PROMPT), 0, gate.probes)
    gate.open(request, PROMPT)
    rows = np.stack([scores, queries], axis=1)[:, : len(columns)]
    rows = np.concatenate([np.full((len(PROMPT), len(columns)), 9.0), rows]).astype(np.float32)
    zero = np.zeros(1, dtype=np.int64)
    for position, row in enumerate(rows):
        gate.fold(zero, np.array([position]), row[None], {0: request}, zero)
    folded, detector = float(gate.folded[0, 0]), request.detectors[0]
    state = DetectorState(
        "rule", None if np.isnan(folded) else folded, detector.trip_position, detector.trip_score
    )  # fmt: skip
    session = Session(plan, keep_scores=False)
    n = len(rows)
    session.choices[0].apply(
        RequestScores("id", 0, plan.digest, len(PROMPT), n, b"", n, n, (state,)), 1, gapped=False, keep=False
    )
    (detection,) = build_verdict(session, 0, Ending(), manifest).detections
    return detection.score, detection.probability


@pytest.mark.parametrize("kind", FoldKind)
def test_a_verdict_reports_the_score_that_the_calibration_was_fitted_on(kind: FoldKind) -> None:
    rng = np.random.default_rng(0)
    fold = FoldSpec(kind=kind, min_tokens=2, window=3)
    lengths = rng.integers(1, LONGEST, N_RESPONSES)
    offsets = torch.from_numpy(np.append(0, lengths.cumsum()))
    scores, queries = (torch.from_numpy(rng.normal(size=lengths.sum()).astype(np.float32)) for _ in range(2))
    asked = queries if kind is FoldKind.ATTENTION else None
    offline = reported(scores, offsets, fold, Scope.RESPONSE, THRESHOLD, asked)
    known = ~np.isnan(offline)
    labels = np.arange(N_RESPONSES) % 2
    calibration = calibrate(offline[known], labels[known])
    probe = make_probe("p", 0, fold, Scope.RESPONSE, 0.0).model_copy(update={"calibration": calibration})
    manifest = Manifest(name="t", version="1", created="", probes=(probe,), directions=(), model=MODEL)
    for i in range(N_RESPONSES):
        own = slice(int(offsets[i]), int(offsets[i + 1]))
        score, probability = served(manifest, scores[own].numpy(), queries[own].numpy())
        if not known[i]:
            assert (score, probability) == (None, None)
        else:
            assert score == pytest.approx(offline[i], rel=1e-9)
            assert probability == pytest.approx(calibration.probability(offline[i]))
    highest = statistics(scores, offsets, fold, Scope.RESPONSE, asked)
    assert (offline[known] <= highest[known] + 1e-12).all()
    assert (offline[known] < highest[known]).any(), "the two numbers are not the same"
    np.testing.assert_array_equal((offline >= THRESHOLD)[known], (highest >= THRESHOLD)[known])


def test_a_prompt_reports_the_folded_score_at_its_end_which_is_what_trips() -> None:
    scores, offsets = torch.tensor([3.0, -1.0, 0.2, 5.0, 1.0]), torch.tensor([0, 3, 5])
    fold = FoldSpec(kind=FoldKind.LAST)
    found = reported(scores, offsets, fold, Scope.LAST_USER, 0.0)
    np.testing.assert_array_equal(found, statistics(scores, offsets, fold, Scope.LAST_USER))
    np.testing.assert_allclose(found, [0.2, 1.0], rtol=1e-6)
