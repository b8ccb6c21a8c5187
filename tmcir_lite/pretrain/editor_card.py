"""The lite editor published: measured on held-out edits, saved as a pipeline, with a card that tells all of it."""

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from PIL import Image
from torch import nn

from tmcir_lite.config import EditorSettings, load_config
from tmcir_lite.io.files import resolve
from tmcir_lite.method.checkpoint import read_history
from tmcir_lite.pretrain.model_card import command_line, device_name, publish_folder, read_facts
from tmcir_lite.pretrain.portable import save_pipeline
from tmcir_lite.pseudo_targets.editors import edit
from tmcir_lite.pseudo_targets.quality import quality_table, read_edits

_Edit = tuple[Any, Any, str]
"""A reference, its perfect edit (both a `Picture` or a `Shot`), the text."""

_STEPS = (1, 3)


def publish(
    pipeline: StableDiffusionInstructPix2PixPipeline, options: argparse.Namespace, work: Path, world: ModuleType,
    decoder_pictures: int,
) -> None:  # fmt: skip
    """Saves the pipeline (fp16 safetensors) to `--out`, with the training log and a card of what was measured.

    Args:
        options: of the command that trained it.
        work: where it was trained, with the logs of the editor and, in `reading/` and `decoder/`, of what came before
            and beside it.
        world: see `pretrain.worlds`.
        decoder_pictures: how many the decoder saw in each of its epochs.
    """
    settings = load_config(world.PROFILE).editor
    pipeline.set_progress_bar_config(disable=True)
    edits = world.held_out(options.measure, seed=0)
    decoded = _through_autoencoder(pipeline, edits)
    ceiling, psnr, taken = _read(edits, decoded), _psnr(edits, decoded), world.AUTOENCODER
    made, rates = {}, []
    for steps in _STEPS:
        started = time.perf_counter()
        pictures = _edit_in_batches(pipeline, edits, settings.model_copy(update={"steps": steps}))
        rates.append(f"{len(edits) / (time.perf_counter() - started):.0f}")
        made[steps] = _read(edits, pictures)
    backdrop = [f"{rows['backdrop'].mean():.1f}" for rows in made.values()]
    logs = [read_history(work / name) for name in ("", "reading", "decoder") if (work / name / "history.csv").is_file()]
    before = _facts_before(resolve(options.start)) if options.start else {}
    seen = f"{options.epochs * options.steps * options.batch:,} edits"
    if options.reading_epochs:
        seen += f", before that {options.reading_epochs * options.steps * options.batch:,} that were read and not drawn"
    if (work / "decoder").is_dir():
        seen += f"; decoder {options.decoder_epochs * decoder_pictures:,} pictures"
    facts = {
        "what": "diffusers StableDiffusionInstructPix2PixPipeline on 64x64 pictures; starts from the reference's "
                "latents (`editor.start: reference`), Euler steps; fp16",
        "made by": f"`{command_line('editor')}`",
        "data": f"{world.DATA}; seed {options.seed}",
        "samples seen": seen,
        **before,
        "time": f"{pd.concat(logs).get('seconds').sum() / 3600:.2f} h on {device_name(options.device)}",
        "autoencoder": f"{psnr:.1f} dB PSNR on perfect edits" + (f"; taken from `{taken}`" if taken else ""),
        "sampled with": f"guidance {settings.guidance}, start noise {settings.start_noise}; {' and '.join(rates)} "
                        f"pictures a second with {' and '.join(map(str, _STEPS))} steps on this device",
        "backdrop": f"root mean square error where nothing is {' and '.join(backdrop)} grey levels, of the autoencoder "
                    f"alone {ceiling['backdrop'].mean():.1f}",
    }  # fmt: skip
    folder = work / "pipeline"
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        nn.Module.half(part)  # diffusers' own `to` warns of modules to be kept in float32, of which there are none
    save_pipeline(pipeline, folder)
    if options.start:
        _keep_logs(resolve(options.start), folder)
    tables = {f"Measured on {len(edits)} held-out edits by drawing (`pseudo_targets/quality.py`), {steps} "
              f"step{'s' * (steps > 1)}, 95% intervals": rows for steps, rows in made.items()}  # fmt: skip
    tables["The reader's own limit: the perfect edits, encoded and decoded"] = ceiling
    tables = {heading: quality_table(rows).to_markdown(index=False) for heading, rows in tables.items()}
    publish_folder(folder, resolve(options.out), work, f"Lite editor of {options.world}", facts, tables)


def _facts_before(folder: Path) -> dict[str, str]:
    """What the card of the editor that training started from says of its own training, and of those before it."""
    card = read_facts(folder)
    earlier = {name: value for name, value in card.items() if name.startswith("training ")}
    number = 1 + sum(name.endswith("(made by)") for name in earlier)
    return earlier | {f"training {number} ({name})": card[name] for name in ("made by", "samples seen", "time")}


def _keep_logs(before: Path, folder: Path) -> None:
    """Puts the logs of earlier trainings, numbered, beside the latest one."""
    earlier = sorted(before.glob("training_log_*.csv"))
    for path in earlier:
        shutil.copy(path, folder)
    shutil.copy(before / "training_log.csv", folder / f"training_log_{len(earlier) + 1}.csv")


def _read(edits: Sequence[_Edit], pictures: Sequence[Image.Image]) -> pd.DataFrame:
    return read_edits((reference, shows, picture)
                      for (reference, (shows, _), _), picture in zip(edits, pictures, strict=True))  # fmt: skip


def _psnr(edits: Sequence[_Edit], pictures: Sequence[Image.Image]) -> float:
    pairs = [(perfect.draw(), picture) for (_, perfect, _), picture in zip(edits, pictures, strict=True)]
    error = np.mean([np.square(np.subtract(*(np.asarray(one, dtype=float) for one in pair))).mean() for pair in pairs])
    return 10 * np.log10(255**2 / error)


def _edit_in_batches(
    pipeline: StableDiffusionInstructPix2PixPipeline, edits: Sequence[_Edit], settings: EditorSettings
) -> list[Image.Image]:
    pictures = []
    for start in range(0, len(edits), settings.batch):
        part = edits[start : start + settings.batch]
        images, prompts = [reference.draw() for reference, *_ in part], [text for *_, text in part]
        pictures += edit(pipeline, images, prompts, range(start, start + len(part)), settings)
    return pictures


@torch.no_grad()
def _through_autoencoder(pipeline: StableDiffusionInstructPix2PixPipeline, edits: Sequence[_Edit]) -> list[Image.Image]:
    """What is left of the perfect edits when they are encoded and decoded."""
    processor, vae = pipeline.image_processor, pipeline.vae
    batches = [processor.preprocess([perfect.draw() for _, perfect, _ in edits[i : i + 100]])
               for i in range(0, len(edits), 100)]  # fmt: skip
    return [picture for batch in batches for picture in processor.postprocess(vae(batch.to(vae.device)).sample)]
