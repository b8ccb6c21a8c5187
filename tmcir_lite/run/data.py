"""The main dataset as a run has it: what is trained on, what choices are made on, and what is shown to IACMA."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tmcir_lite.config import Config
from tmcir_lite.data.batches import source
from tmcir_lite.data.datasets import Split, load_split
from tmcir_lite.data.garments import Garment, Picture, World, build_world, read_attributes
from tmcir_lite.data.holdout import hold_out
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.data.picture_files import remembering
from tmcir_lite.data.scenes import Scene, SceneQuery, SceneWorld, Shot, build_scenes, read_edits, read_scenes
from tmcir_lite.io.files import InputError, resolve
from tmcir_lite.io.processes import main_first, pick_device
from tmcir_lite.pseudo_targets.generate import without_picture
from tmcir_lite.run.folder import start_run


class Data(NamedTuple):
    """The main dataset: its splits, and train parted into what is learned from and what choices are made on.

    And the val splits of further datasets, loaded with it so that what is wrong with them shows before training.
    """

    train: Split
    val: Split
    kept: list[Triplet]
    held: list[Triplet]
    further: list[Split]
    neighbours: int = 1
    """Batches of stage 2 are made of groups of this many near targets: more than 1 gives hard negatives."""


def prepare_data(cfg: Config, rules: Mapping[str, float] | None = None) -> Data:
    """Draws the worlds that the profile has, then loads and checks the dataset.

    Args:
        rules: of the garment world that no profile has (`World`), such as how far targets drift.

    Raises:
        InputError: see `garments.build_world` and `datasets.load_split`; or `data.edits_together` asks for what the
            triplets do not have.
    """
    with main_first(pick_device(cfg.device)):
        start_run(cfg)
        draw_worlds(cfg, rules)
    with remembering(cfg.run_dir / "decoded.txt"):
        train, val = (
            load_split(cfg.data.root, cfg.data.layout, name, cfg.data.categories, cfg.data.skip_missing)
            for name in ("train", "val")
        )
        further = [load_split(other.root, other.layout, "val", skip_missing=cfg.data.skip_missing)
                   for other in cfg.data.also_evaluate]  # fmt: skip
    kept, held = hold_out(train, cfg.data.heldout, cfg.seed)
    if cfg.data.edits_together > 1 and len({source(triplet) for triplet in kept}) == len(kept):
        raise InputError(f"data.edits_together: {cfg.data.edits_together}: no two of the {len(kept)} triplets to "
                         "train on have one source (reference or, of CIRR, img_set); write 1")  # fmt: skip
    return Data(train, val, kept, held, further)


def draw_worlds(cfg: Config, rules: Mapping[str, float] | None = None) -> None:
    """Draws the worlds that the profile has, unless they are there; takes and raises what `prepare_data` does."""
    if cfg.garments is not None:
        settings = cfg.garments.model_dump()
        root = resolve(settings.pop("root"))
        build_world(World(**settings, **(rules or {})), root)
    if cfg.scenes is not None:
        settings = cfg.scenes.model_dump()
        root = resolve(settings.pop("root"))
        build_scenes(SceneWorld(**settings), root)


def target_images(data: Data) -> dict[str, Path]:
    """Triplet id -> its real target's picture."""
    return {triplet.id: data.train.images[triplet.target_name] for triplet in data.train.triplets}


def iacma_images(cfg: Config, data: Data) -> dict[str, Path]:
    """Triplet id -> the pseudo-target that IACMA pairs with its text; those that the editor blacked are left out.

    Raises:
        InputError: pseudo-targets are missing.
    """
    folder = cfg.run_dir / "pseudo_targets"
    chosen, without = data.train.triplets[: cfg.editor.limit], without_picture(folder)
    images = {triplet.id: folder / f"{triplet.id}.png" for triplet in chosen if triplet.id not in without}
    missing = [path for path in images.values() if not path.is_file()]
    if missing:
        raise InputError(f"{missing[0]}: no such pseudo-target ({len(missing)} missing); run `pseudo-targets` first")
    if len(images) < len(chosen):
        print(f"IACMA learns without {len(chosen) - len(images)} of {len(chosen)} triplets: their pseudo-targets were "
              "blacked by the editor's safety checker", flush=True)  # fmt: skip
    return images


def known_attributes(split: Split) -> dict[str, Picture] | dict[str, Shot] | None:
    """What every picture of a drawn world shows and how it was photographed; None for a dataset of real pictures."""
    if (split.root / "edits.jsonl").is_file():
        return read_scenes(split.root)
    return read_attributes(split.root) if (split.root / "attributes.jsonl").is_file() else None


def known_contents(split: Split) -> dict[str, Garment] | dict[str, Scene] | None:
    """The garment or the scene that every picture of a drawn world shows; None for a dataset of real pictures."""
    known = known_attributes(split)
    return known and {name: shows for name, (shows, _) in known.items()}


def scene_queries(split: Split) -> dict[str, SceneQuery] | None:
    """Triplet id -> its edit, of the world of scenes; None for any other dataset."""
    return read_edits(split.root) if (split.root / "edits.jsonl").is_file() else None


def sample(triplets: list[Triplet], count: int, seed: int) -> list[Triplet]:
    """Triplets to show, drawn by a fixed rule and not by hand."""
    return random.Random(seed).sample(triplets, min(count, len(triplets)))
