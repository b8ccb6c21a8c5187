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
from tmcir_lite.data.scenes import KINDS, LOOKS, SLOTS, Scene, Shot, edit_between
from tmcir_lite.evaluation.intervals import percentage
from tmcir_lite.pseudo_targets.scene_reading import read_scene, scene_backdrop_error

_SURE = 0.4  # of the way to the next-best drawing


def sample_edits(count: int, seed: int) -> list[tuple[Picture, Picture, str]]:
    """Held-out garments: (reference, perfect edit, relative caption), one to three changes; of the pretraining half."""
    rng = random.Random(f"edit quality {seed}")
    edits = []
    for number in range(count):
        reference = Picture(sample_garment(rng, CATEGORIES[number % 3], pretraining=True), sample_nuisance(rng))
        edited = sample_change(rng, reference.garment, rng.choice((1, 2, 3)))
        text = relative_caption(rng, reference.garment, edited)
        edits.append((reference, Picture(edited, reference.nuisance), text))
    return edits


def read_edits(edits: Iterable[tuple[Picture | Shot, Garment | Scene, Image.Image]]) -> pd.DataFrame:
    """One row for each attribute (of a garment) or slot (of a scene) of each edit.

    Columns: edit, attribute, asked, shown (a scene's slots: whether the reference has a value there), sure, right,
    backdrop; of garments also changes, their number, of scenes kind. `right` says that an asked-for attribute was read
    as asked, or any other as in the reference, and that the reading was `sure` (see `Reading` and `SceneReading`).
    `backdrop` is the error where nothing is, in grey levels (root of mean square).

    Args:
        edits: what the reference shows, the garment or scene asked for, and the edited picture.
    """
    rows = []
    for number, (reference, asked, picture) in enumerate(edits):
        read = _read_scene if isinstance(reference, Shot) else _read_garment
        error = backdrop_error(picture, reference, asked)
        rows += [{"edit": number, **row, "backdrop": error} for row in read(reference, asked, picture)]
    return pd.DataFrame(rows)


def _read_garment(reference: Picture, asked: Garment, picture: Image.Image) -> list[dict]:
    changed = reference.garment.differences(asked)
    reading = read_garment(picture, (reference.garment, asked), reference.nuisance)
    wrong = asked.differences(reading.garment)
    return [
        {"changes": len(changed), "attribute": name, "asked": name in changed, "shown": True,
         "sure": name in reading.sure, "right": name in reading.sure and name not in wrong}
        for name in ATTRIBUTES
    ]  # fmt: skip


def _read_scene(reference: Shot, asked: Scene, picture: Image.Image) -> list[dict]:
    edit, before = edit_between(reference.scene, asked), reference.scene.slots()
    wanted, reading = asked.slots(), read_scene(picture, reference, _SURE)
    found = [value for look in reading.looks for value in look or (None,) * len(LOOKS)]
    sure = [certain for certain in reading.sure for _ in LOOKS]
    return [
        {"kind": edit.kind, "attribute": name, "asked": before[name] != wanted[name], "shown": before[name] is not None,
         "sure": certain, "right": certain and value == wanted[name]}
        for name, value, certain in zip(SLOTS, found, sure, strict=True)
    ]  # fmt: skip


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


def backdrop_error(picture: Image.Image, reference: Picture | Shot, asked: Garment | Scene) -> float:
    """Root mean square error against the reference where nothing is, before or after, in grey levels (0 to 255)."""
    if isinstance(reference, Shot):
        return scene_backdrop_error(picture, reference, asked)
    where = outside(reference.garment, reference.nuisance) & outside(asked, reference.nuisance)
    error = np.asarray(picture, np.float32)[where] - np.asarray(reference.draw(), np.float32)[where]
    return float(np.sqrt(np.square(error).mean()))


def quality_table(rows: pd.DataFrame) -> pd.DataFrame:
    """In % with 95% intervals: of garments per attribute, per number of changes and in all; of scenes per kind of edit.

    Achieved: of garments the asked-for attributes that are right; of scenes the edits of which every slot that changes
    is right. Kept: of what was not asked for and is shown, what is right. Of scenes also how many of the other places
    stay empty, and how many edits are right in every slot. Unsure: attributes or slots that the reading is not sure of,
    which count as neither achieved nor kept.
    """
    if "kind" in rows:
        parts = [(kind, rows[rows["kind"] == kind]) for kind in KINDS]
        return pd.DataFrame({"which": name, **_scene_columns(part)} for name, part in [*parts, ("all", rows)])
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


def _scene_columns(rows: pd.DataFrame) -> dict[str, str]:
    others = rows[~rows["asked"]]
    return {
        "achieved %": _percentage(rows[rows["asked"]].groupby("edit")["right"].all()),
        "kept %": _percentage(others[others["shown"]]["right"]),
        "stayed empty %": _percentage(others[~others["shown"]].iloc[:: len(LOOKS)]["right"]),
        "all right %": _percentage(rows.groupby("edit")["right"].all()),
        "unsure %": _percentage(~rows["sure"]),
    }


def _percentage(right: pd.Series) -> str:
    return percentage(int(right.sum()), len(right))
