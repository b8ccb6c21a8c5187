"""The run's pseudo-targets beside perfect edits and real targets, read back by drawing (see `quality`)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from diffusers import DiffusionPipeline
from PIL import Image

from tmcir_lite.config import EditorSettings
from tmcir_lite.data.captions import join_captions
from tmcir_lite.data.datasets import Split
from tmcir_lite.data.garments import Picture
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.data.pictures import load_image
from tmcir_lite.data.scenes import Shot
from tmcir_lite.pseudo_targets.editors import edit
from tmcir_lite.pseudo_targets.quality import backdrop_error, read_edits

Known = dict[str, Picture] | dict[str, Shot]
"""Image name -> what it shows and how it was photographed, in a drawn world."""


def perfect_edit(known: Known | None, triplet: Triplet) -> Image.Image | None:
    """What the target shows, photographed as the reference was; None where that is not known."""
    if known is None:
        return None
    (_, photographed), (shows, _) = known[triplet.reference_name], known[triplet.target_name]
    return type(known[triplet.target_name])(shows, photographed).draw()


def read_pseudo_targets(folder: Path, known: Known, triplets: Sequence[Triplet]) -> pd.DataFrame:
    """What the pseudo-targets of `triplets` in a folder show; `quality.read_edits` says how."""
    return _read(known, triplets, [load_image(folder / f"{t.id}.png") for t in triplets])


def _read(known: Known, triplets: Sequence[Triplet], pictures: Sequence[Image.Image]) -> pd.DataFrame:
    return read_edits((known[t.reference_name], known[t.target_name][0], picture)
                      for t, picture in zip(triplets, pictures, strict=True))  # fmt: skip


def best_and_worst(rows: pd.DataFrame, count: int) -> tuple[list[int], list[int]]:
    """Which edits of `read_edits` have most and which have fewest attributes right; ties in the order they came."""
    right = rows.groupby("edit")["right"].sum()
    return (
        right.sort_values(ascending=False, kind="stable").index[:count].tolist(),
        right.sort_values(kind="stable").index[:count].tolist(),
    )


def differences(known: Known, train: Split, triplets: Sequence[Triplet], rows: pd.DataFrame) -> pd.DataFrame:
    """How pseudo-targets, perfect edits and real targets differ from the reference: asked for, not asked for, backdrop.

    `backdrop` is `quality.backdrop_error`. Of real targets the attributes are known and need not be read.
    """
    backdrop = [
        backdrop_error(load_image(train.images[t.target_name]), known[t.reference_name], known[t.target_name][0])
        for t in triplets
    ]
    return pd.DataFrame(
        {"pseudo-target": _summary(rows), "perfect edit": (100.0, 100.0, 0.0),
         "real target": (100.0, 100.0, float(np.mean(backdrop)))},
        index=["asked-for changes made %", "other attributes kept %", "change of backdrop (grey levels)"],
    ).T  # fmt: skip


def sweep(pipeline: DiffusionPipeline, settings: Sequence[EditorSettings], known: Known, train: Split,
          triplets: Sequence[Triplet]) -> pd.DataFrame:  # fmt: skip
    """Edits the same references with the same seeds under each of `settings`; a row each."""
    references = [load_image(train.images[t.reference_name]) for t in triplets]
    prompts = [join_captions(t.captions, "and") for t in triplets]
    table = []
    for chosen in settings:
        pictures = edit(pipeline, references, prompts, range(len(triplets)), chosen)
        made, kept, backdrop = _summary(_read(known, triplets, pictures))
        table.append({"steps": chosen.steps, "guidance": chosen.guidance, "image guidance": chosen.image_guidance,
                      "made %": made, "kept %": kept, "backdrop": backdrop})  # fmt: skip
    return pd.DataFrame(table)


def _summary(rows: pd.DataFrame) -> tuple[float, float, float]:
    asked, right = rows["asked"], 100 * rows["right"]
    return right[asked].mean(), right[~asked & rows["shown"]].mean(), rows.groupby("edit")["backdrop"].first().mean()
