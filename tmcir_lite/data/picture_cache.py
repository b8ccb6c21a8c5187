"""Pictures decoded once and kept in a memory-mapped file: decoding photos can be what training waits for."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from torch import Tensor
from torchvision.transforms import Compose

from tmcir_lite.data.pictures import READINGS, load_image, parted, to_tensors
from tmcir_lite.io.files import atomic, new_array
from tmcir_lite.io.progress import Progress


class CachedPictures:
    """Reads pictures as `transform(load_image(path))` would, to the bit, from a file made at the first use.

    Args:
        paths: all pictures that will be asked for.
        transform: `Backbone.transform`.
        folder: receives the file: side x side x 3 bytes a picture, 150 KB at 224 pixels.
    """

    def __init__(self, paths: Sequence[Path], transform: Compose, folder: Path):
        self._crop, self._normalise = parted(transform)
        unique = list(dict.fromkeys(paths))
        self._row = {path: row for row, path in enumerate(unique)}
        stamp = f"{READINGS} {self._crop!r}" + "".join(
            f"\n{p} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in unique
        )
        self._file = Path(folder) / f"{hashlib.sha256(stamp.encode()).hexdigest()[:16]}.npy"
        if not self._file.is_file():
            with atomic(self._file) as temporary:
                self._fill(unique, temporary)
        self._pixels = None

    def __call__(self, path: Path) -> Tensor:
        """The encoder's pixels of one of the pictures, 3 H W."""
        if self._pixels is None:  # opened by each reading process for itself
            self._pixels = np.load(self._file, mmap_mode="r")
        return self._normalise(to_tensors(np.array(self._pixels[self._row[path]])[None]))[0]

    def __getstate__(self):
        return self.__dict__ | {"_pixels": None}

    def _fill(self, paths: Sequence[Path], file: Path) -> None:
        width, height = self._crop(load_image(paths[0])).size
        pixels = new_array(file, np.uint8, (len(paths), height, width, 3))
        progress = Progress("pictures", len(paths))
        with ThreadPoolExecutor() as pool:
            for row, picture in enumerate(pool.map(lambda path: np.asarray(self._crop(load_image(path))), paths)):
                pixels[row] = picture
                progress.advance()
        pixels.flush()


def picture_reader(paths: Sequence[Path], transform: Compose, folder: Path | None) -> Callable[[Path], Tensor]:
    """A function from a path to the encoder's pixels: with a folder cached there, else decoded each time.

    Without paths, as of a training of no epochs, there is nothing to cache.
    """
    return CachedPictures(paths, transform, folder) if folder and paths else _Decoded(transform)


class _Decoded:
    def __init__(self, transform: Compose):
        self._transform = transform

    def __call__(self, path: Path) -> Tensor:
        return self._transform(load_image(path))
