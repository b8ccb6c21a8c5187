"""Pseudo-targets of known quality, for the study: drawn by the world itself instead of by a diffusion model."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tmcir_lite.data.garments import Garment, Picture, sample_change
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.data.scenes import Scene, Shot, sample_edit
from tmcir_lite.io.files import atomic
from tmcir_lite.pseudo_targets.compare import Known

Spoil = Literal["copy", "wrong"]


def known_edit(triplet: Triplet, known: Known, spoil: Spoil | None, rng: random.Random) -> Picture | Shot:
    """The perfect edit of a triplet's reference: what the target shows, photographed as the reference was.

    Args:
        known: what each image shows.
        spoil: "copy" returns the reference as it is; "wrong" changes other attributes instead: of a garment as many, of
            a scene what another edit changes.
    """
    (before, photographed), (after, _) = known[triplet.reference_name], known[triplet.target_name]
    shown = {None: lambda: after, "copy": lambda: before, "wrong": lambda: _wrong(rng, before, after)}
    return type(known[triplet.reference_name])(shown[spoil](), photographed)


def _wrong(rng: random.Random, before: Garment | Scene, after: Garment | Scene) -> Garment | Scene:
    asked = before.differences(after)
    if isinstance(before, Garment):
        return sample_change(rng, before, len(asked), keep=asked)
    return sample_edit(rng, before, fits=lambda scene: not set(asked) & set(before.differences(scene))).target


def draw_known_edits(
    triplets: Sequence[Triplet],
    known: Known,
    folder: Path,
    spoil: Spoil,
    share: float,
    seed: int,
) -> None:
    """Draws `<id>.png` for each triplet into `folder`: perfect edits, of which `share` (0 to 1) are spoiled."""
    for triplet in triplets:
        rng = random.Random(f"{seed}/{triplet.id}")
        spoiled = spoil if rng.random() < share else None
        with atomic(folder / f"{triplet.id}.png") as path:
            known_edit(triplet, known, spoiled, rng).draw().save(path, compress_level=1)
