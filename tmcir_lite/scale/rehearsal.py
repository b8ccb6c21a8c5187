"""A rehearsal of a run: everything at its real size on stand-ins, a few steps each, to learn in minutes what it takes.

The stages are the run's own. Pictures are drawn, the models have the profile's architectures with random weights
(`standins`), so neither the dataset nor a download is needed; models in a local folder are taken as they are.
"""

import dataclasses
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
import yaml
from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound
from PIL import Image

from tmcir_lite.config import Config, EditorSettings, GarmentsSettings
from tmcir_lite.data.check import PUBLISHED
from tmcir_lite.data.datasets import load_split
from tmcir_lite.data.garments import World
from tmcir_lite.data.pictures import load_image
from tmcir_lite.evaluation.features import encode_images
from tmcir_lite.io.files import InputError, resolve, write_text
from tmcir_lite.io.processes import pick_device
from tmcir_lite.pseudo_targets.editors import edit, half_precision, load_editor, sees_reference
from tmcir_lite.run import measure, stages
from tmcir_lite.run.backbones import hub_id
from tmcir_lite.run.data import prepare_data
from tmcir_lite.run.models import load_start
from tmcir_lite.scale.standins import random_backbone, random_editor

_STEPS = 2  # optimizer steps an epoch; the second of two epochs is timed, when all is warm
_SIDE = 512  # pixels of a stand-in picture, about what the real photos have
_LARGEST = 64  # pictures an editor is tried with at once
_TRAININGS = (
    ("iacma", "iacma", stages.train_iacma),
    ("atf", "atf", stages.train_atf),
    ("control", "atf", stages.train_control),
    ("sum", "atf", stages.train_sum),
    ("clip4cir", "clip4cir", stages.train_clip4cir),
)
"""Folder in the run, section of the profile, stage."""
_PNG = 1.3  # bytes a pixel: of 26 photos of clothes, padded to 512 pixels, 0.7 in the mean and 1.2 at most
_PASSES = 8  # backbones that the evaluation encodes a gallery with


class Cost(NamedTuple):
    """What a stage of the run takes."""

    stage: str
    at_once: int
    """Pictures or pairs held in memory at once."""
    memory_gb: float
    rate: float
    """Items a second."""
    items: int
    """Of the whole run."""

    @property
    def hours(self) -> float:
        """Expected, on one such device."""
        return self.items / self.rate / 3600


def rehearse(cfg: Config) -> tuple[str, Path]:
    """Rehearses a profile's run in `<runs>/<name>-rehearsal`.

    Returns:
        A report, and the path of a profile like `cfg` with the batches that were found to fit.

    Raises:
        InputError: too little disk, an unknown architecture, or one pair that does not fit into memory.
    """
    device, folder = pick_device(cfg.device), cfg.run_dir.with_name(f"{cfg.name}-rehearsal")
    shutil.rmtree(folder, ignore_errors=True)
    triplets, gallery, source = _counts(cfg)
    small = _with_stand_ins(cfg, folder, device)
    lines = [f"device: {device}; {source}", *_weights(cfg), _disk(cfg, small, triplets)]
    print("\n".join(lines), flush=True)
    batch, editing = _rehearse_editor(small, device, cfg.editor.steps, cfg.editor.limit or triplets)
    found, costs = {"editor": {"batch": batch}}, [editing]
    stages.make_pseudo_targets(small)
    kept = round(triplets * (1 - cfg.data.heldout))
    for folder_name, section, train in _TRAININGS:
        small, cost = _rehearse_training(
            small, folder_name, section, train, device, kept * getattr(cfg, section).epochs
        )
        found[section] = {"chunk": getattr(small, section).chunk}
        costs.append(cost)
    stages.train_pic2word(small)
    measure.evaluate(small)
    costs.append(_rehearse_encoding(small, device, gallery * _PASSES))
    report = "\n".join([*lines, "", _table(costs), "", f"in all {sum(cost.hours for cost in costs):.2f} hours"])
    write_text(folder / "report.md", report + "\n")
    for used in (path for path in folder.iterdir() if path.is_dir()):
        shutil.rmtree(used)  # random weights of gigabytes
    return report, _fill_in(cfg, found, folder / "filled.yaml")


def _counts(cfg: Config) -> tuple[int, int, str]:
    """Train triplets, val gallery images, and where the numbers are from."""
    if cfg.garments is not None:
        g = cfg.garments
        sizes = (g.train, 3 * g.gallery) if cfg.data.layout == "fashioniq" else (g.cirr_train, 3 * g.cirr_val)
        return *sizes, f"{sizes[0]} train triplets, by the profile"
    root = resolve(cfg.data.root)
    if root.is_dir():
        train, val = (load_split(root, cfg.data.layout, name, cfg.data.categories, images=False)
                      for name in ("train", "val"))  # fmt: skip
        return len(train.triplets), sum(map(len, val.galleries.values())), f"{len(train.triplets)} triplets in {root}"
    published = PUBLISHED[cfg.data.layout]
    return (
        published["train"][0],
        published["val"][1],
        f"{root}: NOT THERE (data/README.md says how to get it); the published counts are used",
    )


def _weights(cfg: Config) -> list[str]:
    """Whether the real models are at hand."""
    try:
        cached = {repo.repo_id for repo in scan_cache_dir().repos}
    except CacheNotFound:
        cached = set()
    lines = []
    if not resolve(cfg.editor.model).is_dir():
        lines.append(f"editor {cfg.editor.model}: {_there(cfg.editor.model in cached)}")
    if not cfg.backbone.name.startswith("local-dir:"):
        hub = hub_id(cfg.backbone.name, cfg.backbone.pretrained)
        lines.append(f"backbone {cfg.backbone.name} ({hub}): {_there(hub in cached)}")
    return lines


def _there(cached: bool) -> str:
    return "in this machine's cache" if cached else "NOT in this machine's cache; it will be downloaded"


def _disk(cfg: Config, small: Config, triplets: int) -> str:
    weights = sum(path.stat().st_size for path in _folder(small.backbone.name).glob("*.safetensors"))
    pictures = _PNG * (cfg.editor.limit or triplets) * cfg.editor.size**2
    models = (3 * len(_TRAININGS) + 4) * weights  # three of each training stay, four of IACMA; three more at work
    need = (pictures + models) / 1e9
    free = shutil.disk_usage(small.run_dir.parent).free / 1e9
    if need > free:
        raise InputError(f"runs: {cfg.runs}: the run leaves about {need:.1f} GB, the disk has {free:.1f} GB free; "
                         "set runs to a folder on a larger disk")  # fmt: skip
    return f"disk: the run leaves about {need:.1f} GB, {free:.0f} GB are free"


def _folder(name: str) -> Path:
    return resolve(name.removeprefix("local-dir:"))


def _with_stand_ins(cfg: Config, folder: Path, device: torch.device) -> Config:
    """The profile with drawn pictures, random models and two short epochs."""
    pairs = max(cfg.iacma.batch, cfg.atf.batch, cfg.clip4cir.batch)
    train = int(_STEPS * pairs / (1 - cfg.data.heldout)) + 12
    sizes = {"train": train, "cirr_train": 2} if cfg.data.layout == "fashioniq" else {"train": 3, "cirr_train": train}
    world = World(seed=0, val=6, gallery=8, cirr_val=12, family=2, nuisance_drift=1.0, **sizes)
    garments = GarmentsSettings(root=str(folder / "world"), **dataclasses.asdict(world))
    data = cfg.data.model_copy(update={
        "root": str(folder / "world" / cfg.data.layout), "categories": None, "also_evaluate": [], "workers": 0,
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
        "name": "run", "runs": str(folder), "garments": garments, "data": data, "backbone": backbone, "editor": editor,
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
    """As few as the editor can do with."""
    few = range(2, settings.steps)
    return next((n for n in few if settings.strength is None or sees_reference(n, settings.strength)), settings.steps)


class _default_dtype:
    """Makes new models in this number format: random weights of billions of parameters fit only in half precision."""

    def __init__(self, dtype: torch.dtype):
        self._dtype = dtype

    def __enter__(self):
        self._before = torch.get_default_dtype()
        torch.set_default_dtype(self._dtype)

    def __exit__(self, *_):
        torch.set_default_dtype(self._before)


def _rehearse_editor(cfg: Config, device: torch.device, steps: int, items: int) -> tuple[int, Cost]:
    settings, data = cfg.editor, prepare_data(cfg)
    pipeline = load_editor(settings, device)
    picture = load_image(next(iter(data.train.images.values())))

    def draw(batch: int, steps: int) -> float:
        started = time.perf_counter()
        edit(pipeline, [picture] * batch, ["is red with longer sleeves"] * batch, list(range(batch)),
             settings.model_copy(update={"steps": steps}))  # fmt: skip
        return time.perf_counter() - started

    batch = settings.batch
    if device.type == "cuda":
        batch = _largest(lambda size: draw(size, settings.steps), 1, _LARGEST)
    _forget_peak(device)
    draw(batch, settings.steps)
    cost = Cost("pseudo-targets", batch, _peak(device), batch / draw(batch, steps), items)
    _say(cost)
    return batch, cost


def _largest(run: Callable[[int], object], smallest: int, largest: int) -> int:
    """The largest of smallest, 2 smallest, 4 smallest, ... that runs within memory."""
    fits, size = None, smallest
    while size <= largest:
        try:
            run(size)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        fits, size = size, 2 * size
    if fits is None:
        raise InputError(f"not even {smallest} at once fits into this GPU's memory; choose a smaller model")
    return fits


def _rehearse_training(
    cfg: Config, folder: str, section: str, train: Callable[[Config], pd.DataFrame], device: torch.device, items: int
) -> tuple[Config, Cost]:
    """Halves the number of pairs encoded at once until a training fits into memory; returns the profile that does."""
    batch = getattr(cfg, section).batch
    while True:
        chunk = getattr(cfg, section).chunk or batch
        _forget_peak(device)
        try:
            history = train(cfg)
            break
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            shutil.rmtree(cfg.run_dir / folder, ignore_errors=True)
        if chunk == 1:
            raise InputError(f"{section}: one pair does not fit into this GPU's memory; choose a smaller backbone or "
                             "backbone.gradient_checkpointing: true")  # fmt: skip
        smaller = getattr(cfg, section).model_copy(update={"chunk": chunk // 2})
        cfg = cfg.model_copy(update={section: smaller})
    seconds = max(float(history["seconds"].iloc[-1]), 0.05)  # the history gives tenths of a second
    cost = Cost(folder, chunk, _peak(device), _STEPS * batch / seconds, items)
    _say(cost)
    return cfg, cost


def _rehearse_encoding(cfg: Config, device: torch.device, items: int) -> Cost:
    data, backbone = prepare_data(cfg), load_start(cfg)
    paths = (list(data.train.images.values()) * 2)[:256]
    _forget_peak(device)
    encode_images(backbone, paths[:32])
    started = time.perf_counter()
    encode_images(backbone, paths)
    cost = Cost("evaluation", 128, _peak(device), len(paths) / (time.perf_counter() - started), items)
    _say(cost)
    return cost


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> float:
    """Peak memory in GB: of this stage on a GPU, of the whole process so far on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if sys.platform == "win32":
        import psutil  # comes with accelerate

        return psutil.Process().memory_info().peak_wset / 1e9
    import resource  # which Windows has not

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def _say(cost: Cost) -> None:
    print(f"{cost.stage}: {cost.rate:.3g}/s, {cost.memory_gb:.1f} GB, {cost.hours:.2f} h", flush=True)


def _table(costs: list[Cost]) -> str:
    table = pd.DataFrame([cost._asdict() | {"hours": cost.hours} for cost in costs])
    table.columns = ["stage", "at once", "memory (GB)", "per second", "items", "hours"]
    return table.round(2).to_markdown(index=False)


def _fill_in(cfg: Config, found: dict[str, dict], path: Path) -> Path:
    values = cfg.model_dump()
    for section, changes in found.items():
        values[section] |= changes
    heading = "# Written by a rehearsal: the profile, with the batches that fit this machine.\n"
    write_text(path, heading + yaml.safe_dump(values, sort_keys=False))
    return path
