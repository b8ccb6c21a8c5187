"""Pseudo-targets of known quality, for the study: drawn by the garment world itself instead of by a diffusion model."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from tmcir_lite.data.garments import Picture, sample_change
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.io.files import atomic

Spoil = Literal["copy", "wrong"]


def known_edit(triplet: Triplet, known: Mapping[str, Picture], spoil: Spoil | None, rng: random.Random) -> Picture:
    """The perfect edit of a triplet's reference: the target's garment, and background, position and light as they were.

    Args:
        known: what each image shows.
        spoil: "copy" returns the reference as it is; "wrong" changes as many other attributes instead.
    """
    reference, target = known[triplet.reference_name], known[triplet.target_name]
    asked = reference.garment.differences(target.garment)
    garments = {
        None: lambda: target.garment,
        "copy": lambda: reference.garment,
        "wrong": lambda: sample_change(rng, reference.garment, len(asked), keep=asked),
    }
    return Picture(garments[spoil](), reference.nuisance)


def draw_known_edits(
    triplets: Sequence[Triplet], known: Mapping[str, Picture], folder: Path, spoil: Spoil, share: float, seed: int
) -> None:
    """Draws `<id>.png` for each triplet into `folder`: perfect edits, of which `share` (0 to 1) are spoiled."""
    for triplet in triplets:
        rng = random.Random(f"{seed}/{triplet.id}")
        spoiled = spoil if rng.random() < share else None
        with atomic(folder / f"{triplet.id}.png") as path:
            known_edit(triplet, known, spoiled, rng).draw().save(path, compress_level=1)
