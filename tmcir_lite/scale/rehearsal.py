"""A rehearsal of a run: everything at its real size on stand-ins, a few steps each, to learn in minutes what it takes.

The stages are the run's own. Pictures are drawn, the models have the profile's architectures with random weights
(`standins`), so neither the dataset nor a download is needed; models in a local folder are taken as they are.
"""

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch.utils.data import DataLoader

from tmcir_lite.config import Config
from tmcir_lite.data.batches import Examples
from tmcir_lite.data.picture_cache import picture_reader
from tmcir_lite.data.pictures import load_image
from tmcir_lite.evaluation.features import encode_images
from tmcir_lite.io.files import InputError, resolve, write_text
from tmcir_lite.io.processes import pick_device
from tmcir_lite.pretrain.model_card import device_name
from tmcir_lite.pseudo_targets.editors import edit, load_editor
from tmcir_lite.run import measure, stages
from tmcir_lite.run.data import prepare_data
from tmcir_lite.run.models import images_stay, load_start
from tmcir_lite.scale.needs import count_data, disk_needed, models_at_hand
from tmcir_lite.scale.rehearsal_profile import STEPS, with_stand_ins, write_filled

_LARGEST = 64  # pictures an editor is tried with at once
_TRAININGS = (
    ("iacma", "iacma", stages.train_iacma, 1),
    ("atf", "atf", stages.train_atf, 2),
    ("control", "atf", stages.train_control, 2),
    ("sum", "atf", stages.train_sum, 2),
    ("clip4cir", "clip4cir", stages.train_clip4cir, 2),
)
"""Folder in the run, section of the profile, stage, pictures of a pair where the image encoder is trained."""
_READ_AT_ONCE = 16
_PASSES = 8  # backbones that the evaluation encodes a gallery with


class ReadingRate(NamedTuple):
    """Pictures a second that are brought to the encoder's pixels."""

    ahead: float
    """By the profile's `data.workers`, while the device computes."""
    between: float
    """By the rehearsal itself, from its cache, before each step."""


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
        InputError: a run has this name, too little disk, an unknown architecture, or one pair that does not fit into
            memory.
    """
    device, folder = pick_device(cfg.device), cfg.run_dir.with_name(f"{cfg.name}-rehearsal")
    if (folder / "config.yaml").exists():
        raise InputError(f"{folder}: is a run of its own, and a rehearsal would take its place; choose another name=")
    shutil.rmtree(folder, ignore_errors=True)
    triplets, gallery, source = count_data(cfg)
    small = with_stand_ins(cfg, folder, device)
    disk = disk_needed(cfg, small, triplets, len(_TRAININGS))
    lines = [f"device: {device_name(device.type)}; {source}", *models_at_hand(cfg), disk]
    print("\n".join(lines), flush=True)
    batch, editing = _rehearse_editor(small, device, cfg.editor.steps, cfg.editor.limit or triplets)
    found, costs = {"editor": {"batch": batch}}, [editing]
    stages.make_pseudo_targets(small)
    reading, kept, once = _rehearse_reading(small, cfg), round(triplets * (1 - cfg.data.heldout)), 0
    for folder_name, section, train, pictures in _TRAININGS:
        items = kept * getattr(cfg, section).epochs
        if section != "iacma" and images_stay(getattr(small, section)):
            pictures, once = 0, 2 * triplets
        small, cost = _rehearse_training(small, folder_name, section, train, device, items, pictures, reading)
        found[section] = {"chunk": getattr(small, section).chunk}
        costs.append(cost)
    stages.train_pic2word(small)
    measure.evaluate(small)
    costs.append(_rehearse_encoding(small, device, gallery * _PASSES + once))
    said = (f"reading: {reading.ahead:.3g} pictures a second with data.workers: {cfg.data.workers}; no training is "
            "quicker than its pictures are read, and data.cache reads photos once")  # fmt: skip
    report = "\n".join([*lines, "", _table(costs), "", said, f"in all {sum(c.hours for c in costs):.2f} hours"])
    write_text(folder / "report.md", report + "\n")
    for used in (path for path in folder.iterdir() if path.is_dir()):
        shutil.rmtree(used)  # random weights of gigabytes
    return report, write_filled(cfg, found, folder / "filled.yaml")


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


def _rehearse_reading(small: Config, cfg: Config) -> ReadingRate:
    """Reads the drawn pictures as the profile would, and from the rehearsal's own cache."""
    data, backbone = prepare_data(small), load_start(small)
    paths = list(dict.fromkeys(data.train.images.values()))
    cache = resolve(small.data.cache)

    def rate(folder: Path | None, workers: int) -> float:
        read = picture_reader(paths, backbone.transform, folder)
        count = 8 * _READ_AT_ONCE * max(1, workers)
        wanted = (paths * (1 + count // len(paths)))[:count]
        examples = Examples({"pictures": wanted}, torch.zeros(count, 1), read)
        batches = iter(DataLoader(examples, _READ_AT_ONCE, num_workers=workers))
        next(batches)  # by then the reading processes are at work
        started = time.perf_counter()
        for _ in batches:
            pass
        return (count - _READ_AT_ONCE) / (time.perf_counter() - started)

    return ReadingRate(rate(cache if cfg.data.cache else None, cfg.data.workers), rate(cache, 0))


def _rehearse_training(
    cfg: Config, folder: str, section: str, train: Callable[[Config], pd.DataFrame], device: torch.device, items: int,
    pictures: int, reading: ReadingRate,
) -> tuple[Config, Cost]:  # fmt: skip
    """Halves the number of pairs encoded at once until a training fits into memory; returns the profile that does.

    A run reads ahead while the device computes, a rehearsal of a few steps reads between them: so what it read is taken
    off its time, and the slower of computing and reading ahead decides the rate.

    Args:
        pictures: read for a pair; 0: none, since the image encoder stays and has encoded them before.
    """
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
    seconds = float(history["seconds"].iloc[-1]) - STEPS * batch * pictures / reading.between
    computing = STEPS * batch / max(seconds, 0.05)  # the history gives tenths of a second
    rate = min(computing, reading.ahead / pictures) if pictures else computing
    cost = Cost(folder, chunk, _peak(device), rate, items)
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
