"""How well an editor does what it is told, read off its pictures by drawing: no network judges."""

import dataclasses
import random
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from PIL import Image

from tmcir_lite.garments import (
    ATTRIBUTES,
    CATEGORIES,
    Garment,
    Nuisance,
    Picture,
    draw,
    other_values,
    relative_caption,
    sample_change,
    sample_garment,
    sample_nuisance,
)

Editor = Callable[[Sequence[Image.Image], Sequence[str], Sequence[int]], list[Image.Image]]


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


def measure_editor(edit: Editor, edits: Sequence[tuple[Picture, Picture, str]]) -> pd.DataFrame:
    """Runs an editor on `edits` and reads its pictures; see `read_edits`."""
    pictures = edit([reference.draw() for reference, *_ in edits], [text for *_, text in edits], range(len(edits)))
    return read_edits((reference, perfect.garment, picture)
                      for (reference, perfect, _), picture in zip(edits, pictures, strict=True))  # fmt: skip


def read_edits(edits: Iterable[tuple[Picture, Garment, Image.Image]]) -> pd.DataFrame:
    """One row for each attribute of each edit: columns edit, changes, attribute, asked (bool), right (bool).

    `right` says that an asked-for attribute was read as asked, or any other as in the reference (see `read_garment`).

    Args:
        edits: what the reference shows, the garment asked for, and the edited picture.
    """
    rows = []
    for number, (reference, asked, picture) in enumerate(edits):
        changed = reference.garment.differences(asked)
        wrong = asked.differences(read_garment(picture, (reference.garment, asked), reference.nuisance))
        rows += [
            {"edit": number, "changes": len(changed), "attribute": name, "asked": name in changed,
             "right": name not in wrong} for name in ATTRIBUTES
        ]  # fmt: skip
    return pd.DataFrame(rows)


def read_garment(picture: Image.Image, starts: Sequence[Garment], nuisance: Nuisance) -> Garment:
    """The garment whose drawing under the known nuisance is nearest to the picture (squared error).

    The search starts at the nearest of `starts` and improves one attribute after the other, twice over. A picture that
    is far from every drawing is still read as the nearest one found; the search does not say "unsure".
    """
    pixels = np.asarray(picture, dtype=np.float32)

    def error(garment: Garment) -> float:
        return float(np.square(np.asarray(draw(garment, nuisance), dtype=np.float32) - pixels).mean())

    best = min(starts, key=error)
    for name in ATTRIBUTES * 2:
        others = [dataclasses.replace(best, **{name: value}) for value in other_values(best, name)]
        best = min([best, *others], key=error)
    return best


def quality_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Per attribute and in all: achieved (asked-for attributes right) and kept (others right), % with 95% intervals."""
    parts = [(name, rows[rows["attribute"] == name]) for name in ATTRIBUTES]
    parts += [(f"{n} change{'s' * (n > 1)}", rows[rows["changes"] == n]) for n in (1, 2, 3)]
    return pd.DataFrame(
        {
            "which": name,
            "achieved %": _share(part[part["asked"]]["right"]),
            "kept %": _share(part[~part["asked"]]["right"]),
        }
        for name, part in [*parts, ("all", rows)]
    )


def _share(right: pd.Series) -> str:
    """A percentage with its Wilson 95% interval."""
    if len(right) == 0:
        return "none such"
    n, p, z = len(right), right.mean(), 1.96
    centre, spread = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (100 * (centre + sign * spread) / (1 + z * z / n) for sign in (-1, 1))
    return f"{100 * p:.1f} ({low:.1f} to {high:.1f})"
