"""Galleries of any size: features in a memory-mapped file, and the nearest of them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tmcir_lite.backbone import Backbone
from tmcir_lite.evaluation import top
from tmcir_lite.features import BATCH, encode_images
from tmcir_lite.files import atomic, new_array
from tmcir_lite.progress import Progress
from tmcir_lite.transforms import READINGS, Reader, load_image


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


def nearest(features: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The rows of the `k` nearest images of a gallery to each query, nearest first, and their cosines; both Q k.

    Args:
        features: G D, looked at block by block; may lie on disk.
        queries: Q D.
    """
    rows = top(queries, features, k)
    near = F.normalize(features[rows].float(), dim=-1)
    return rows, torch.einsum("qd,qkd->qk", F.normalize(queries.float(), dim=1), near)
