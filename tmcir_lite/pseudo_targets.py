"""Pseudo-target images: a diffusion editor draws what the relative caption asks of the reference image.

Any diffusers image-editing pipeline serves, from a folder or by model id and revision. What is drawn is kept in one
folder with a manifest; an interrupted generation goes on and ends with the same files.
"""

import contextlib
import inspect
import json
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from PIL import Image, ImageOps
from transformers.utils import logging as transformers_logging

from tmcir_lite.config import Editor
from tmcir_lite.datasets import Triplet, join_captions
from tmcir_lite.files import InputError, atomic, resolve, sha256, write_text
from tmcir_lite.model_card import check_hashes
from tmcir_lite.progress import Progress
from tmcir_lite.transforms import load_image

MANIFEST = "manifest.jsonl"


def load_editor(settings: Editor, device: torch.device) -> DiffusionPipeline:
    """Loads the editor's pipeline, in half precision on a GPU.

    Raises:
        InputError: no such folder or model id, a file that differs from its recorded hash, or no safetensors in it.
    """
    local = resolve(settings.model)
    if local.is_dir():
        check_hashes(local)
    elif settings.model.startswith((".", "/", "data/", "runs/")):
        raise InputError(f"editor.model: {local}: no such folder; give a diffusers pipeline folder or a model id")
    source = str(local) if local.is_dir() else settings.model
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    try:
        with _quiet():
            pipeline = DiffusionPipeline.from_pretrained(
                source, revision=settings.revision, torch_dtype=dtype, use_safetensors=True
            )
    except Exception as error:  # hub, licence, file and class errors alike come through here
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"editor.model: {source} (revision {settings.revision}) cannot be loaded: {reason}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


@contextlib.contextmanager
def _quiet():
    """Loading prints bars, and notes about classes that serve but are not the usual ones; errors are raised anyway."""
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # diffusers renames torch_dtype; older versions know no other
        yield


@torch.no_grad()
def edit(
    pipeline: DiffusionPipeline, images: Sequence[Image.Image], prompts: Sequence[str], seeds: Sequence[int],
    settings: Editor,
) -> list[Image.Image]:  # fmt: skip
    """Edits a batch of RGB pictures, each with a noise of its own seed, so that neighbours do not change it.

    The noise is drawn on the CPU: the same seed gives the same noise on every device. Pictures are padded to a square
    and resized to `settings.size`. With `start: reference` sampling begins at the reference's latents plus
    `start_noise` times the noise (see `pretrain.editor`), else at noise alone.
    """
    squares = [ImageOps.pad(image, (settings.size, settings.size), Image.Resampling.BICUBIC) for image in images]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    options = {
        "num_inference_steps": settings.steps,
        "guidance_scale": settings.guidance,
        "image_guidance_scale": settings.image_guidance,
        "generator": generators,
    }
    if settings.start == "reference":
        options["latents"] = _start(pipeline, squares, generators, settings.start_noise)
    accepted = inspect.signature(pipeline.__call__).parameters
    options = {name: value for name, value in options.items() if name in accepted}
    return pipeline(prompt=list(prompts), image=squares, **options).images


def _start(pipeline, images, generators, start_noise: float) -> torch.Tensor:
    pixels = pipeline.image_processor.preprocess(list(images)).to(pipeline.device, pipeline.vae.dtype)
    latents = pipeline.vae.encode(pixels).latents
    noise = torch.stack([torch.randn(latents.shape[1:], generator=generator) for generator in generators])
    return latents + start_noise * noise.to(latents)


@dataclass(frozen=True)
class Job:
    """One pseudo-target to draw."""

    id: str
    reference: Path
    prompt: str
    seed: int


def jobs_for(triplets: Sequence[Triplet], images: dict[str, Path], seed: int) -> list[Job]:
    """One job a triplet: the prompt is its captions joined with "and" (our reading); the seed depends on its id."""
    return [
        Job(t.id, images[t.reference_name], join_captions(t.captions, "and"), zlib.crc32(f"{seed}/{t.id}".encode()))
        for t in triplets
    ]


def generate(
    load: Callable[[], DiffusionPipeline], jobs: Sequence[Job], settings: Editor, folder: Path
) -> list[dict[str, Any]]:
    """Draws the pseudo-targets that `folder` does not hold yet; returns the manifest's records, one a job, in order.

    Jobs are drawn in fixed batches, and a batch counts once all its lines stand in the manifest: whatever moment the
    generation was killed at, the batches that are drawn again are the same, and so are the files.

    Args:
        load: called only if something is left to draw.
        folder: receives `<id>.png` and `manifest.jsonl`.

    Raises:
        InputError: the folder was begun with other jobs or settings.
    """
    folder = Path(folder)
    shared = settings.model_dump(exclude={"batch", "limit"})
    records = _finished(folder / MANIFEST, jobs, shared, settings.batch)
    if len(records) == len(jobs):
        return records
    pipeline = load()
    progress = Progress("pseudo-targets", len(jobs), len(records))
    for start in range(len(records), len(jobs), settings.batch):
        batch = jobs[start : start + settings.batch]
        images = [load_image(job.reference) for job in batch]
        edited = edit(pipeline, images, [job.prompt for job in batch], [job.seed for job in batch], settings)
        lines = []
        for job, picture in zip(batch, edited, strict=True):
            path = folder / f"{job.id}.png"
            with atomic(path) as temporary:
                picture.save(temporary)
            lines.append(_record(job, shared) | {"sha256": sha256(path)})
        with open(folder / MANIFEST, "a", encoding="utf-8") as manifest:
            manifest.writelines(json.dumps(line) + "\n" for line in lines)
        records += lines
        progress.advance(len(batch))
    return records


def _record(job: Job, shared: dict[str, Any]) -> dict[str, Any]:
    return {"id": job.id, "reference": job.reference.stem, "prompt": job.prompt, "seed": job.seed, **shared}


def _finished(path: Path, jobs: Sequence[Job], shared: dict[str, Any], batch: int) -> list[dict[str, Any]]:
    """The records of the batches that are whole; what a kill left behind them is dropped from the manifest."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break  # the line that was being written when the generation was killed
    for job, record in zip(jobs, records, strict=False):
        expected = _record(job, shared)
        changed = [key for key in expected if record.get(key) != expected[key]]
        if changed:
            raise InputError(f"{path}: begun with another {', '.join(changed)} (see {job.id}); "
                             "give the run another name or remove the folder")  # fmt: skip
    if len(records) < len(jobs):
        records = records[: len(records) - len(records) % batch]
        write_text(path, "".join(json.dumps(record) + "\n" for record in records))
    return records[: len(jobs)]
