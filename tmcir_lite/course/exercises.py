"""The check of an exercise: whether an answer was given, is right, or what to look at again."""

from typing import Any

import numpy as np


def check(answer: Any, right: Any, hint: str, within: float = 1e-4) -> None:
    """Prints "not answered yet", "right", or "not yet: " and the hint.

    Args:
        answer: `...` where nobody has answered; a number, text, list, array or tensor.
        right: what it should be; computed in the cell from the run, so that it holds in every profile.
        within: how far numbers may be off.
    """
    if answer is ...:
        print("not answered yet")
    elif _same(answer, right, within):
        print("right")
    else:
        print(f"not yet: {hint}")


def _same(answer: Any, right: Any, within: float) -> bool:
    try:
        given, wanted = np.asarray(answer, dtype=float), np.asarray(right, dtype=float)
    except (TypeError, ValueError):  # texts, or what is no answer at all
        return answer == right
    return given.shape == wanted.shape and bool(np.allclose(given, wanted, rtol=0, atol=within))
