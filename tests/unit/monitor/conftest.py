from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from monitor_house import counters, eventually, house, metric, wait_for_frames
from monitor_samples import POLICY
from stand_in import Script


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_house(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One house for a module: starting one takes as long as most tests."""
    folder = tmp_path_factory.mktemp("house")
    (folder / "policy.yaml").write_text(POLICY)
    async with house(folder, folder / "policy.yaml") as parts:
        yield parts


@pytest_asyncio.fixture(loop_scope="module")
async def served(shared_house: Any, request: pytest.FixtureRequest) -> Any:
    """The shared house, its engine reset; metrics count from here.

    Only tests that lose frames (marked so) give them up soon: elsewhere a machine that stands still for a moment must
    not make a score too late.
    """
    wait_for_frames(shared_house, 0.3 if request.node.get_closest_marker("frames_lost") else 30)
    engine = shared_house.engine
    engine.script, engine.silent, engine.healthy, engine.chopped = Script(), False, True, False
    for seen in (engine.requests, engine.plans, engine.aborted):
        seen.clear()
    await eventually(lambda: shared_house.monitor.receiver.taps_alive)
    await eventually(lambda: metric(shared_house, "plumbline_requests_in_flight") == 0)
    shared_house.before = counters(shared_house)
    return shared_house
