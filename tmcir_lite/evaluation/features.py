"""Features of pictures and texts, encoded in batches without gradients; of large galleries in a file."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tmcir_lite.config import CaptionJoin, QueryCaptions
from tmcir_lite.data.captions import join_captions
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.data.pictures import READINGS, Reader, ahead, load_image
from tmcir_lite.io.files import atomic, new_array
from tmcir_lite.io.progress import Progress
from tmcir_lite.method.encoders import Backbone
from tmcir_lite.method.losses import Contrastive

BATCH = 128


@torch.no_grad()
def encode_images(backbone: Backbone, paths: Sequence[Path], read: Reader = load_image) -> Tensor:
    """Pooled features of picture files, G D, on the CPU."""
    device = _device(backbone)
    chunks = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    loaded = ahead(lambda chunk: backbone.load(chunk, read), chunks)
    return torch.cat([backbone.image(pixels.to(device)).pooled.float().cpu() for pixels in loaded])


@torch.no_grad()
def encode_texts(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    """Pooled features of texts, Q D, on the CPU."""
    device = _device(backbone)
    chunks = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    return torch.cat([backbone.text(backbone.tokenize(chunk).to(device)).pooled.float().cpu() for chunk in chunks])


@torch.no_grad()
def encode_queries(
    model: Contrastive, triplets: Sequence[Triplet], images: dict[str, Path], captions: QueryCaptions
) -> Tensor:
    """Query features of triplets, Q D, on the CPU.

    Args:
        model: has `query(what its backbone loads for the references, text ids B M) -> B D` and a `template`.
        captions: see `encode_captions`.
    """
    return _mean([_encode_queries(model, triplets, images, order) for order in _orders(captions)])


def encode_captions(backbone: Backbone, triplets: Sequence[Triplet], captions: QueryCaptions) -> Tensor:
    """Pooled features of triplets' captions, Q D, on the CPU.

    Args:
        captions: how they are joined, see `captions.join_captions`; "both" is the mean of the features of "and" and
            "reversed", each of length 1 (SEARLE).
    """
    return _mean([encode_texts(backbone, joined(triplets, order)) for order in _orders(captions)])


def joined(triplets: Sequence[Triplet], captions: QueryCaptions) -> list[str]:
    """The text of each query; of "both" the first."""
    return [join_captions(triplet.captions, _orders(captions)[0]) for triplet in triplets]


def _orders(captions: QueryCaptions) -> tuple[CaptionJoin, ...]:
    return ("and", "reversed") if captions == "both" else (captions,)


def _mean(features: list[Tensor]) -> Tensor:
    return features[0] if len(features) == 1 else sum(F.normalize(part, dim=1) for part in features) / len(features)


def _encode_queries(model: Contrastive, triplets, images, captions: CaptionJoin) -> Tensor:
    device = _device(model.backbone)
    rows = []
    for start in range(0, len(triplets), BATCH):
        chunk = triplets[start : start + BATCH]
        references = model.backbone.load([images[t.reference_name] for t in chunk]).to(device)
        texts = [model.template.format(text) for text in joined(chunk, captions)]
        rows.append(model.query(references, model.backbone.tokenize(texts).to(device)).float().cpu())
    return torch.cat(rows)


def _device(backbone: Backbone) -> torch.device:
    return backbone.logit_scale.device


def gallery_features(backbone: Backbone, paths: Sequence[Path], folder: Path, read: Reader = load_image) -> Tensor:
    """Features of a gallery, G D of length 1, encoded once and then read from a memory-mapped file.

    Args:
        folder: receives the file; its name depends on the gallery's files and their times, and on how they are read.
            The caller gives a folder of its own to each model.
    """
    file = folder / f"{stamp(paths, read)}.npy"
    if not file.is_file():
        with atomic(file) as temporary:
            _encode(backbone, paths, temporary, read)
    return torch.from_numpy(np.load(file, mmap_mode="c"))  # "c": PyTorch wants to be allowed to write; the file stays


def stamp(paths: Sequence[Path], read: Reader) -> str:
    """16 hex digits that change with any of the files, its time or how it is read."""
    files = (f"\n{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in paths)
    return hashlib.sha256(f"{read.__name__} {READINGS}{''.join(files)}".encode()).hexdigest()[:16]


def _encode(backbone: Backbone, paths: Sequence[Path], file: Path, read: Reader) -> None:
    features = new_array(file, np.float32, (len(paths), backbone.dim))
    progress = Progress("gallery", len(paths))
    for start in range(0, len(paths), BATCH):
        chunk = paths[start : start + BATCH]
        features[start : start + len(chunk)] = F.normalize(encode_images(backbone, chunk, read), dim=1).numpy()
        progress.advance(len(chunk))
    features.flush()
