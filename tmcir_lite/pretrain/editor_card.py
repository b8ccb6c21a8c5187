"""The lite editor published: measured on held-out edits, saved as a pipeline, with a card that tells all of it."""

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from PIL import Image
from torch import nn

from tmcir_lite.config import EditorSettings, load_config
from tmcir_lite.data.garments import Picture
from tmcir_lite.io.files import resolve
from tmcir_lite.method.checkpoint import read_history
from tmcir_lite.pretrain.model_card import command_line, device_name, publish_folder, read_facts
from tmcir_lite.pretrain.portable import save_pipeline
from tmcir_lite.pseudo_targets.editors import edit
from tmcir_lite.pseudo_targets.quality import quality_table, read_edits, sample_edits

_Edit = tuple[Picture, Picture, str]
"""A reference, its perfect edit, the relative caption."""


def publish(
    pipeline: StableDiffusionInstructPix2PixPipeline, options: argparse.Namespace, work: Path, decoder_pictures: int
) -> None:
    """Saves the pipeline (fp16 safetensors) to `--out`, with the training log and a card of what was measured.

    Args:
        options: of the command that trained it.
        work: where it was trained, with the logs of the editor and, in `decoder/`, of the decoder.
        decoder_pictures: how many the decoder saw in each of its epochs.
    """
    settings = load_config("lite").editor
    pipeline.set_progress_bar_config(disable=True)
    edits = sample_edits(options.measure, seed=0)
    started = time.perf_counter()
    pictures = _edit_in_batches(pipeline, edits, settings)
    rate = len(edits) / (time.perf_counter() - started)
    made, ceiling = _read(edits, pictures), _read(edits, _through_autoencoder(pipeline, edits))
    history, decoder = read_history(work), read_history(work / "decoder")
    before = _facts_before(resolve(options.start)) if options.start else {}
    facts = {
        "what": "diffusers StableDiffusionInstructPix2PixPipeline on 64x64 pictures; starts from the reference's "
                "latents (`editor.start: reference`), Euler steps; fp16",
        "made by": f"`{command_line('editor')}`",
        "data": f"garment world, pretraining half of the attribute combinations, drawn on the fly; seed {options.seed}",
        "samples seen": f"{options.epochs * options.steps * options.batch:,} edits; decoder "
                        f"{decoder['epoch'].iloc[-1] * decoder_pictures:,} pictures",
        **before,
        "time": f"{pd.concat([history, decoder]).get('seconds').sum() / 3600:.2f} h on {device_name(options.device)}",
        "autoencoder": f"{decoder['psnr'].iloc[-1]:.1f} dB PSNR on held-out pictures",
        "sampled with": f"{settings.steps} steps, guidance {settings.guidance}, start noise {settings.start_noise}; "
                        f"{rate:.0f} pictures a second on this device",
        "backdrop": f"root mean square error outside the garment {made['backdrop'].mean():.1f} grey levels, of the "
                    f"autoencoder alone {ceiling['backdrop'].mean():.1f}",
    }  # fmt: skip
    folder = work / "pipeline"
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        nn.Module.half(part)  # diffusers' own `to` warns of modules to be kept in float32, of which there are none
    save_pipeline(pipeline, folder)
    if options.start:
        _keep_logs(resolve(options.start), folder)
    tables = {
        f"Measured on {len(edits)} held-out edits by drawing (`pseudo_targets/quality.py`), 95% intervals": made,
        "The reader's own limit: the perfect edits, encoded and decoded": ceiling,
    }
    tables = {heading: quality_table(rows).to_markdown(index=False) for heading, rows in tables.items()}
    publish_folder(folder, resolve(options.out), work, "Lite editor", facts, tables)


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
    return read_edits((reference, perfect.garment, picture)
                      for (reference, perfect, _), picture in zip(edits, pictures, strict=True))  # fmt: skip


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
