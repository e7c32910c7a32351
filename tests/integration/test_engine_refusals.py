"""An engine that could be wrong does not start, and says every reason; one that nobody has tested needs a flag."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

from monitor.engine.compat import SUPPORTED_VERSIONS, check_engine
from monitor.engine.refusals import REFUSALS
from monitor.engine.verified import Setup, read_results
from monitor.errors import EngineSetupError

pytestmark = pytest.mark.vllm

NGRAM = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}


def config(model: Path, **options: Any) -> Any:
    """A real ``VllmConfig``, as the engine would have it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vLLM and its dependencies warn while they are imported
        from vllm.engine.arg_utils import EngineArgs

        return EngineArgs(model=str(model), dtype="float32", max_model_len=128, **options).create_engine_config()


def change(path: str, value: Any) -> Callable[[Any], None]:
    """Set one field of the configuration, where vLLM would not build it on this machine."""

    def apply(found: Any) -> None:
        *parents, last = path.split(".")
        for name in parents:
            found = getattr(found, name)
        setattr(found, last, value)

    return apply


def deepseek(found: Any) -> None:
    found.model_config._architecture = "DeepseekV3ForCausalLM"
    found.model_config.dtype = torch.float16


def sequence_parallel(found: Any) -> None:
    parallel = found.parallel_config
    parallel.enable_expert_parallel, parallel.tensor_parallel_size, parallel.data_parallel_size = True, 2, 2


def stock_compile(found: Any) -> None:
    found.compilation_config.mode = type(found.compilation_config.mode).STOCK_TORCH_COMPILE


# Engine options where vLLM takes them here, else a change of its finished configuration.
ASKED_FOR: dict[str, dict[str, Any] | Callable[[Any], None]] = {
    "pooling runner": {"runner": "pooling", "convert": "embed"},
    "prompt embeddings": {"enable_prompt_embeds": True},
    "image, audio or video input": change("model_config.multimodal_config", SimpleNamespace(language_model_only=False)),
    "DeepSeek in float16": deepseek,
    "speculative decoding": {"speculative_config": NGRAM},
    "diffusion decoding": change("diffusion_config", object()),
    "sequence parallelism": sequence_parallel,
    "decode context parallelism": change("parallel_config.decode_context_parallel_size", 2),
    "prefill context parallelism": change("parallel_config.prefill_context_parallel_size", 2),
    "micro-batching": change("parallel_config.enable_dbo", True),
    "stock torch.compile": stock_compile,
    "fast prefill": change("cache_config.kv_sharing_fast_prefill", True),
    "a KV connector": change("kv_transfer_config", object()),
    "KV offloading": change("cache_config.kv_offloading_size", 1.0),
    "weights offloaded to the CPU": {"cpu_offload_gb": 1},
    "dummy weights": {"load_format": "dummy"},
    "overridden model configuration": {"hf_overrides": {"rope_theta": 500.0}},
    "quantisation while loading": change("model_config.quantization", "fp8"),
    "a scheduler of your own": {"scheduler_cls": "vllm.v1.core.sched.scheduler.Scheduler"},
}


def test_what_a_parity_result_covers_starts_and_has_nothing_untested(model):
    assert check_engine("0.32.0", config(model)) == ""
    assert check_engine("0.32.7", config(model, enforce_eager=True)) == ""


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda r: r.name)
def test_what_can_never_be_right_is_refused_even_where_the_untested_is_allowed(model, refusal):
    asked = ASKED_FOR[refusal.name]
    found = config(model, **asked) if isinstance(asked, dict) else config(model)
    if not isinstance(asked, dict):
        asked(found)
    with pytest.raises(EngineSetupError) as caught:
        check_engine("0.32.0", found, allow_untested=True)
    assert f"\n  - {refusal}" in str(caught.value)


def test_a_plain_engine_is_refused_for_none_of_these_reasons(model):
    found = config(model)
    assert [r.name for r in REFUSALS if r.applies(found)] == []


def test_every_refusal_is_one_line_with_what_to_do():
    assert len({r.name for r in REFUSALS}) == len(REFUSALS)
    for refusal in REFUSALS:
        assert "\n" not in str(refusal)
        assert refusal.remedy.startswith(("drop ", "use ", "add "))


@pytest.mark.parametrize("version", ["0.25.9", "0.34.0", "0.320.0", "1.0", "dev"])
def test_a_version_outside_of_the_window_is_refused_whatever_is_allowed(model, version):
    with pytest.raises(EngineSetupError, match=r"install one of 0\.26 to 0\.33"):
        check_engine(version, config(model), allow_untested=True)


def test_a_multimodal_model_that_serves_text_only_has_no_image_positions(model):
    found = config(model)
    found.model_config.multimodal_config = SimpleNamespace(language_model_only=True)
    assert [r.name for r in REFUSALS if r.applies(found)] == []


def test_a_quantised_checkpoint_is_not_quantised_while_loading(model):
    found = config(model)
    found.model_config.quantization = "fp8"
    found.model_config.hf_config.quantization_config = {"quant_method": "fp8"}
    assert [r.name for r in REFUSALS if r.applies(found)] == []


def test_an_adapter_is_no_reason_to_refuse(model):
    assert "lora" not in check_engine("0.32.0", config(model, enable_lora=True))


def test_an_unknown_architecture_is_refused(model):
    found = config(model)
    found.model_config._architecture = "MambaForCausalLM"
    with pytest.raises(EngineSetupError, match="architecture MambaForCausalLM is not verified"):
        check_engine("0.32.0", found, allow_untested=True)


def test_what_no_result_covers_starts_only_where_that_is_allowed_and_says_so(model, caplog):
    found = config(model)
    found.parallel_config.tensor_parallel_size = 64
    with pytest.raises(EngineSetupError, match="PLUMBLINE_ALLOW_UNTESTED=1"):
        check_engine("0.32.0", found)
    with caplog.at_level(logging.WARNING, "monitor.engine.compat"):
        untested = check_engine("0.32.0", found, allow_untested=True)
    assert untested == "vLLM 0.32.0, runner v1, cpu, sync scheduling, compiled, tp64"
    assert untested in caplog.text


def test_another_device_is_refused(model):
    with pytest.raises(EngineSetupError, match="device is tpu"):
        check_engine("0.32.0", config(model), device="tpu", allow_untested=True)


def test_every_reason_is_given_at_once(model):
    other = config(model, speculative_config=NGRAM, load_format="dummy")
    with pytest.raises(EngineSetupError) as caught:
        check_engine("0.25.0", other)
    assert str(caught.value).count("\n  - ") == 4  # with the version and the missing parity result


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        (lambda c: None, {}),
        (change("scheduler_config.async_scheduling", True), {"scheduling": "async"}),
        (change("parallel_config.pipeline_parallel_size", 2), {"parallel": "pp2"}),
    ],
)
def test_a_setup_is_read_from_the_configuration(model, changed, wanted):
    found = config(model)
    changed(found)
    plain = Setup(vllm="0.32.0", runner="v1", device="cpu", scheduling="sync", mode="compiled")
    assert Setup.of("0.32.0", found, "cpu") == msgspec.structs.replace(plain, **wanted)


def test_the_shipped_results_are_within_the_supported_window():
    assert {r.vllm.rsplit(".", 1)[0] for r in read_results()} <= set(SUPPORTED_VERSIONS)
