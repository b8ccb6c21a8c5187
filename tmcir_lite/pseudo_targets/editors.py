"""Diffusion editors: any diffusers image-editing pipeline, from a folder or by model id and revision."""

import contextlib
import inspect
import logging
import textwrap
import warnings
from collections.abc import Sequence

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from PIL import Image, ImageOps
from transformers.utils import logging as transformers_logging

from tmcir_lite.config import EditorSettings
from tmcir_lite.io.files import InputError, check_hashes, resolve
from tmcir_lite.io.hub import explain, one_line
from tmcir_lite.io.processes import has_bf16


def load_editor(settings: EditorSettings, device: torch.device) -> DiffusionPipeline:
    """Loads the editor's pipeline, in half precision on a GPU.

    Raises:
        InputError: an unknown pipeline class, no such folder, model or revision, a licence not accepted, a hub that
            cannot be reached, a file that differs from its recorded hash, no safetensors in it, or not all weights.
    """
    cls = getattr(diffusers, settings.pipeline or "DiffusionPipeline", None)
    if not (isinstance(cls, type) and issubclass(cls, DiffusionPipeline)):
        raise InputError(f"editor.pipeline: diffusers {diffusers.__version__} has no pipeline {settings.pipeline!r}; "
                         "take a newer diffusers or another class")  # fmt: skip
    local = resolve(settings.model)
    if local.is_dir():
        check_hashes(local)
    elif settings.model.startswith((".", "/", "data/", "runs/")):
        raise InputError(f"editor.model: {local}: no such folder; give a diffusers pipeline folder or a model id")
    source = str(local) if local.is_dir() else settings.model
    try:
        with _quiet() as heard:
            pipeline = cls.from_pretrained(
                source, revision=settings.revision, torch_dtype=half_precision(device), use_safetensors=True
            )
    except Exception as error:  # hub, licence, file and class errors alike come through here
        reason = one_line(error) if local.is_dir() else explain(error, source, settings.revision)
        raise InputError(f"editor.model: {source} (revision {settings.revision}) cannot be loaded: {reason}") from error
    if heard.lacking:
        raise InputError(f"editor.model: {source}: its files lack weights that these versions of diffusers and "
                         f"transformers look for, and would leave at random: {heard.lacking}; fetch it again, or save "
                         "it with the versions of this machine")  # fmt: skip
    _check_edits(pipeline, settings)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def half_precision(device: torch.device) -> torch.dtype:
    """The number format of an editor's weights: bf16 on a GPU that has it, fp16 on an older one, fp32 on a CPU."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if has_bf16(device) else torch.float16


def _check_edits(pipeline: DiffusionPipeline, settings: EditorSettings) -> None:
    """Refuses what would run and draw the wrong pictures."""
    kind, accepted = type(pipeline).__name__, inspect.signature(pipeline.__call__).parameters
    if "image" not in accepted:
        raise InputError(f"editor.pipeline: {kind} draws from text alone; name a class that takes a picture, "
                         "such as StableDiffusion3Img2ImgPipeline")  # fmt: skip
    if ("strength" in accepted) != (settings.strength is not None):
        wants = "needs a number from 0 to 1" if "strength" in accepted else "has none: write null"
        raise InputError(f"editor.strength: {settings.strength}: {kind} {wants}")
    if settings.strength is not None and not sees_reference(settings.steps, settings.strength):
        raise InputError(f"editor.steps: {settings.steps} with strength {settings.strength} start at pure noise, and "
                         "the reference is not seen; take more steps or less strength")  # fmt: skip


def sees_reference(steps: int, strength: float) -> bool:
    """Whether img2img sampling skips at least the first of its steps, and so starts from the reference in part."""
    return int(steps - steps * strength) >= 1


class _Listener(logging.Handler):
    """Hears of weights that a model's files lack: diffusers and transformers fill them at random and warn."""

    lacking = ""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "newly initialized" in message:
            self.lacking = textwrap.shorten(message, 300, placeholder=" ...")


@contextlib.contextmanager
def _quiet():
    """Loading prints bars, and notes about classes that serve but are not the usual ones; yields what hears them."""
    listener, libraries = _Listener(), (diffusers_logging, transformers_logging)
    for library in libraries:
        library.disable_progress_bar()
        library.set_verbosity_warning()
        library.disable_default_handler()
        library.get_logger().addHandler(listener)  # without a name: the library's own root
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # diffusers renames torch_dtype; older know no other
            yield listener
    finally:
        for library in libraries:
            library.get_logger().removeHandler(listener)
            library.enable_default_handler()
            library.set_verbosity_error()


@torch.no_grad()
def edit(
    pipeline: DiffusionPipeline, images: Sequence[Image.Image], prompts: Sequence[str], seeds: Sequence[int],
    settings: EditorSettings,
) -> list[Image.Image | None]:  # fmt: skip
    """Edits a batch of RGB pictures, each with a noise of its own seed, so that neighbours do not change it.

    None stands for a picture that the editor's own safety checker, where it has one, took for indecent and blacked.

    The noise is drawn on the CPU: the same seed gives the same noise on every device. Pictures are padded to a square
    and resized to `settings.size`. With `start: reference` sampling begins at the reference's latents plus
    `start_noise` times the noise (see `pretrain.editor`), else at noise alone.
    """
    if type(pipeline).__name__.startswith("Flux2") and len(images) > 1:  # takes a list for several references of one
        alone = zip(images, prompts, seeds, strict=True)
        return [
            picture for image, prompt, seed in alone for picture in edit(pipeline, [image], [prompt], [seed], settings)
        ]
    side = settings.size
    squares = [ImageOps.pad(image, (side, side), Image.Resampling.BICUBIC) for image in images]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    options = {
        "num_inference_steps": settings.steps,
        "guidance_scale": settings.guidance,
        "image_guidance_scale": settings.image_guidance,
        "strength": settings.strength,
        "height": side,
        "width": side,
        "generator": generators,
    }
    if settings.start == "reference":
        options["latents"] = _start(pipeline, squares, generators, settings.start_noise)
    accepted = inspect.signature(pipeline.__call__).parameters
    options = {name: value for name, value in options.items() if name in accepted}
    drawn = pipeline(prompt=list(prompts), image=squares, **options)
    blacked = getattr(drawn, "nsfw_content_detected", None) or [False] * len(drawn.images)
    return [None if black else picture for picture, black in zip(drawn.images, blacked, strict=True)]


def _start(pipeline, images, generators, start_noise: float) -> torch.Tensor:
    pixels = pipeline.image_processor.preprocess(list(images)).to(pipeline.device, pipeline.vae.dtype)
    latents = pipeline.vae.encode(pixels).latents
    noise = torch.stack([torch.randn(latents.shape[1:], generator=generator) for generator in generators])
    return latents + start_noise * noise.to(latents)
