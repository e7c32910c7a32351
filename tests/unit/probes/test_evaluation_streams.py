"""Time to detection and heat maps: the folded score as serving computes it, token by token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation_samples import MEAN, N_PROMPT, decode, probe_for, scored
from hypothesis import given, settings
from hypothesis import strategies as st

from probes import fold as folds
from probes.errors import ShapeError
from probes.train.evaluation.detection import detection_time, first_trip
from probes.train.evaluation.heat import MAX_TOKENS, heat_map, heat_maps
from probes.types import FoldKind, FoldSpec, Scope


def one_at_a_time(fold: FoldSpec, tokens: torch.Tensor, threshold: float, queries: torch.Tensor | None) -> int | None:
    """The index of the token that trips, as an engine would see it that feeds single tokens."""
    state = folds.init_state(fold, 1)
    for i in range(len(tokens)):
        query = None if queries is None else queries[None, i : i + 1]
        value, state = folds.update(fold, state, tokens[None, i : i + 1], query)
        if value.item() >= threshold:
            return i
    return None


@given(
    st.sampled_from(list(FoldKind)),
    st.lists(st.one_of(st.integers(-6, 6).map(float), st.just(float("nan"))), min_size=1, max_size=12),
    st.integers(1, 4),
    st.sampled_from([-0.3, 0.4, 1.7, 3.1]),
)
@settings(max_examples=50, deadline=None)
def test_the_first_trip_is_where_tokens_fed_one_at_a_time_trip(
    kind: FoldKind, values: list[float], least: int, threshold: float
) -> None:
    fold = FoldSpec(kind=kind, min_tokens=least)
    tokens = torch.tensor(values)
    queries = torch.linspace(-1, 1, len(values)) if kind is FoldKind.ATTENTION else None
    assert first_trip(fold, tokens, queries, threshold) == one_at_a_time(fold, tokens, threshold, queries)


def test_detection_counts_from_the_responses_first_token_over_positives_that_trip() -> None:
    sample, validation = scored(60, "test", seed=2), scored(240, "validation", seed=1)
    probe = probe_for(validation)
    found = detection_time(probe, sample)
    offsets = sample.offsets.tolist()
    trips = [
        one_at_a_time(MEAN, sample.token_scores[offsets[i] : offsets[i + 1]], probe.thresholds[0].value, None)
        for i in range(60)
        if i % 2
    ]
    tokens = [t + 1 for t in trips if t is not None]
    assert 0 < len(tokens) < 30
    assert (found.n_tripped, found.n_missed) == (len(tokens), 30 - len(tokens))
    assert (found.p10, found.p50, found.p90) == tuple(np.quantile(tokens, [0.1, 0.5, 0.9]))
    assert min(tokens) >= MEAN.min_tokens


def test_a_probe_of_prompt_and_response_counts_response_tokens_only_and_a_trip_in_the_prompt_as_none() -> None:
    probe = probe_for(scored(240, "validation"), fold=FoldSpec(kind=FoldKind.MAX), scope=Scope.ALL)
    sample = scored(10, "test", lengths=(6, 7))
    cut = probe.thresholds[0].value
    tokens = torch.full((10, 6), cut - 1)
    tokens[[1, 3, 5, 7], [0, 1, 2, 5]] = cut + 1  # positions of the four positives that trip
    whole = [replace(e, start=0, end=6, ids=e.ids[:6], n_prompt=2) for e in sample.encoded]
    found = detection_time(probe, replace(sample, encoded=tuple(whole), token_scores=tokens.flatten()))
    assert (found.n_tripped, found.n_missed) == (4, 1)
    assert (found.p10, found.p50, found.p90) == tuple(np.quantile([0, 0, 1, 4], [0.1, 0.5, 0.9]))


def test_without_a_trip_detection_has_no_quantiles() -> None:
    sample = scored(20, "test")
    silent = replace(sample, token_scores=sample.token_scores - 100)
    found = detection_time(probe_for(scored(240, "validation")), silent)
    assert (found.n_tripped, found.n_missed, found.p50) == (0, 10, None)


def test_a_prompt_probe_has_no_time_to_detection() -> None:
    sample = scored(240, "validation", scope=Scope.LAST_USER)
    assert detection_time(probe_for(sample, scope=Scope.LAST_USER), sample) is None


def test_an_attention_fold_without_queries_is_refused() -> None:
    probe = probe_for(scored(240, "validation")).model_copy(update={"fold": FoldSpec(kind=FoldKind.ATTENTION)})
    with pytest.raises(ShapeError, match="queries are missing"):
        detection_time(probe, scored(20, "test"))


def test_parts_of_different_lengths_are_refused() -> None:
    sample = scored(6, "test")
    with pytest.raises(ShapeError, match="6 examples came with 5 encoded"):
        replace(sample, encoded=sample.encoded[:5])
    with pytest.raises(ShapeError, match="token scores have shape"):
        replace(sample, token_scores=sample.token_scores[:-1])


def test_a_heat_map_shows_a_score_where_a_token_is_read_and_marks_the_trip() -> None:
    sample, probe = scored(60, "test", seed=2), probe_for(scored(240, "validation", seed=1))
    i = int(sample.statistic.argmax())
    found = heat_map(probe, sample, i, decode)
    own = sample.token_scores[sample.offsets[i] : sample.offsets[i + 1]]
    assert found.tokens == tuple(f"t{k}" for k in sample.encoded[i].ids)
    assert found.scores[:N_PROMPT] == (None,) * N_PROMPT
    assert found.scores[N_PROMPT:] == tuple(own.tolist())
    assert found.tripped_at == N_PROMPT + one_at_a_time(MEAN, own, found.threshold, None)


def test_a_prompt_trips_at_its_last_token() -> None:
    sample = scored(60, "test", scope=Scope.LAST_USER)
    probe = probe_for(scored(240, "validation", scope=Scope.LAST_USER), scope=Scope.LAST_USER)
    i = int(sample.statistic.argmax())
    assert heat_map(probe, sample, i, decode).tripped_at == len(sample.encoded[i].ids) - 1
    assert heat_map(probe, sample, int(sample.statistic.argmin()), decode).tripped_at is None


def test_of_a_long_conversation_the_tokens_around_the_trip_are_shown() -> None:
    sample = scored(2, "test", lengths=(1000, 1001), fold=FoldSpec(kind=FoldKind.MAX))
    scores = torch.zeros(2000)
    scores[1700] = 50.0
    long = replace(sample, token_scores=scores)
    probe = probe_for(scored(240, "validation", fold=FoldSpec(kind=FoldKind.MAX)), fold=FoldSpec(kind=FoldKind.MAX))
    found = heat_map(probe, long, 1, decode)
    assert len(found.tokens) == len(found.scores) == MAX_TOKENS
    assert found.scores[found.tripped_at] == 50.0
    assert found.tokens[found.tripped_at] == f"t{100 + N_PROMPT + 700}"


def test_heat_maps_show_the_surest_positives_and_the_worst_errors_and_nothing_unscored() -> None:
    sample, probe = scored(200, "test", seed=2), probe_for(scored(240, "validation", seed=1))
    cut = probe.thresholds[0].value
    maps = heat_maps(probe, sample, decode)
    statistic = {e.id: (s, e.label) for e, s in zip(sample.examples, sample.statistic, strict=True)}
    hits, false, missed = maps[:2], maps[2:4], maps[4:]
    positives = sorted((s for s, label in statistic.values() if label and not np.isnan(s)), reverse=True)
    assert [statistic[m.id][0] for m in hits] == positives[:2]
    assert all(statistic[m.id][1] == 0 and statistic[m.id][0] >= cut for m in false)
    assert [statistic[m.id][0] for m in missed] == positives[::-1][:2]
