"""Percentages with the uncertainty that comes from counting."""

from math import sqrt

_Z = 1.96  # of a 95% interval


def percentage(hits: int, count: int) -> str:
    """`hits` out of `count` in %, with Wilson's 95% interval: "80.0 (49.0 to 94.3)"; "none such" without any."""
    if count == 0:
        return "none such"
    p = hits / count
    centre, spread = p + _Z * _Z / (2 * count), _Z * sqrt(p * (1 - p) / count + _Z * _Z / (4 * count * count))
    low, high = (100 * (centre + sign * spread) / (1 + _Z * _Z / count) for sign in (-1, 1))
    return f"{100 * p:.1f} ({max(low, 0.0):.1f} to {high:.1f})"
