"""Figures of repetitions that took turns: what slowed one of a pair slowed the other. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

__all__ = ["Ratio", "middle", "paired_ratio"]

DRAWS = 2000


class Ratio(NamedTuple):
    """The median of paired ratios with its 95 % bootstrap interval over pairs."""

    value: float
    low: float
    high: float
    num: int


def middle(values: Sequence[float]) -> float | None:
    """The median, or None of nothing."""
    return float(median(values)) if values else None


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio | None:
    """How many times larger the first of each pair is; None when there is no pair.

    Raises ValueError when the two do not have a partner each.
    """
    if len(numerators) != len(denominators):
        raise ValueError(f"{len(numerators)} measurements cannot be paired with {len(denominators)}.")
    if not numerators:
        return None
    ratios = np.asarray(numerators, float) / np.asarray(denominators, float)
    drawn = np.random.default_rng(0).choice(ratios, size=(DRAWS, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return Ratio(float(np.median(ratios)), float(low), float(high), len(ratios))
