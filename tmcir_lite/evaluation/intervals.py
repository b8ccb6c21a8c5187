"""Numbers with their uncertainty."""

from functools import lru_cache
from math import sqrt

import numpy as np

_Z = 1.96  # of a 95% interval


def percentage(hits: int, count: int) -> str:
    """`hits` out of `count` in %, with Wilson's 95% interval: "80.0 (49.0 to 94.3)"; "none such" without any."""
    if count == 0:
        return "none such"
    p = hits / count
    centre, spread = p + _Z * _Z / (2 * count), _Z * sqrt(p * (1 - p) / count + _Z * _Z / (4 * count * count))
    low, high = (100 * (centre + sign * spread) / (1 + _Z * _Z / count) for sign in (-1, 1))
    return f"{100 * p:.1f} ({max(low, 0.0):.1f} to {high:.1f})"


def paired_difference(a: np.ndarray, b: np.ndarray, draws: int = 2000) -> tuple[float, float, float]:
    """The mean difference of two methods and its 95% interval, by a bootstrap over seeds and queries at once.

    Args:
        a, b: seeds x queries, of the same seeds and queries: each draw takes both with the same repetitions.
        draws: of seeds and of queries, with replacement.

    Returns:
        Mean of `a - b`, lower end, upper end.
    """
    difference = np.asarray(a, dtype=float) - b
    by_seed, by_query = _repetitions(*difference.shape, draws)
    means = ((by_seed @ difference) * by_query).sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


@lru_cache(maxsize=8)  # drawing them is nearly all of the work, and a study compares many pairs of the same sizes
def _repetitions(seeds: int, queries: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """The share of each seed in every draw, draws x seeds, and of each query."""
    rng = np.random.default_rng(0)
    by_seed = rng.multinomial(seeds, [1 / seeds] * seeds, size=draws) / seeds
    by_query = rng.multinomial(queries, [1 / queries] * queries, size=draws) / queries
    return by_seed, by_query
