"""The settings and the publisher, each on its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import zmq

from monitor.engine.publish import FramePublisher
from monitor.engine.settings import EngineSettings
from monitor.errors import ConfigError
from monitor.frames import Hello, ScoreFrame, decode_frame

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


EMPTY = ((), (), b"", b"", b"")


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
            publisher_.publish(*EMPTY)
        frames = [decode_frame(socket.recv()) for _ in range(100)]
        numbers = [f.sequence for f in frames if isinstance(f, ScoreFrame)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert socket.poll(3000), "a heartbeat comes without any step"
    publisher_.close()


def test_a_subscriber_that_does_not_read_never_blocks_the_step_and_sees_the_gap_in_the_numbers(tmp_path: Path):
    publisher_, endpoint = publisher(tmp_path)
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.setsockopt(zmq.RCVHWM, 1)
        socket.connect(endpoint)
        publisher_.start("alive")
        assert isinstance(decode_frame(socket.recv()), Hello)
        for _ in range(20_000):
            publisher_.publish(*EMPTY)
        numbers = [decode_frame(socket.recv()).sequence for _ in range(10)]
        while socket.poll(1500):
            numbers.append(decode_frame(socket.recv()).sequence)
            if numbers[-1] == 20_000:
                break
        assert numbers[-1] == 20_000, "the heartbeat says how many there were"
        assert len(numbers) < 20_000
    publisher_.close()
