"""scikit-learn's checks of an estimator, without those that need what is not a dependency: pandas, an array API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sklearn.utils.estimator_checks import estimator_checks_generator

ELSEWHERE = {"check_sample_weights_pandas_series", "check_array_api_input", "check_classifier_data_not_an_array"}


def contract(estimator: Any, exempt: dict[str, str] | None = None) -> Iterator[tuple[Any, Any]]:
    """``(estimator, check)``; ``exempt`` are names of checks that do not apply, each with the reason."""
    for made, check in estimator_checks_generator(estimator):
        name = getattr(check, "func", check).__name__
        if name not in ELSEWHERE and name not in (exempt or {}):
            yield made, check


def spoken(value: Any) -> str:
    """For the name of a test."""
    return getattr(getattr(value, "func", None), "__name__", None) or type(value).__name__
