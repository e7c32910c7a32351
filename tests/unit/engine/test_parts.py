"""The score cache, the steering table, the settings and the publisher, each on its own."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
import zmq

from monitor.engine.publish import FramePublisher
from monitor.engine.score_cache import ScoreCache
from monitor.engine.settings import EngineSettings
from monitor.engine.steer import SteeringTable
from monitor.errors import ConfigError, PlanError
from monitor.frames import Hello, ScoreFrame, decode_frame
from monitor.types import Operator, Steering
from tests.support.tiny import random_bundle

CPU = torch.device("cpu")


def test_a_slot_that_was_never_filled_is_unscored_and_a_filled_one_keeps_its_scores():
    cache = ScoreCache(n_blocks=3, block_size=4, n_columns=2, device=CPU)
    cache.scatter(np.array([5, 6]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    got = cache.gather(np.array([6, 5, 7]))
    assert got[:2].tolist() == [[3.0, 4.0], [1.0, 2.0]]
    assert torch.isnan(got[2]).all()


def test_copied_blocks_take_their_scores_along():
    cache = ScoreCache(n_blocks=3, block_size=2, n_columns=1, device=CPU)
    cache.scatter(np.array([0, 1]), torch.tensor([[1.0], [2.0]]))
    cache.copy_blocks([(0, 2)])
    assert cache.gather(np.array([4, 5])).flatten().tolist() == [1.0, 2.0]


@pytest.fixture
def table(tmp_path: Path) -> SteeringTable:
    bundle = random_bundle(tmp_path / "b", d_model=8, n_layers=4)
    return SteeringTable(bundle, max_tokens=16, device=CPU)


def steering(strength: float, operator: Operator = Operator.ADD) -> tuple[Steering, ...]:
    return (Steering("refusal", operator, strength),)


def test_equal_steerings_share_an_entry_and_different_ones_do_not(table):
    assert table.entry(()) == 0
    first, second, third = (table.entry(steering(s)) for s in (1.0, 2.0, 1.0))
    assert first == third != second
    assert 0 not in (first, second)


def test_what_a_step_uses_is_never_evicted_however_many_steerings_came_before(table):
    for step in range(20):
        keys = [steering(100.0 * step + i) for i in range(16)]  # each token its own
        assert len({table.entry(key) for key in keys}) == 16
        assert [table.entry(key) for key in keys] == [table.entry(key) for key in keys]


def test_an_entry_holds_the_strengths_of_its_steering_and_no_other(table):
    both = (*steering(0.5), *steering(0.25), Steering("other", Operator.ABLATE, 1.0), *steering(0.5, Operator.ABLATE))
    entry = table.entry(both)
    assert table._adds[entry].tolist() == [0.75, 0.0]
    assert table._ablates[entry].tolist() == [0.5, 1.0]
    for other in range(30):
        reused = table.entry(steering(1.0 + other))
        assert table._adds[reused].tolist() == [1.0 + other, 0.0]
        assert table._ablates[reused].tolist() == [0.0, 0.0]


def test_an_unknown_direction_is_refused(table):
    with pytest.raises(PlanError, match="refusal"):
        table.entry((Steering("nowhere", Operator.ADD),))


def test_rows_beyond_the_step_are_unsteered(table):
    table.set_rows(torch.tensor([1, 2, 3]))
    table.set_rows(torch.tensor([2]))
    assert table.entries.tolist() == [2, *[0] * 15]


def test_an_operator_that_no_row_needs_is_skipped(table):
    add, ablate = table.entry(steering(1.0)), table.entry(steering(1.0, Operator.ABLATE))
    for rows, wanted in (([0, 0], (False, False)), ([add, 0], (True, False)), ([0, ablate], (False, True))):
        table.set_rows(torch.tensor(rows))
        assert (bool(table.adding), bool(table.ablating)) == wanted


GOOD = {"PLUMBLINE_BUNDLE": "b", "PLUMBLINE_FRAMES": "ipc://x", "PLUMBLINE_PLAN_KEY": "ab" * 32}


def test_the_plugin_is_inert_without_a_bundle_and_complete_with_one():
    assert EngineSettings.from_env({}) is None
    assert EngineSettings.from_env(GOOD).plan_key == bytes.fromhex("ab" * 32)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"PLUMBLINE_FRAMES": ""}, "PLUMBLINE_FRAMES"),
        ({"PLUMBLINE_PLAN_KEY": ""}, "PLUMBLINE_PLAN_KEY"),
        ({"PLUMBLINE_PLAN_KEY": "xyz"}, "hexadecimal"),
        ({"PLUMBLINE_PLAN_KEY": "abcd"}, "16"),
    ],
)
def test_half_a_configuration_is_refused_and_the_key_is_never_shown(change, says):
    with pytest.raises(ConfigError, match=says) as caught:
        EngineSettings.from_env(GOOD | change)
    assert "xyz" not in str(caught.value)


def publisher(tmp_path: Path) -> tuple[FramePublisher, str]:
    endpoint = f"ipc://{tmp_path}/frames"
    return FramePublisher(endpoint, "digest", ("a",), "0.32.0"), endpoint


def test_frames_are_numbered_without_a_gap_and_hello_repeats(tmp_path: Path):
    publisher_, endpoint = publisher(tmp_path)
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(endpoint)
        publisher_.start("alive")
        assert isinstance(decode_frame(socket.recv()), Hello)
        for _ in range(100):
            publisher_.publish(())
        frames = [decode_frame(socket.recv()) for _ in range(100)]
        numbers = [f.sequence for f in frames if isinstance(f, ScoreFrame)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert socket.poll(3000), "a heartbeat comes without any step"
    publisher_.close()


def test_a_full_queue_drops_and_counts_and_never_blocks(tmp_path: Path):
    publisher_, endpoint = publisher(tmp_path)  # not started: nobody takes frames off the queue
    began = time.monotonic()
    for _ in range(5000):
        publisher_.publish(())
    assert time.monotonic() - began < 5
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(endpoint)
        publisher_.start("alive")
        hellos = (f for f in iter(lambda: decode_frame(socket.recv()), None) if isinstance(f, Hello))
        assert next(hellos).dropped > 0
    publisher_.close()
