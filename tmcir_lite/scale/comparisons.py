"""Two things that take turns, and the ratio of what they take."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

_SHORTEST = 0.05  # seconds: what takes less is repeated


class Taken(NamedTuple):
    """What one side of a comparison gives if it does not leave it to others to time it."""

    result: Any
    amount: float


Side = Callable[[], Any]


@dataclass(frozen=True)
class Comparison:
    """One row: what `run` takes as a ratio to what `bare` takes.

    Both give their result, and the time of the call is measured; or a `Taken`.
    """

    name: str
    against: str
    run: Side
    bare: Side
    goal: float | None = None
    """At most this; None: it is only told."""
    quicker: bool = False
    """The ratio is the other way round: how many times quicker `run` is, and the goal is at least so many."""
    same: Callable[[Any, Any], bool] | None = None
    """Whether two results are the same; None: they are of different things."""
    share: float = 1.0
    """`run` does this many times what `bare` does; the ratio is of one share of it."""
    unit: str = "s"
    note: str = ""


class Sizes(NamedTuple):
    """How much is computed: about five minutes on two idle cores."""

    rounds: int = 7
    seconds: float = 20.0
    """A comparison takes about so long at most, but three rounds at least."""
    pictures: int = 384
    """encoded"""
    steps: int = 6
    """of an epoch"""
    architecture: str = "ViT-B-32"
    pairs: int = 4
    """in a batch of that architecture"""
    edits: int = 16
    """pictures edited at once"""
    merged: tuple[int, int, int, int] = (32, 64, 20, 128)
    """batch, visual tokens, text tokens, width"""
    queries: int = 500
    gallery: int = 50_000
    width: int = 512
    grown: tuple[int, int] = (500, 5_000)
    """triplets, pictures of a gallery; and 4 and 16 times as many"""
    largest: int = 1_000_000
    """pictures of a gallery on disk"""


def measure(comparison: Comparison, sizes: Sizes) -> dict[str, str]:
    """One row of the table.

    Raises:
        RuntimeError: both sides are to compute the same and do not.
    """
    first = [_taken(side) for side in (comparison.run, comparison.bare)]  # also warms up
    if comparison.same is not None and not comparison.same(*(taken.result for taken in first)):
        raise RuntimeError(f"{comparison.name}: not the same result as {comparison.against}")
    spent = [taken.amount for taken in first] if comparison.unit == "s" else [0, 0]
    repeats = max(1, min(20, int(_SHORTEST / max(min(spent), 1e-6)))) if comparison.unit == "s" else 1
    rounds = max(3, min(sizes.rounds, int(sizes.seconds / max(repeats * sum(spent), 1e-6))))
    taken: list[tuple[float, float]] = []
    for number in range(rounds):
        order = (comparison.run, comparison.bare) if number % 2 else (comparison.bare, comparison.run)
        amounts = {side: sum(_taken(side).amount for _ in range(repeats)) / repeats for side in order}
        taken.append((amounts[comparison.run], amounts[comparison.bare]))
    ratios = [run / comparison.share / bare for run, bare in taken]
    if comparison.quicker:
        ratios = [1 / ratio for ratio in ratios]
    ratio, (low, _, high) = statistics.median(ratios), statistics.quantiles(ratios, n=4)
    run, bare = (statistics.median(side) for side in zip(*taken, strict=True))
    goal, sign = comparison.goal, "\u2265" if comparison.quicker else "\u2264"
    met = "" if goal is None else "yes" if (ratio >= goal if comparison.quicker else ratio <= goal) else "no"
    return {
        "what": comparison.name,
        "against": comparison.against,
        "ratio": f"{ratio:.3g}",
        "quartiles": f"{low:.3g} to {high:.3g}",
        "goal": "" if goal is None else f"{sign} {goal:g}",
        "met": met,
        "took": f"{run:.3g} {comparison.unit}",
        "the other": f"{bare:.3g} {comparison.unit}",
        "note": comparison.note,
    }


def _taken(side: Side) -> Taken:
    started = time.perf_counter()
    result = side()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result if isinstance(result, Taken) else Taken(result, time.perf_counter() - started)
