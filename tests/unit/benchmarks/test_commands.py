import pytest

from benchmarks import engine
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.found import Found

BARE = Found(versions={"torch": "2.11"}, absent=("vllm",), devices=(), gib=0.0, plugin=False)
H200 = Found(versions={"torch": "2.11", "vllm": "0.26.0"}, absent=(), devices=("NVIDIA H200",), gib=139.0, plugin=True)


def test_the_help_of_the_benchmark_explains_every_mode(capsys):
    with pytest.raises(SystemExit, match="0"):
        engine.parse(["--help"])
    text = capsys.readouterr().out
    assert all(f"    {name}" in text for name in engine.MODES)


def test_every_model_has_a_length_for_every_batch_size():
    assert all(set(lengths) == set(engine.QUICK_TOKENS) for lengths in engine.NEW_TOKENS.values())


def test_a_quick_look_and_a_measurement_differ_in_pairs_and_lengths():
    quick = engine.setup_for("75m", engine.parse(["--quick", "--batch", "16"]))
    real = engine.setup_for("75m", engine.parse(["--batch", "16"]))
    assert (quick.most, real.least) == (3, 8)
    assert quick.new_tokens[16] < real.new_tokens[16]
    assert set(real.new_tokens) == {16}


def test_a_machine_without_a_gpu_is_told_everything_that_is_missing():
    wanted = BARE.lacks(cuda=True, gib=44)
    assert [next(w for w in ("vllm cannot", "entry point", "no CUDA device") if w in line) for line in wanted] == [
        "vllm cannot", "entry point", "no CUDA device",
    ]  # fmt: skip


def test_a_gpu_that_is_too_small_is_refused_with_both_sizes():
    small = Found(versions={}, absent=(), devices=("small",), gib=24.0, plugin=True)
    assert small.lacks(cuda=True, gib=44) == ["the first CUDA device has 24 GiB, two engines of this model need 44 GiB"]


def test_nothing_is_missing_on_a_large_gpu_and_rows_will_name_it():
    assert H200.lacks(cuda=True, gib=44) == []
    assert H200.line() == "NVIDIA H200; torch 2.11, vllm 0.26.0"


def test_figures_from_the_cpu_are_no_gpu_figures(capsys):
    with pytest.raises(SystemExit, match="2"):
        gpu.parse(["--device", "cpu"])
    assert "needs --tiny" in capsys.readouterr().err


def test_the_gpu_plan_asks_for_full_graphs_and_async_scheduling_on_the_8b_shape():
    setup = gpu.plan(gpu.parse([]))
    assert setup.model == "8b"
    assert setup.options["compilation_config"] == {"cudagraph_mode": "FULL"}
    assert setup.options["async_scheduling"] is True
    assert {mode.name: mode.goal for mode in setup.modes}["reading"] == "<= 0.005"
