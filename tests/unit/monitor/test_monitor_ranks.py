"""An engine of several ranks: each publishes for itself, and all of them must be heard."""

import asyncio

import pytest
import zmq.asyncio
from monitor_house import eventually
from monitor_samples import DIGEST, PROBES
from test_monitor_session import frame, part, plan

from monitor.errors import ConfigError
from monitor.frames import Hello, encode_frame, rank_endpoint
from monitor.session import Receiver, SessionTable


def hello(rank=0, ranks=2, epoch="", **fields):
    values = {"epoch": epoch or f"epoch-{rank}", "sequence": 0, "bundle": DIGEST, "probes": PROBES}
    return Hello(**({"vllm": "0.32", "self_test": "ok", "rank": rank, "ranks": ranks} | values | fields))


@pytest.fixture
def drops():
    return []


@pytest.fixture
def table(drops):
    return SessionTable(PROBES, lambda reason, count: drops.append((reason, count)))


@pytest.fixture
def receiver(table, drops):
    return Receiver("ipc:///unused", DIGEST, table, lambda reason, count: drops.append((reason, count)))


def take(receiver, *frames):
    for one in frames:
        receiver.take(encode_frame(one))


def test_each_rank_has_an_endpoint_that_follows_from_the_first():
    assert rank_endpoint("ipc:///run/frames.sock", 0) == "ipc:///run/frames.sock"
    assert rank_endpoint("ipc:///run/frames.sock", 3) == "ipc:///run/frames.sock.3"
    assert rank_endpoint("tcp://127.0.0.1:5600", 2) == "tcp://127.0.0.1:5602"
    assert rank_endpoint("tcp://[::1]:5600", 1) == "tcp://[::1]:5601"
    with pytest.raises(ConfigError, match="several need ipc://PATH or tcp://HOST:PORT"):
        rank_endpoint("inproc://frames", 1)


def test_the_taps_are_alive_only_while_every_rank_is_heard(receiver):
    assert not receiver.taps_alive
    take(receiver, hello(0))
    assert not receiver.taps_alive, "rank 1 has not been heard"
    take(receiver, hello(1))
    assert receiver.taps_alive
    receiver._ranks._heard[1].at -= 6.0
    assert not receiver.taps_alive, "rank 1 has not been heard for longer than the timeout"
    take(receiver, hello(1))
    assert receiver.taps_alive
    take(receiver, hello(1, bundle="0" * 64))
    assert not receiver.taps_alive, "rank 1 runs another bundle"


def test_sequences_are_counted_for_each_rank(receiver, table, drops):
    take(receiver, hello(0), hello(1))
    mine, other = plan(), plan(request_id="b")
    sessions = table.open(mine), table.open(other)
    take(receiver, frame(1, part(mine, 0, 4), epoch="epoch-0"), frame(1, part(other, 0, 4), epoch="epoch-1"))
    take(receiver, frame(2, part(mine, 4, 1), epoch="epoch-0"))
    assert drops == []
    assert [session.choices[0].seen for session in sessions] == [5, 4]
    take(receiver, frame(4, epoch="epoch-1"))
    assert drops == [("lost", 2)]


def test_a_rank_that_restarts_ends_its_own_sessions_and_those_that_may_be_its_own(receiver, table):
    take(receiver, hello(0), hello(1))
    plans = [plan(request_id=name) for name in ("first", "second", "waiting", "both")]
    plans[3] = plan(request_id="both", n=2)
    first, second, waiting, both = (table.open(p) for p in plans)
    take(receiver, frame(1, part(plans[0], 0, 4), part(plans[3], 0, 4), epoch="epoch-0"))
    take(receiver, frame(1, part(plans[1], 0, 4), epoch="epoch-1"))
    take(receiver, hello(1, epoch="epoch-1-again"))
    assert (first.restarted, second.restarted) == (False, True)
    assert waiting.restarted, "it has no frame yet, so it may have run there"
    assert both.restarted, "one of its choices may have run there"
    take(receiver, frame(2, part(plans[0], 4, 1), epoch="epoch-0"))
    assert first.choices[0].seen == 5


def test_an_engine_that_comes_back_with_fewer_ranks_is_alive_with_those(receiver, table, drops):
    take(receiver, hello(0), hello(1))
    mine = plan()
    session = table.open(mine)
    take(receiver, frame(1, part(mine, 0, 4), epoch="epoch-1"))
    take(receiver, hello(0, ranks=1, epoch="new"))
    assert receiver.taps_alive
    assert session.restarted, "its rank is gone"
    take(receiver, hello(1))
    assert drops == [("no_handshake", 1)], "a rank of the engine before"
    assert receiver.taps_alive
    take(receiver, hello(0, ranks=0, epoch="new"))
    receiver._ranks.forget(0)
    assert not receiver.taps_alive, "an engine has at least one rank"


def test_what_no_parity_test_covers_is_told_once_for_each_start(receiver, caplog):
    assert not receiver.untested
    for _ in range(3):
        take(receiver, hello(0, ranks=1, untested="vLLM 9.9"))
    assert receiver.untested == "vLLM 9.9"
    assert [r.message for r in caplog.records] == [
        "no parity test covers this engine (vLLM 9.9): its scores may be wrong"
    ]
    take(receiver, hello(0, ranks=1, epoch="new"))
    assert not receiver.untested


async def test_rank_0_leads_to_the_others_in_any_order_of_starts(tmp_path, table, drops):
    endpoint = f"ipc://{tmp_path}/frames.sock"
    receiver = Receiver(endpoint, DIGEST, table, lambda reason, count: drops.append((reason, count)))
    running = asyncio.create_task(receiver.run())
    context = zmq.asyncio.Context()
    sockets = []

    async def heard():
        async with asyncio.timeout(10):
            while not receiver.taps_alive:
                for rank, socket in enumerate(sockets):
                    await socket.send(encode_frame(hello(rank)))
                await asyncio.sleep(0.02)

    try:
        for rank in range(2):
            sockets.append(context.socket(zmq.PUB))
            sockets[rank].bind(rank_endpoint(endpoint, rank))
        await heard()
        mine = plan()
        session = table.open(mine)
        await sockets[1].send(encode_frame(frame(1, part(mine, 0, 4), epoch="epoch-1")))
        await eventually(lambda: session.choices[0].seen == 4)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for socket in sockets:
            socket.close(linger=0)
        context.term()
