"""What frames mean for a session, and what a slow watcher sees."""

import asyncio

import numpy as np
import pytest
from monitor_samples import DIGEST, MANIFEST, PROBES

from monitor.errors import ConfigError
from monitor.fanout import Fanout
from monitor.frames import DetectorState, Hello, RequestScores, ScoreFrame
from monitor.policy.plan import DetectorPlan, GatePlan
from monitor.session import Ending, Overdue, Receiver, SessionTable, build_verdict, wait_scored
from monitor.types import Action, Status, UnscoredReason
from probes.types import Calibration

DETECTORS = (DetectorPlan("lie", "deception", 1.0, Action.STOP),)


def plan(**fields):
    values = {"policy": "p", "revision": "r", "bundle": DIGEST, "expires": 1.0, "enforce": True, "hold": True}
    return GatePlan(**({"request_id": "a", "n": 1, "detectors": DETECTORS} | values | fields))


@pytest.fixture
def drops():
    return []


@pytest.fixture
def table(drops):
    return SessionTable(PROBES, lambda reason, count: drops.append((reason, count)))


def part(p, first, n, *, seen=None, nan=(), **fields):
    rows = np.full((n, len(PROBES)), 0.5, np.float32)
    for position in nan:
        rows[position - first] = np.nan
    seen = first + n if seen is None else seen
    values = {"n_prompt": 4, "seen": seen, "scored": seen - len(nan), "detectors": (DetectorState("lie", 0.5),)}
    return RequestScores(p.request_id, 0, p.digest, **({"first": first, "scores": rows.tobytes()} | values | fields))


def frame(sequence, *parts, epoch="e"):
    return ScoreFrame(epoch, sequence, parts)


def test_frames_of_strangers_and_of_other_plans_change_nothing(table, drops):
    mine = plan()
    session = table.open(mine)
    table.apply(frame(1, part(plan(request_id="b"), 0, 4)))
    table.apply(frame(2, part(plan(policy="other"), 0, 4)))
    table.apply(frame(3, part(mine, 0, 0)))
    assert session.choices[0].seen == 0
    assert drops == [("foreign_plan", 1)]


def test_repeated_and_older_frames_change_nothing(table):
    mine = plan()
    state = table.open(mine).choices[0]
    table.apply(frame(1, part(mine, 0, 4)))
    table.apply(frame(2, part(mine, 4, 2)))
    table.apply(frame(2, part(mine, 0, 4)))
    assert (state.seen, state.scored, state.solid) == (6, 6, 6)


def test_solid_stops_at_the_first_unscored_position(table):
    mine = plan()
    state = table.open(mine).choices[0]
    table.apply(frame(1, part(mine, 0, 4, nan=(2,))))
    table.apply(frame(2, part(mine, 4, 1, scored=4)))
    assert (state.seen, state.scored, state.solid) == (5, 4, 2)


def test_gaps_and_hellos_that_know_more_are_counted(table, drops):
    table.apply(Hello("e", 5, DIGEST, PROBES, "0.32", "ok"))
    table.apply(Hello("e", 6, DIGEST, PROBES, "0.32", "ok"))  # sent before frame 6, which waits its turn
    table.apply(frame(6))
    table.apply(frame(9))
    assert drops == [("lost", 2)]
    table.apply(Hello("e", 11, DIGEST, PROBES, "0.32", "ok"))
    assert drops == [("lost", 2)]
    table.apply(Hello("e", 11, DIGEST, PROBES, "0.32", "ok"))
    assert drops == [("lost", 2), ("lost", 2)]


def test_scores_that_do_not_divide_into_columns_are_counted(table, drops):
    mine = plan()
    state = table.open(mine).choices[0]
    table.apply(frame(1, part(mine, 0, 4, scores=b"12345")))
    assert state.seen == 0
    assert drops == [("bad_scores", 1)]


def test_cache_misses_are_told_apart_from_nan(table):
    mine = plan()
    session = table.open(mine)
    table.apply(frame(1, part(mine, 0, 4, nan=(0, 1, 2), cache_misses=2)))
    verdict = build_verdict(session, 0, Ending(n_prompt=4, needed=4), MANIFEST)
    assert verdict.status is Status.UNSCORED
    assert verdict.unscored == {UnscoredReason.CACHE_MISS: 2, UnscoredReason.NAN: 1}


def test_nothing_seen_is_never_passed(table):
    session = table.open(plan())
    assert build_verdict(session, 0, Ending(needed=1), MANIFEST).status is Status.UNSCORED


def test_a_trip_is_a_trip_even_with_unscored_tokens_but_not_when_blocked(table):
    mine = plan()
    session = table.open(mine)
    tripped = (DetectorState("lie", 3.0, 1, 2.5),)
    table.apply(frame(1, part(mine, 0, 4, nan=(2,), detectors=tripped)))
    verdict = build_verdict(session, 0, Ending(needed=4), MANIFEST)
    assert (verdict.status, verdict.action, verdict.detections[0].score) == (Status.TRIPPED, Action.STOP, 2.5)
    assert build_verdict(session, 0, Ending(needed=4, blocked=True), MANIFEST).status is Status.UNSCORED


@pytest.mark.parametrize("score", [-1e6, -3.0, 0.0, 3.0, 1e6])
def test_probabilities_never_overflow(score):
    value = Calibration(slope=2.0, intercept=0.0).probability(score)
    assert 0.0 <= value <= 1.0


async def test_waiting_ends_with_a_reason(table):
    mine = plan()
    session = table.open(mine)
    assert await wait_scored(session, (0,), 4, lambda: False, Overdue(9)) is UnscoredReason.TAPS_SILENT
    assert await wait_scored(session, (0,), 4, lambda: True, Overdue(0.02)) is UnscoredReason.FRAME_TIMEOUT
    waiting = asyncio.create_task(wait_scored(session, (0,), 4, lambda: True, Overdue(9)))
    await asyncio.sleep(0)
    table.apply(frame(1, part(mine, 0, 4)))
    assert await waiting is None
    table.apply(frame(2, part(mine, 4, 1, ended=True)))
    assert await wait_scored(session, (0,), 6, lambda: True, Overdue(9)) is UnscoredReason.FINAL
    table.apply(frame(1, epoch="f"))
    assert await wait_scored(session, (0,), 7, lambda: True, Overdue(9)) is UnscoredReason.ENGINE_RESTART


async def test_an_endpoint_that_makes_no_sense_is_told(table):
    receiver = Receiver("nonsense", DIGEST, table, lambda _reason, _count: None)
    with pytest.raises(ConfigError, match="PLUMBLINE_FRAMES"):
        await receiver.run()


async def test_watchers_see_scores_by_probe(table):
    mine = plan()
    with table.updates.subscribe() as updates:
        table.apply(frame(1, part(mine, 0, 2, nan=(1,))))
        update = await anext(updates)
    assert update.token_scores[0].scores == {"harmful_intent": 0.5, "deception": 0.5}
    assert update.token_scores[1].scores == {"harmful_intent": None, "deception": None}


async def test_a_slow_watcher_loses_the_oldest_and_knows_how_many():
    lost = []
    fanout = Fanout(lambda: lost.append(1))
    slow, fast = fanout.subscribe(2), fanout.subscribe(10)
    for item in range(5):
        fanout.publish(item)
    slow.close()
    assert [item async for item in slow] == [3, 4]
    assert (slow.dropped, fast.dropped, len(lost)) == (3, 0, 3)
    fanout.close()
    assert [item async for item in fast] == list(range(5))
    assert not fanout
