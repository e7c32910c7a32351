"""An engine that could be wrong does not start, and says every reason."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from monitor.engine.compat import check_engine, check_kv_groups
from monitor.errors import EngineSetupError

pytestmark = pytest.mark.vllm


def config(model: Path, **options: Any) -> Any:
    """A real ``VllmConfig``, as the engine would have it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vLLM and its dependencies warn while they are imported
        from vllm.engine.arg_utils import EngineArgs

        return EngineArgs(model=str(model), dtype="float32", max_model_len=128, **options).create_engine_config()


def test_the_tested_version_and_architecture_are_accepted(model):
    check_engine("0.32.0", config(model))


@pytest.mark.parametrize("version", ["0.31.0", "0.33.1", "0.320.0", "1.0"])
def test_another_version_is_refused_with_the_one_to_install(model, version):
    with pytest.raises(EngineSetupError, match=r"0\.32\.x"):
        check_engine(version, config(model))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"enable_lora": True}, "--enable-lora"),
        ({"pipeline_parallel_size": 2}, "--pipeline-parallel-size 2"),
        ({"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}}, "speculat"),
    ],
)
def test_what_is_not_verified_is_refused_with_what_to_change(model, options, says):
    with pytest.raises(EngineSetupError, match=says):
        check_engine("0.32.0", config(model, **options))


def test_every_reason_is_given_at_once(model):
    other = config(model, enable_lora=True, pipeline_parallel_size=2)
    with pytest.raises(EngineSetupError) as caught:
        check_engine("0.31.0", other)
    assert str(caught.value).count("\n  - ") == 3


def test_several_kv_cache_groups_are_refused():
    check_kv_groups(1)
    with pytest.raises(EngineSetupError, match="2 KV cache groups"):
        check_kv_groups(2)


def test_a_model_that_only_embeds_is_refused(model):
    with pytest.raises(EngineSetupError, match="--runner generate"):
        check_engine("0.32.0", config(model, runner="pooling", convert="embed"))
