"""Scores are found again only for the token that they were made for."""

from __future__ import annotations

import numpy as np

from monitor.engine.ledger import UNKNOWN
from monitor.engine.score_cache import FOREIGN, ScoreCache


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_a_slot_that_was_never_filled_is_unscored_and_a_filled_one_keeps_its_scores():
    cache = ScoreCache(n_blocks=3, block_size=4, n_columns=2)
    cache.scatter(ints(5, 6), np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32), ints(1, 2), ints(71, 72))
    got = cache.gather(ints(6, 5, 7), ints(2, 1, 3), ints(72, 71, 73))
    assert got[:2].tolist() == [[3.0, 4.0], [1.0, 2.0]]
    assert np.isnan(got[2]).all()


def test_a_slot_that_holds_another_token_or_another_position_is_unscored():
    cache = ScoreCache(n_blocks=1, block_size=4, n_columns=1)
    cache.scatter(ints(0, 1, 2), np.ones((3, 1), dtype=np.float32), ints(0, 1, 2), ints(70, 71, 72))
    assert np.isnan(cache.gather(ints(0, 1, 2), ints(0, 5, 2), ints(70, 71, 99))).flatten().tolist() == [
        False, True, True,
    ]  # fmt: skip


def test_a_generated_token_is_found_as_the_prompt_of_the_next_turn():
    cache = ScoreCache(n_blocks=1, block_size=4, n_columns=1)
    cache.scatter(ints(3), np.ones((1, 1), dtype=np.float32), ints(3), ints(UNKNOWN))
    assert cache.gather(ints(3), ints(3), ints(55)).tolist() == [[1.0]]


def test_copied_blocks_take_their_scores_along():
    cache = ScoreCache(n_blocks=3, block_size=2, n_columns=1)
    cache.scatter(ints(0, 1), np.array([[1.0], [2.0]], dtype=np.float32), ints(4, 5), ints(70, 71))
    cache.copy_blocks([(0, 2)])
    assert cache.gather(ints(4, 5), ints(4, 5), ints(70, 71)).flatten().tolist() == [1.0, 2.0]


def test_forgotten_slots_are_unscored():
    cache = ScoreCache(n_blocks=1, block_size=2, n_columns=1)
    cache.scatter(ints(0, 1), np.ones((2, 1), dtype=np.float32), ints(0, 1), ints(70, 71))
    cache.forget(ints(1))
    assert np.isnan(cache.gather(ints(0, 1), ints(0, 1), ints(70, 71))).flatten().tolist() == [False, True]


def test_infinities_are_no_scores_neither_kept_nor_reported():
    cache = ScoreCache(n_blocks=1, block_size=2, n_columns=2)
    rows = np.array([[1.0, np.inf], [-np.inf, 2.0]], dtype=np.float32)
    cache.scatter(ints(0, 1), rows, ints(0, 1), ints(70, 71))
    assert np.isnan(rows).tolist() == [[False, True], [True, False]]
    assert np.isnan(cache.gather(ints(0, 1), ints(0, 1), ints(70, 71))).tolist() == np.isnan(rows).tolist()


def test_what_an_adapter_may_have_changed_is_known_also_in_a_copy_and_after_a_failure():
    cache = ScoreCache(n_blocks=3, block_size=2, n_columns=1)
    cache.scatter(ints(0, 1), np.ones((2, 1), dtype=np.float32), ints(0, 1), ints(70, FOREIGN))
    assert [cache.foreign(ints(i)) for i in (0, 1)] == [False, True]
    cache.copy_blocks([(0, 2)])
    assert [cache.foreign(ints(i)) for i in (4, 5)] == [False, True]
    cache.forget(ints(4))
    assert cache.foreign(ints(4))
