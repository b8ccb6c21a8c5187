"""The two profiles of a rehearsal: the one that it runs, on stand-ins, and the one that it leaves, with what fits."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from PIL import Image

from tmcir_lite.config import Config, EditorSettings, GarmentsSettings
from tmcir_lite.data.pictures import load_image
from tmcir_lite.io.files import resolve, write_text
from tmcir_lite.pseudo_targets.editors import half_precision, sees_reference
from tmcir_lite.run.data import prepare_data
from tmcir_lite.scale.standins import random_backbone, random_editor

STEPS = 2  # optimizer steps an epoch; the second of two epochs is timed, when all is warm
_SIDE = 512  # pixels of a stand-in picture, about what the real photos have


def with_stand_ins(cfg: Config, folder: Path, device: torch.device) -> Config:
    """The profile with drawn pictures, random models and two short epochs; draws and saves them below `folder`.

    Raises:
        InputError: an unknown architecture, or an editor that has no stand-in.
    """
    pairs = max(cfg.iacma.batch, cfg.atf.batch, cfg.clip4cir.batch)
    train = int(STEPS * pairs / (1 - cfg.data.heldout)) + 12
    sizes = {"train": train, "cirr_train": 2} if cfg.data.layout == "fashioniq" else {"train": 3, "cirr_train": train}
    garments = GarmentsSettings(root=str(folder / "world"), seed=0, val=6, gallery=8, cirr_val=12, family=2, **sizes)
    data = cfg.data.model_copy(update={
        "root": str(folder / "world" / cfg.data.layout), "categories": None, "also_evaluate": [], "workers": 0,
        "cache": str(folder / "pictures"), "edits_together": 1,
    })  # fmt: skip
    backbone, editor = cfg.backbone, cfg.editor.model_copy(update={"limit": None, "steps": _few_steps(cfg.editor)})
    if not backbone.name.startswith("local-dir:"):
        random_backbone(backbone.name, folder / "clip", backbone.target_pad)
        backbone = backbone.model_copy(update={"name": f"local-dir:{folder / 'clip'}", "pretrained": None})
    if not resolve(editor.model).is_dir():
        with _default_dtype(half_precision(device)):
            random_editor(editor.pipeline).save_pretrained(folder / "editor")
        editor = editor.model_copy(update={"model": str(folder / "editor"), "revision": None})
    small = cfg.model_copy(update={
        "name": "run", "runs": str(folder), "garments": garments, "scenes": None, "data": data,
        "backbone": backbone, "editor": editor,
        **_changed(cfg, ("iacma", "atf", "clip4cir"), epochs=2),
        **_changed(cfg, ("combiner", "pic2word"), epochs=1, batch=pairs),
    })  # fmt: skip
    loaded = prepare_data(small)
    for path in {*loaded.train.images.values(), *loaded.val.images.values()}:
        load_image(path).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(path, compress_level=1)
    return small


def _changed(cfg: Config, sections: tuple[str, ...], **changes) -> dict:
    return {name: getattr(cfg, name).model_copy(update=changes) for name in sections}


def _few_steps(settings: EditorSettings) -> int:
    """As few sampling steps as the editor can do with."""
    few = range(2, settings.steps)
    return next((n for n in few if settings.strength is None or sees_reference(n, settings.strength)), settings.steps)


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Makes new models in this number format: random weights of billions of parameters fit only in half precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def write_filled(cfg: Config, found: dict[str, dict], path: Path) -> Path:
    """Writes the profile to `path`, with what was found to fit.

    Args:
        found: section -> key -> value.
    """
    values = cfg.model_dump()
    for section, changes in found.items():
        values[section] |= changes
    heading = "# Written by a rehearsal: the profile, with the batches that fit this machine.\n"
    write_text(path, heading + yaml.safe_dump(values, sort_keys=False))
    return path
