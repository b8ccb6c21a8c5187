"""Galleries of any size: features in a memory-mapped file, and an index that finds the nearest of them."""

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
from tmcir_lite.files import InputError, atomic, new_array
from tmcir_lite.progress import Progress
from tmcir_lite.transforms import READINGS, Reader, load_image

_MANY = 50_000  # images; below, an inverted file is not faster than looking at all


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


class ExactIndex:
    """Looks at every image of the gallery, block by block."""

    def __init__(self, features: Tensor):
        self._features = features

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The rows of the `k` nearest images of each query, nearest first, and their cosines; both Q k."""
        rows = top(queries, self._features, k)
        near = F.normalize(self._features[rows].float(), dim=-1)
        return rows, torch.einsum("qd,qkd->qk", F.normalize(queries.float(), dim=1), near)


class FaissIndex:
    """The same with FAISS: exact below 50,000 images; above, an inverted file that looks at a part of the gallery.

    Raises:
        InputError: FAISS is not installed.
    """

    def __init__(self, features: Tensor):
        try:
            import faiss
        except ImportError:
            raise InputError("faiss is not installed; `pip install faiss-cpu`, or use the exact index") from None
        count, dim = features.shape
        cells = int(4 * count**0.5)
        kind = f"IVF{cells},Flat" if count >= _MANY else "Flat"
        self._index = faiss.index_factory(dim, kind, faiss.METRIC_INNER_PRODUCT)
        unit = F.normalize(features.float(), dim=1).numpy()
        if count >= _MANY:
            self._index.train(unit[:: max(1, count // (50 * cells))])
            self._index.nprobe = max(1, cells // 16)
        self._index.add(unit)

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """As `ExactIndex.search`."""
        cosines, rows = self._index.search(F.normalize(queries.float(), dim=1).numpy(), k)
        return torch.from_numpy(rows), torch.from_numpy(cosines)
