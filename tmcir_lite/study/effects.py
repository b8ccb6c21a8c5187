"""What differs between cells of the study, paired by seed and query, with intervals: the claims, and every change."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from tmcir_lite.evaluation.intent import MEASURES
from tmcir_lite.evaluation.intervals import paired_difference
from tmcir_lite.study.plan import MAIN, TUNING, Plan

HOLDS, REVERSE, NEITHER = "holds here", "the reverse holds here", "no difference shown"
"""What one effect says of a claim."""

_DIFFERENCE = ("layout", "difference", "low", "high", "seeds")
EFFECTS = ("claim", "effect", "measure", *_DIFFERENCE, "verdict")
CHANGES = ("part", "cell", "against", *_DIFFERENCE)
"""The columns of the two tables, also where nothing can be compared yet."""


def claims(plan: Plan, outcomes: pd.DataFrame) -> pd.DataFrame:
    """A row for each effect that tests a claim, on each layout: the difference, its 95% interval, the verdict.

    Args:
        outcomes: a row a cell, seed, layout and query: the rank of its target, its intent measures.
    """
    cells = _by_cell(outcomes)
    rows = [
        {"claim": claim.claim, "effect": f"{test[0]} - {test[1]}", "measure": claim.measure, **effect,
         "verdict": judge(effect["low"], effect["high"])}
        for claim in plan.claims for test in claim.tests for effect in _effects(cells, *test, claim.measure)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=EFFECTS)


def changes(plan: Plan, outcomes: pd.DataFrame) -> pd.DataFrame:
    """A row for each cell beside the main ones, on each layout: R@1 less that of the cell it is compared with.

    Cells of different worlds have different queries, and are not compared.
    """
    cells, worlds = _by_cell(outcomes), {cell.name: cell.world for cell in plan.cells}
    rows = [
        {"part": cell.part, "cell": cell.name, "against": plan.against(cell), **effect}
        for cell in plan.cells if cell.part not in (MAIN, TUNING) and worlds[plan.against(cell)] == cell.world
        for effect in _effects(cells, cell.name, plan.against(cell), "R@1")
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=CHANGES)


def judge(low: float, high: float) -> str:
    """What an effect's interval says of a claim that it is above 0."""
    if low > 0:
        return HOLDS
    return REVERSE if high < 0 else NEITHER


def _by_cell(outcomes: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return dict(iter(outcomes.groupby("cell")))


def _effects(cells: Mapping[str, pd.DataFrame], first: str, second: str, measure: str) -> Iterator[dict]:
    """First cell minus second on each layout, over the seeds that both have; nothing where they share none.

    Nor is there any of an intent measure where no picture's attributes are known.
    """
    if not {first, second} <= cells.keys() or (measure in MEASURES and measure not in cells[first]):
        return
    seeds = sorted(set(cells[first]["seed"]) & set(cells[second]["seed"]))
    for layout in cells[first]["layout"].unique() if seeds else ():
        a, b = (_values(cells[name], seeds, layout, measure) for name in (first, second))
        difference, low, high = paired_difference(a, b)
        yield {"layout": layout, "difference": difference, "low": low, "high": high, "seeds": len(seeds)}


def _values(outcomes: pd.DataFrame, seeds: Sequence[int], layout: str, measure: str) -> np.ndarray:
    """Seeds x queries, in %."""
    rows = outcomes[outcomes["layout"] == layout]
    values = rows[measure] if measure in MEASURES else 100.0 * (rows["rank"] <= int(measure.removeprefix("R@")))
    return np.stack([values[rows["seed"] == seed].to_numpy() for seed in seeds])
