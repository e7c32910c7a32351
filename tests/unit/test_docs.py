"""The reference pages say what the code says: refusals, architectures, numbers, and every field of a policy."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from monitor.config import MonitorSettings
from monitor.engine.architectures import VERIFIED_ARCHITECTURES
from monitor.engine.compat import SUPPORTED_VERSIONS
from monitor.engine.loaded import N_SPARE
from monitor.engine.publish import _QUEUE_FRAMES, HEARTBEAT_SECONDS
from monitor.engine.refusals import REFUSALS
from monitor.policy.model import (
    CallersModel,
    ConditionModel,
    MaySteerModel,
    PolicyFile,
    PolicyModel,
    RuleModel,
    SteeringModel,
)
from monitor.policy.options import GuardOptions
from monitor.policy.steering import Names
from monitor.policy.store import load_snapshot
from monitor.types import Operator, SteeringScope, UnscoredReason
from probes.bundle import read_bundle

ROOT = Path(__file__).parents[2]
ENGINE = (ROOT / "docs" / "engine.md").read_text()
README = (ROOT / "README.md").read_text()
POLICY = (ROOT / "docs" / "policy.md").read_text()
ORGANISM = ROOT / "probes" / "organism" / "bundle"
MODELS: dict[str, type[BaseModel]] = {
    "The file": PolicyFile,
    "A policy": PolicyModel,
    "A rule": RuleModel,
    "A steering": SteeringModel,
    "A condition": ConditionModel,
    "What callers may ask for": CallersModel,
    "With what callers may steer": MaySteerModel,
}


def section(page: str, heading: str) -> str:
    """The text under a heading of the second level."""
    return page.split(f"\n## {heading}\n")[1].split("\n## ", maxsplit=1)[0]


def table(text: str) -> list[list[str]]:
    """The cells of the text's only table, without its head."""
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in re.findall(r"^\|.*\|$", text, re.MULTILINE)
    ]
    assert set(rows[1][0]) <= set("|-"), "a table begins with its head and a line"
    return rows[2:]


def default_of(model: type[BaseModel], name: str) -> str:
    """As the page writes it."""
    field = model.model_fields[name]
    if field.is_required():
        return "required"
    if field.default is None:
        return "none"
    if isinstance(field.default, BaseModel):
        return "all defaults" if field.default == type(field.default)() else "unlike its own defaults"
    shown = [] if field.default == () else field.default
    return f"`{str(shown).lower()}`"


def test_the_page_lists_exactly_the_refusals_of_the_engine_in_its_words():
    assert table(section(ENGINE, "What is refused")) == [[r.name, r.why, r.remedy] for r in REFUSALS]


def test_the_page_has_the_window_of_versions():
    assert f"vLLM outside of {SUPPORTED_VERSIONS[0]} to {SUPPORTED_VERSIONS[-1]};" in section(ENGINE, "What is refused")


@pytest.mark.parametrize("words", ["--no-enable-prefix-caching", "sliding window", "--pipeline-parallel-size 1"])
def test_the_page_has_what_is_refused_once_the_model_or_a_request_is_known(words):
    assert words in section(ENGINE, "What is refused")


def test_the_table_of_architectures_has_exactly_the_verified_ones_each_within_the_bound():
    rows = table(section(ENGINE, "Architectures"))
    assert [re.match(r"`(\w+)`", name)[1] for name, *_ in rows] == list(VERIFIED_ARCHITECTURES)
    assert {output for _, output, *_ in rows} == {"pair", "tensor", "`[1, n, d]`"}
    assert all(0 < float(share) <= 1 for *_, scores, logits in rows for share in (scores, logits))


def test_the_table_of_operators_has_all_of_them():
    assert {name.strip("`") for name, *_ in table(section(ENGINE, "Steering"))} == set(Operator)


def test_the_numbers_of_the_page_are_those_of_the_code():
    assert f"There are {N_SPARE} lines" in section(ENGINE, "Steering")
    failures = section(ENGINE, "When something fails")
    assert f"drops frames beyond {_QUEUE_FRAMES};" in failures
    silent = MonitorSettings.model_fields["heartbeat_timeout"].default
    assert f"no heartbeat for {silent:g} seconds" in failures
    assert f"within a heartbeat ({HEARTBEAT_SECONDS:g} second)" in failures


def test_every_reason_for_which_something_is_unscored_is_named():
    assert not [reason for reason in UnscoredReason if f"`{reason}`" not in section(ENGINE, "When something fails")]


@pytest.mark.parametrize("page", [ENGINE, README], ids=["engine", "README"])
def test_every_module_that_a_page_tells_people_to_run_exists(page):
    named = re.findall(r"python -m ([a-z_.]+[a-z_])", page)
    assert named
    for name in named:
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name


@pytest.mark.parametrize("heading", MODELS)
def test_the_policy_page_has_every_field_of_a_model_with_its_default(heading):
    model = MODELS[heading]
    rows = table(section(POLICY, heading))
    assert [(name, default) for name, default, _ in rows] == [
        (f"`{name}`", default_of(model, name)) for name in model.model_fields
    ]


@pytest.mark.parametrize(
    ("heading", "field", "values"),
    [("A steering", "`operator`", Operator), ("A steering", "`scope`", SteeringScope)],
)
def test_the_policy_page_has_every_value_that_a_field_may_have(heading, field, values):
    (text,) = [text for name, _, text in table(section(POLICY, heading)) if name == field]
    assert not [value for value in values if f"`{value}`" not in text]


def test_the_policy_page_names_every_wish_that_a_caller_may_have():
    text = section(POLICY, "What callers may ask for")
    assert not [name for name in GuardOptions.__struct_fields__ if f"`{name}`" not in text]


def test_every_example_of_the_policy_page_can_be_used_and_together_they_use_every_field(tmp_path):
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", POLICY, re.DOTALL)]
    (whole,) = [block for block in blocks if isinstance(block, dict)]
    whole["policies"] += [policy for block in blocks if isinstance(block, list) for policy in block]
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(whole))
    directions = tmp_path / "directions"
    shutil.copytree(ORGANISM, directions / "tone")
    names = Names.of(read_bundle(ORGANISM).manifest, directions)
    assert len(load_snapshot(path, names).policies) == len(whole["policies"])

    unused = {(model, name) for model in MODELS.values() for name in model.model_fields}
    waiting: list[BaseModel] = [PolicyFile.model_validate(whole)]
    while waiting:
        model = waiting.pop()
        for name in model.model_fields_set:
            unused.discard((type(model), name))
            value = getattr(model, name)
            waiting += [v for v in (value if isinstance(value, tuple) else [value]) if isinstance(v, BaseModel)]
    assert not unused
