"""Rows, positions and KV slots follow from what the scheduler says, whatever the order of the batch."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from monitor.engine.ledger import Ledger
from monitor.engine.row_kernel import UNKNOWN


def new(request_id: str, prompt: list[int], blocks: list[int], computed: int = 0, adapter: object = None):
    return SimpleNamespace(
        req_id=request_id, prompt_token_ids=prompt, block_ids=(blocks,), num_computed_tokens=computed,
        sampling_params=SimpleNamespace(extra_args={"of": request_id}), lora_request=adapter,
    )  # fmt: skip


def output(counts: dict[str, int], fresh=(), cached=(), resumed=(), copies=()):
    """A scheduler's output; ``cached`` are ``(request id, new blocks or None, computed tokens)``."""
    return SimpleNamespace(
        scheduled_new_reqs=list(fresh), num_scheduled_tokens=counts, kv_cache_block_copies=list(copies),
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=[c[0] for c in cached], new_block_ids=[None if c[1] is None else (c[1],) for c in cached],
            num_computed_tokens=[c[2] for c in cached], resumed_req_ids=set(resumed),
        ),
    )  # fmt: skip


def ledger(capacity: int = 2) -> Ledger:
    return Ledger(capacity, max_blocks=4, block_size=4)


def test_chunks_of_a_prompt_and_decode_rows_have_their_positions_slots_and_tokens():
    book = ledger()
    opened = book.schedule(output({"a": 3, "b": 2}, [new("a", [10, 11, 12, 13, 14], [7, 2]), new("b", [20, 21], [5])]))
    assert [(o.request_id, list(o.prompt), o.extra_args) for o in opened] == [
        ("a", [10, 11, 12, 13, 14], {"of": "a"}), ("b", [20, 21], {"of": "b"}),
    ]  # fmt: skip
    first = book.rows(["b", "a"])
    assert first.starts.tolist() == [0, 2, 5]
    assert first.row_positions.tolist() == [0, 1, 0, 1, 2]
    assert first.kv_slots.tolist() == [20, 21, 28, 29, 30]
    assert first.tokens.tolist() == [20, 21, 10, 11, 12]
    book.schedule(output({"a": 2, "b": 1}, cached=[("a", None, 3), ("b", None, 2)]))
    second = book.rows(["a", "b"])
    assert second.row_positions.tolist() == [3, 4, 2]
    assert second.kv_slots.tolist() == [31, 8, 22]
    assert second.tokens.tolist() == [13, 14, UNKNOWN]
    assert book.scheduled[second.slots].tolist() == [5, 3]
    book.schedule(output({"a": 1, "b": 1}, cached=[("a", None, 5), ("b", None, 3)]))
    assert book.rows(["a", "b"]).tokens.tolist() == [UNKNOWN, UNKNOWN]


def test_new_blocks_are_appended_and_those_of_a_resumed_request_replace_the_old():
    book = ledger()
    book.schedule(output({"a": 4}, [new("a", [1] * 4, [3])]))
    book.schedule(output({"a": 1}, cached=[("a", [1], 4)]))
    assert book.rows(["a"]).kv_slots.tolist() == [4]
    book.schedule(output({"a": 5}, cached=[("a", [6, 2], 0)], resumed=["a"]))
    assert book.rows(["a"]).kv_slots.tolist() == [24, 25, 26, 27, 8]


def test_a_request_that_v2_calls_new_again_after_a_preemption_keeps_its_slot():
    book = ledger()
    slot = book.schedule(output({"a": 4}, [new("a", [1] * 4, [3])]))[0].slot
    assert book.schedule(output({"a": 2}, [new("a", [1] * 4, [9, 8], computed=4)])) == []
    rows = book.rows(["a"])
    assert rows.slots.tolist() == [slot]
    assert rows.row_positions.tolist() == [4, 5]
    assert rows.kv_slots.tolist() == [32, 33]


def test_a_slot_is_given_away_only_after_it_was_released():
    book = ledger(capacity=1)
    book.schedule(output({"a": 1}, [new("a", [1], [0])]))
    slot = book.close("a")
    other = book.schedule(output({"b": 1}, [new("b", [1], [1])]))[0].slot
    assert slot is not None
    assert other != slot
    book.release(slot)
    assert book.schedule(output({"c": 1}, [new("c", [1], [2])]))[0].slot == slot
    assert book.close("never heard of") is None


def test_more_requests_and_longer_ones_than_expected_find_room():
    book = ledger(capacity=1)
    fresh = [new(f"r{i}", [1] * 8, [10 * i + j for j in range(6)]) for i in range(5)]
    book.schedule(output({f"r{i}": 24 for i in range(5)}, fresh))
    rows = book.rows([f"r{i}" for i in range(5)])
    assert len(set(rows.slots.tolist())) == 5
    wanted = [(10 * i + p // 4) * 4 + p % 4 for i in range(5) for p in range(24)]
    assert rows.kv_slots.tolist() == wanted


def test_a_request_with_an_adapter_says_so_and_copies_are_handed_on():
    book = ledger()
    opened = book.schedule(output({"a": 1}, [new("a", [1], [0], adapter=object())], copies=[(np.int32(1), 2)]))
    assert opened[0].unscored == "adapter"
    assert book.rows(["a"]).copies == ((1, 2),)


def test_a_position_without_a_kv_block_is_an_error_and_not_somebody_elses_slot():
    book = ledger()
    book.schedule(output({"a": 17}, [new("a", list(range(17)), [0, 1, 2, 3])]))
    with pytest.raises(IndexError, match="KV blocks"):
        book.rows(["a"])
