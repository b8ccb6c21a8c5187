"""Words in a row, as English puts them."""

from collections.abc import Sequence


def listed(parts: Sequence[str]) -> str:
    """Joins as English does: a; a and b; a, b and c."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
