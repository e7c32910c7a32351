"""A worker's hooks from scheduler output to frame, with every part real but the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from monitor.engine.follow import Followers
from monitor.engine.gate import Gate
from monitor.engine.instrument import Instrumentation
from monitor.engine.ledger import Ledger
from monitor.engine.lines import Lines
from monitor.engine.loaded import LoadedDirections
from monitor.engine.score_cache import ScoreCache
from monitor.engine.settings import EngineSettings
from monitor.engine.steer import SteeringTable
from monitor.engine.step import Step, StepHooks
from monitor.frames import StepFrame, decode_frame, encode_frame
from monitor.policy.plan import XARGS_KEY, DetectorPlan, GatePlan, sign_plan
from monitor.types import Action, Operator, Steering
from tests.support.tiny import random_bundle

KEY = b"k" * 32
BLOCK = 4


class Channel:
    """The publisher's place: keeps what would be sent."""

    def __init__(self) -> None:
        self.errors = 0
        self.parts: list = []

    def publish(self, *columns) -> None:
        self.parts += decode_frame(encode_frame(StepFrame("e", 1, *columns))).requests


class Worker:
    """Hooks and the calls that a runner makes; a token's scores are its position, in every column."""

    def __init__(self, path: Path) -> None:
        self.bundle = random_bundle(path / "bundle", d_model=8, n_layers=4)
        names = tuple(p.name for p in self.bundle.manifest.probes)
        self.scores = torch.full((64, len(names)), torch.nan)
        self.table = SteeringTable(self.bundle, names, self.scores)
        taps = Instrumentation(names, self.scores, self.table, (0,), frozenset(range(len(names))))
        self.gate = Gate(self.bundle.manifest, names, 2)
        loaded = LoadedDirections(self.table, None, 2, 8)
        followers = Followers(
            EngineSettings(path, "ipc://none", KEY, None), self.bundle.digest, self.gate.probes, loaded
        )
        self.channel = Channel()
        self.lines = Lines(self.table, 2)
        self.ledger = Ledger(2, 16, BLOCK)
        self.cache = ScoreCache(64, BLOCK, len(names))
        self.hooks = StepHooks(followers, taps, self.gate, self.ledger, self.lines, self.cache, self.channel)
        self._computed: dict[str, int] = {}

    def plan(self, request_id: str, **fields) -> GatePlan:
        values = {"policy": "p", "revision": "1", "bundle": self.bundle.digest, "expires": 1e12, "enforce": True}
        return GatePlan(**({"request_id": request_id, "hold": False, "n": 1, "detectors": ()} | values | fields))

    def schedule(self, counts: dict[str, int], new: Sequence = (), finished: Sequence[str] = ()) -> None:
        fresh = {n.req_id for n in new}
        old = [r for r in counts if r not in fresh]
        for request in new:
            self._computed[request.req_id] = request.num_computed_tokens
        self.hooks.schedule(
            SimpleNamespace(
                finished_req_ids=set(finished), scheduled_new_reqs=list(new), num_scheduled_tokens=counts,
                total_num_scheduled_tokens=sum(counts.values()), kv_cache_block_copies=None,
                scheduled_cached_reqs=SimpleNamespace(
                    req_ids=old, new_block_ids=[None] * len(old), resumed_req_ids=set(),
                    num_computed_tokens=[self._computed[r] for r in old],
                ),
            )
        )  # fmt: skip
        for request_id, count in counts.items():
            self._computed[request_id] += count

    def forward(self, order: Sequence[str], offset: float = 0.0) -> Step | None:
        self.hooks.before_forward(order)
        current = self.hooks._current
        if current is not None:
            n = current.rows.n_tokens
            self.scores[:n] = torch.from_numpy(current.rows.row_positions[:, None] + offset).float()
        return self.hooks.after_forward()

    def step(self, counts: dict[str, int], new: Sequence = (), finished: Sequence[str] = ()):
        self.schedule(counts, new, finished)
        done = self.forward(list(counts))
        return {} if done is None else self.hooks.complete(done)

    def told(self, request_id: str) -> dict[int, float]:
        """Position to score, as the monitor hears it; a position that came twice fails."""
        found: dict[int, float] = {}
        for part in self.channel.parts:
            if part.request_id == request_id:
                for i, row in enumerate(part.matrix(self.scores.shape[1])):
                    assert part.first + i not in found
                    found[part.first + i] = float(row[0])
        return found


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


def new(worker: Worker, request_id: str, n_prompt: int, blocks: list[int], computed: int = 0, **fields):
    text = sign_plan(worker.plan(request_id, **fields), KEY)
    return SimpleNamespace(
        req_id=request_id, prompt_token_ids=list(range(100, 100 + n_prompt)), block_ids=(blocks,),
        num_computed_tokens=computed, lora_request=None,
        sampling_params=SimpleNamespace(extra_args={XARGS_KEY: text}),
    )  # fmt: skip


def test_every_position_is_told_once_through_chunks_decode_and_end(worker):
    worker.step({"a": 3}, [new(worker, "a", 5, [0, 1])])
    worker.step({"a": 2, "b": 2}, [new(worker, "b", 2, [2])])
    for _ in range(2):
        worker.step({"b": 1, "a": 1})
    worker.schedule({}, finished=["a"])
    assert worker.told("a") == {i: float(i) for i in range(7)}
    assert worker.told("b") == {i: float(i) for i in range(4)}
    assert [p.ended for p in worker.channel.parts if p.request_id == "a"][-1]


def test_a_prefix_hit_is_told_with_the_kept_scores_and_without_them_as_unscored(worker):
    worker.step({"a": 6}, [new(worker, "a", 6, [0, 1])])
    worker.step({"b": 2}, [new(worker, "b", 6, [0, 1], computed=4)])
    assert worker.told("b") == {i: float(i) for i in range(6)}
    worker.step({"c": 2}, [new(worker, "c", 6, [7, 8], computed=4)])
    last = worker.channel.parts[-1]
    assert (last.seen, last.scored, last.cache_misses) == (6, 2, 4)


def test_a_hook_that_raises_before_the_forward_pass_leaves_its_tokens_unscored_unsteered_and_counted(worker):
    steering = (Steering("refusal", Operator.ADD),)
    worker.step({"a": 4}, [new(worker, "a", 4, [0, 1], steering=steering)])
    assert worker.table._table.any()
    worker.lines.fill, original = None, worker.lines.fill
    assert worker.step({"a": 1}) == {}
    assert not worker.table._table.any()
    worker.lines.fill = original
    worker.step({"a": 1})
    told = worker.told("a")
    assert list(told) == list(range(6))
    assert [i for i, score in told.items() if np.isnan(score)] == [4]
    assert worker.channel.errors == 1


def test_a_hook_that_raises_after_the_forward_pass_never_reaches_the_engine(worker):
    worker.step({"a": 4}, [new(worker, "a", 4, [0, 1])])
    worker.gate.fold, original = None, worker.gate.fold
    assert worker.step({"a": 1}) == {}
    worker.gate.fold = original
    worker.step({"a": 1})
    assert [i for i, score in worker.told("a").items() if np.isnan(score)] == [4]
    assert worker.channel.errors == 1


def test_a_scheduler_output_that_cannot_be_understood_ends_all_scoring(worker):
    worker.step({"a": 4}, [new(worker, "a", 4, [0, 1])])
    worker.hooks.schedule(SimpleNamespace(finished_req_ids=set()))
    worker.step({"a": 1})
    assert np.isnan(worker.told("a")[4])
    assert worker.channel.errors >= 1


def test_a_request_that_cannot_be_followed_is_ended_and_is_alone_in_it(worker):
    bad = new(worker, "bad", 2, [5])
    bad.sampling_params.extra_args[XARGS_KEY] = "nonsense"
    stops = worker.step({"bad": 2, "a": 2}, [bad, new(worker, "a", 2, [0])])
    assert {name: stop.rule for name, stop in stops.items()} == {"bad": None}
    assert worker.step({"a": 1}, finished=["bad"]) == {}
    assert worker.told("a") == {0: 0.0, 1: 1.0, 2: 2.0}
    assert worker.told("bad") == {}


def test_steps_that_are_completed_late_are_told_in_order_and_slots_are_not_reused_before(worker):
    """As on a GPU with asynchronous scheduling: the next step is scheduled before the last one is completed."""
    stop = (DetectorPlan("r", "first", 4.0, Action.STOP),)
    worker.schedule({"a": 4}, [new(worker, "a", 4, [0, 1], detectors=stop)])
    first = worker.forward(["a"])
    first.scores = first.scores.copy()
    worker.schedule({"a": 1})
    second = worker.forward(["a"])
    second.scores = second.scores.copy()
    assert worker.hooks.complete(first) == {}
    worker.schedule({"a": 1, "b": 2}, [new(worker, "b", 2, [3])])
    third = worker.forward(["a", "b"])
    third.scores = third.scores.copy()
    assert list(worker.hooks.complete(second)) == ["a"]  # position 4 reaches the threshold
    worker.schedule({"b": 1, "c": 2}, [new(worker, "c", 2, [4])], finished=["a"])
    fourth = worker.forward(["b", "c"])
    worker.hooks.complete(third)
    worker.hooks.complete(fourth)
    assert worker.told("b") == {0: 0.0, 1: 1.0, 2: 2.0}
    assert worker.told("c") == {0: 0.0, 1: 1.0}
    ends = [p.request_id for p in worker.channel.parts if p.ended]
    assert ends == ["a"]
    assert worker.told("a") == {i: float(i) for i in range(6)}


def test_after_the_weights_changed_nothing_is_scored_not_even_from_the_cache(worker):
    worker.step({"a": 6}, [new(worker, "a", 6, [0, 1])])
    worker.hooks.distrust("update_weights")
    worker.step({"a": 1, "b": 2}, [new(worker, "b", 6, [0, 1], computed=4)])
    assert np.isnan(worker.told("a")[6])
    assert all(np.isnan(score) for score in worker.told("b").values())


def test_a_failed_step_leaves_no_scores_of_the_former_owner_of_its_cache_slots(worker):
    worker.step({"a": 4}, [new(worker, "a", 4, [0, 1])])
    for _ in range(3):
        worker.step({"a": 1})
    worker.step({"b": 4}, [new(worker, "b", 4, [2, 1])], finished=["a"])  # block 1 held a's generated tokens
    worker.lines.fill, original = None, worker.lines.fill
    worker.step({"b": 1})
    worker.lines.fill = original
    worker.step({"b": 1})
    assert [i for i, score in worker.told("b").items() if np.isnan(score)] == [4]


def test_a_stop_is_repeated_until_the_request_has_ended(worker):
    stop = (DetectorPlan("r", "intent", -1e9, Action.STOP),)
    assert list(worker.step({"a": 4}, [new(worker, "a", 4, [0, 1], detectors=stop)])) == ["a"]
    worker._computed["a"] = 2  # preempted with the step's output dropped, and computed again
    assert list(worker.step({"a": 2})) == ["a"]


def test_an_end_that_waits_for_a_step_on_its_way_is_told_with_it(worker):
    worker.schedule({"a": 4}, [new(worker, "a", 4, [0, 1])])
    late = worker.forward(["a"])
    late.scores = late.scores.copy()
    worker.schedule({}, finished=["a"])
    assert not worker.channel.parts
    worker.hooks.complete(late)
    assert [p.ended for p in worker.channel.parts] == [False, True]


def unplanned(request_id: str, n_prompt: int, blocks: list[int]):
    return SimpleNamespace(
        req_id=request_id, prompt_token_ids=list(range(n_prompt)), block_ids=(blocks,), num_computed_tokens=0,
        lora_request=None, sampling_params=SimpleNamespace(extra_args=None),
    )  # fmt: skip


@pytest.mark.parametrize("steered", [False, True])
def test_a_request_without_a_plan_beyond_the_expected_number_disarms_nobody(worker, steered):
    rules = (DetectorPlan("r", "first", 5.0, Action.STOP),)
    steering = (Steering("refusal", Operator.ADD, 0.5),) if steered else ()
    worker.step({"a": 4, "b": 4}, [new(worker, "a", 4, [0, 1]),
                                   new(worker, "b", 4, [2, 3], detectors=rules, steering=steering)])  # fmt: skip
    # Both of the expected slots are taken: the slot of the one that ends is free only after the step.
    assert worker.step({"b": 1, "c": 3}, [unplanned("c", 3, [4])], finished=["a"]) == {}
    assert worker.channel.errors == 0
    assert list(worker.step({"b": 1, "c": 1})) == ["b"]  # position 5 reaches the threshold
    assert worker.told("b") == {i: float(i) for i in range(6)}


def test_what_must_end_is_told_even_by_a_step_that_failed(worker):
    stop = (DetectorPlan("r", "intent", -1e9, Action.STOP),)
    assert list(worker.step({"a": 4}, [new(worker, "a", 4, [0, 1], detectors=stop)])) == ["a"]
    worker.lines.fill, original = None, worker.lines.fill
    assert list(worker.step({"a": 1})) == ["a"]
    worker.lines.fill = original
    worker.cache.scatter, original = None, worker.cache.scatter
    assert list(worker.step({"a": 1})) == ["a"]
    worker.cache.scatter = original
    assert worker.channel.errors == 2


def test_a_request_that_cannot_be_followed_and_cannot_be_steered_is_ended_and_spares_the_others(worker):
    worker.step({"b": 2}, [new(worker, "b", 2, [2])])
    worker.gate.open, original = None, worker.gate.open
    missing = (Steering("gone:copy@0123456789abcdef", Operator.ADD, 0.5),)
    stops = worker.step({"a": 4, "b": 1}, [new(worker, "a", 4, [0, 1], steering=missing)])
    worker.gate.open = original
    assert list(stops) == ["a"]
    assert list(worker.step({"a": 1, "b": 1})) == ["a"]
    assert worker.told("b") == {i: float(i) for i in range(4)}


def test_a_rank_that_nobody_asks_takes_in_what_follows_a_failed_step(worker):
    class Arrived:
        def query(self) -> bool:
            return True

        def synchronize(self) -> None:
            pass

    worker.hooks._publisher = worker.hooks._intake._publisher = None
    stop = (DetectorPlan("r", "intent", -1e9, Action.STOP),)
    worker.schedule({"a": 4}, [new(worker, "a", 4, [0, 1], detectors=stop)])
    worker.lines.fill, original = None, worker.lines.fill
    worker.forward(["a"])
    worker.lines.fill = original
    for _ in range(3):
        worker.schedule({"a": 1})
        step = worker.forward(["a"])
        step.scores, step.ready = step.scores.copy(), Arrived()
    worker.schedule({}, finished=["a"])
    assert len(worker.hooks._steps) <= 1
    assert worker.gate.position[0] == 7
