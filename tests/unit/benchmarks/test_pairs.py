import math

import pytest

from benchmarks.pairs import Served, enough, figures, median_width, ratios


def run(seconds: float, gaps: tuple[float, ...] = (0.01, 0.01), ttft: float = 0.1, tokens: int = 4) -> Served:
    return Served(seconds, tokens, (ttft, ttft), gaps)


def test_a_pair_is_the_ratio_of_sums_so_that_a_linear_drift_of_the_machine_cancels():
    # The machine slows by 0.1 s each run; ours costs nothing: plain, ours, ours, plain.
    assert ratios([run(1.0), run(1.3)], [run(1.1), run(1.2)])["overhead"] == pytest.approx(0.0)


def test_twice_the_time_is_an_overhead_of_one_in_every_metric():
    plain, ours = [run(1.0)], [run(2.0, gaps=(0.02, 0.02), ttft=0.2)]
    assert ratios(plain, ours) == pytest.approx({"overhead": 1.0, "itl_p50": 1.0, "itl_p99": 1.0, "ttft": 1.0})


def test_one_slow_token_moves_the_99th_percentile_and_not_the_median():
    calm, hiccup = [run(1.0, gaps=(0.01,) * 20)], [run(1.0, gaps=(0.01,) * 19 + (0.5,))]
    found = ratios(calm, hiccup)
    assert found["itl_p50"] == pytest.approx(0.0)
    assert found["itl_p99"] > 1


def test_sides_with_different_numbers_of_tokens_are_not_compared():
    with pytest.raises(ValueError, match="4 tokens, the other 8"):
        ratios([run(1.0)], [run(1.0, tokens=8)])


def test_the_figure_of_a_side_is_its_time_per_token():
    assert figures([run(1.0), run(3.0)])["overhead"] == pytest.approx(0.5)


def test_the_interval_of_equal_values_has_no_width_and_that_of_two_is_unknown():
    assert median_width([0.02] * 7) == 0.0
    assert math.isinf(median_width([0.02, 0.02]))


def test_the_interval_narrows_with_more_values():
    spread = [-0.04, 0.05, 0.01, -0.02, 0.03, 0.0, 0.02]
    assert median_width(spread * 8) < median_width(spread)


@pytest.mark.parametrize(
    ("values", "stops"),
    [([0.01] * 6, False), ([0.01] * 7, True), ([0.0, 0.2] * 4, False), ([0.0, 0.2] * 5, True)],
    ids=["too few", "steady", "noisy", "noisy, but that is the most"],
)
def test_pairs_go_on_until_the_median_is_steady_or_there_are_as_many_as_allowed(values, stops):
    pairs = [{"overhead": v, "itl_p50": v} for v in values]
    assert enough(pairs, least=7, most=10, width=0.01) is stops
