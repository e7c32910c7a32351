"""Scored examples without a model: token scores drawn around the label, real folds, real calibration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from probes.cards import Candidate, Estimate
from probes.train.calibrate import calibrate, reference_histogram, set_thresholds
from probes.train.data import Example, Message
from probes.train.encode import Encoded
from probes.train.evaluation.inputs import Judged, Scored
from probes.train.statistic import statistics
from probes.types import Calibration, FoldKind, FoldSpec, Probe, Scope

N_PROMPT = 4
MEAN = FoldSpec(kind=FoldKind.MEAN, min_tokens=3)


def conversation(i: int, label: int, split: str, n_tokens: int, phase: str) -> Example:
    """Its words say nothing of the label: a running number, and as many words as tokens."""
    text = " ".join(f"w{(i * 7 + k) % 31}" for k in range(n_tokens))
    messages = [Message(role="user", content=text if phase == "prompt" else f"question {i % 13}")]
    if phase == "response":
        messages.append(Message(role="assistant", content=text))
    return Example(
        id=f"{split}-{i}", concept="lying", messages=tuple(messages), label=label, split=split,
        source=f"source{i % 2}", family=f"family{i % 5}",
    )  # fmt: skip


def encoded(example: Example, n_tokens: int, scope: Scope) -> Encoded:
    ids = tuple(range(100, 100 + N_PROMPT + n_tokens))
    end, label = len(ids), example.label
    return Encoded(ids, scope, N_PROMPT, end, label, (label,) * n_tokens, (1.0,) * n_tokens, N_PROMPT)


def scored(
    n: int, split: str, *, effect: float = 1.5, seed: int = 0, fold: FoldSpec = MEAN, scope: Scope = Scope.RESPONSE,
    lengths: tuple[int, int] = (3, 20),
) -> Scored:  # fmt: skip
    """``n`` examples, every second one positive, whose token scores are ``effect`` higher."""
    rng = np.random.default_rng([seed, n])
    counts = rng.integers(*lengths, size=n)
    examples = tuple(conversation(i, i % 2, split, int(counts[i]), scope.phase) for i in range(n))
    offsets = torch.from_numpy(np.append(0, counts.cumsum()))
    shift = np.repeat(np.arange(n) % 2, counts) * effect
    scores = torch.from_numpy((rng.normal(size=counts.sum()) + shift).astype(np.float32))
    return Scored(
        examples=examples,
        encoded=tuple(encoded(e, int(k), scope) for e, k in zip(examples, counts, strict=True)),
        token_scores=scores,
        offsets=offsets,
        statistic=statistics(scores, offsets, fold, scope),
    )


def probe_for(validation: Scored, fold: FoldSpec = MEAN, scope: Scope = Scope.RESPONSE) -> Probe:
    """Thresholds and calibration from the validation split, as training sets them."""
    labels = validation.labels
    kept = ~np.isnan(validation.statistic)
    negatives = validation.statistic[kept & (labels == 0)]
    probe = Probe(
        name="lying", concept="lying", layer=1, bias=0.0, fold=fold, scope=scope,
        thresholds=set_thresholds(negatives, (0.05, 0.1), "validation"),
        calibration=Calibration(slope=1.0, intercept=0.0),
        reference=reference_histogram(negatives),
    )  # fmt: skip
    return probe.model_copy(update={"calibration": calibrate(validation.reported(probe)[kept], labels[kept])})


def judged(n: int = 240, **options: object) -> Judged:
    """Everything a card needs; the controls draw noise."""
    validation, test = scored(n, "validation", seed=1, **options), scored(n, "test", seed=2, **options)
    noise = np.random.default_rng(3)
    candidate = Candidate(
        layer=1, estimator="logistic", reading="response/mean/tokens", auroc=Estimate(value=0.9, low=0.8, high=1.0),
        tpr=0.5, chosen=True,
    )  # fmt: skip
    return Judged(
        probe=probe_for(validation, options.get("fold", MEAN), options.get("scope", Scope.RESPONSE)),
        candidates=(candidate,),
        train=scored(n, "train").examples,
        validation=validation,
        test=test,
        conditions={"ablated": test.statistic + 0.1},
        seeds=tuple(test.statistic + noise.normal(size=n) * 0.01 for _ in range(5)),
        shifts={"long_context": scored(40, "test", seed=5, lengths=(60, 90))},
        refit=lambda labels: noise.normal(size=n) + 0 * labels.sum(),
        random=lambda rng: both_signs(rng.normal(size=n)),
        untrained=noise.normal(size=n),
        decode=decode,
        seed=0,
    )


def both_signs(statistic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a direction and of its opposite, read at one token."""
    return statistic, -statistic


def decode(ids: Sequence[int]) -> list[str]:
    return [f"t{i}" for i in ids]
