"""Saves a pipeline so that transformers 4 reads it as well as 5, which writes other files and names of weights."""

from pathlib import Path

from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from tmcir_lite.pretrain.tokenizer import save_both_forms

_PREFIX = "text_model."  # of a CLIP text encoder's weights: 5 leaves it out, 4 finds nothing without it, both read it


def save_pipeline(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Writes a pipeline with a CLIP text encoder and tokenizer, in safetensors."""
    pipeline.save_pretrained(folder, safe_serialization=True)
    save_both_forms(pipeline.tokenizer, folder / "tokenizer")
    path = folder / "text_encoder" / "model.safetensors"
    weights = {_PREFIX + name.removeprefix(_PREFIX): weight for name, weight in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
