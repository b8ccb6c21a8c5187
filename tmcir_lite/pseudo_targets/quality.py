"""How well an editor does what it is told, read off its pictures by drawing: no network judges."""

import dataclasses
import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from tmcir_lite.data.garments import (
    ATTRIBUTES,
    CATEGORIES,
    Garment,
    Nuisance,
    Picture,
    draw,
    other_values,
    outside,
    relative_caption,
    sample_change,
    sample_garment,
    sample_nuisance,
)
from tmcir_lite.evaluation.intervals import percentage

_SURE = 0.4  # of the way to the next-best drawing


def sample_edits(count: int, seed: int) -> list[tuple[Picture, Picture, str]]:
    """Held-out (reference, perfect edit, relative caption), one to three changes; of the pretraining half."""
    rng = random.Random(f"edit quality {seed}")
    edits = []
    for number in range(count):
        reference = Picture(sample_garment(rng, CATEGORIES[number % 3], pretraining=True), sample_nuisance(rng))
        edited = sample_change(rng, reference.garment, rng.choice((1, 2, 3)))
        text = relative_caption(rng, reference.garment, edited)
        edits.append((reference, Picture(edited, reference.nuisance), text))
    return edits


def read_edits(edits: Iterable[tuple[Picture, Garment, Image.Image]]) -> pd.DataFrame:
    """One row for each attribute of each edit: columns edit, changes, attribute, asked, sure, right, backdrop.

    `right` says that an asked-for attribute was read as asked, or any other as in the reference, and that the reading
    was `sure` (see `Reading`). `backdrop` is the error outside both garments, in grey levels (root of mean square).

    Args:
        edits: what the reference shows, the garment asked for, and the edited picture.
    """
    rows = []
    for number, (reference, asked, picture) in enumerate(edits):
        changed = reference.garment.differences(asked)
        reading = read_garment(picture, (reference.garment, asked), reference.nuisance)
        wrong, error = asked.differences(reading.garment), backdrop_error(picture, reference, asked)
        rows += [
            {"edit": number, "changes": len(changed), "attribute": name, "asked": name in changed,
             "sure": name in reading.sure, "right": name in reading.sure and name not in wrong, "backdrop": error}
            for name in ATTRIBUTES
        ]  # fmt: skip
    return pd.DataFrame(rows)


class Reading(NamedTuple):
    """The garment that a picture was read as, and the attributes that this is sure of.

    Let A be the drawing of the garment read and B that with one attribute changed, the nearest such. The reading is
    sure of the attribute if the picture lies less than 40% of the way from A to B: blends and blurs are "unsure".
    """

    garment: Garment
    sure: tuple[str, ...]


def read_garment(picture: Image.Image, starts: Sequence[Garment], nuisance: Nuisance) -> Reading:
    """The garment whose drawing under the known nuisance is nearest to the picture (squared error).

    The search starts at the nearest of `starts` and improves one attribute after the other, until nothing changes.
    """
    pixels, drawn = np.asarray(picture, dtype=np.float32), {}

    def drawing(garment: Garment) -> np.ndarray:
        if garment not in drawn:
            drawn[garment] = np.asarray(draw(garment, nuisance), dtype=np.float32)
        return drawn[garment]

    def error(garment: Garment) -> float:
        return float(np.square(drawing(garment) - pixels).mean())

    def nearest(garment: Garment, name: str) -> Garment:
        return min((dataclasses.replace(garment, **{name: v}) for v in other_values(garment, name)), key=error)

    best, before = min(starts, key=error), None
    while best != before:
        before = best
        for name in ATTRIBUTES:
            best = min(best, nearest(best, name), key=error)
    sure = []
    for name in ATTRIBUTES:
        other = nearest(best, name)
        apart = float(np.square(drawing(best) - drawing(other)).mean())
        if error(other) - error(best) > (1 - 2 * _SURE) * apart:
            sure.append(name)
    return Reading(best, tuple(sure))


def backdrop_error(picture: Image.Image, reference: Picture, asked: Garment) -> float:
    """Root mean square error against the reference where neither garment is, in grey levels (0 to 255)."""
    where = outside(reference.garment, reference.nuisance) & outside(asked, reference.nuisance)
    error = np.asarray(picture, np.float32)[where] - np.asarray(reference.draw(), np.float32)[where]
    return float(np.sqrt(np.square(error).mean()))


def quality_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Per attribute, per number of changes and in all, % with 95% intervals.

    Achieved: asked-for attributes that are right; kept: others that are right; unsure: attributes that the reading is
    not sure of, which count as neither achieved nor kept.
    """
    parts = [(name, rows[rows["attribute"] == name]) for name in ATTRIBUTES]
    parts += [(f"{n} change{'s' * (n > 1)}", rows[rows["changes"] == n]) for n in (1, 2, 3)]
    return pd.DataFrame(
        {
            "which": name,
            "achieved %": _percentage(part[part["asked"]]["right"]),
            "kept %": _percentage(part[~part["asked"]]["right"]),
            "unsure %": _percentage(~part["sure"]),
        }
        for name, part in [*parts, ("all", rows)]
    )


def _percentage(right: pd.Series) -> str:
    return percentage(int(right.sum()), len(right))
