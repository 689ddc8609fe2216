"""Thresholds that evidence is held against."""

from collections.abc import Mapping
from math import isfinite


def check_thresholds(thresholds: Mapping[str, float]) -> None:
    """ValueError names the first that is not a number above 0."""
    for name, value in thresholds.items():
        if not (isfinite(value) and value > 0):
            raise ValueError(f"{name}={value} was given; expected a threshold above 0.")
