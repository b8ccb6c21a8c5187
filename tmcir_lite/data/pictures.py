"""From picture files to the pixels a CLIP model reads: target padding, then open_clip's own preprocessing.

Two readers. `load_image` is for benchmark pictures and does what CLIP4Cir and open_clip do (a plain conversion to RGB:
orientation ignored, colour under transparency shown), because peers' numbers were measured on such pixels. `load_photo`
is for what a user brings and gives a picture as people see it. Both bring 16-bit and float pictures to 8 bits alike.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import open_clip
import torch
from PIL import ExifTags, Image, ImageOps
from torchvision.transforms import Compose, ToTensor
from torchvision.transforms.functional import pad

from tmcir_lite.io.files import InputError, taken_for

Reader = Callable[[str | Path], Image.Image]
Item, Loaded = TypeVar("Item"), TypeVar("Loaded")
READINGS = 3
"""Counts the changes of what the readers give; a part of the name of whatever is kept of decoded pictures."""


class TargetPad:
    """Pads the short side with black until long side / short side <= ratio (CLIP4Cir).

    The centre crop that follows then cuts off less of a tall or wide garment. A picture within the ratio is unchanged.

    Raises:
        InputError: the ratio is below 1, which no picture can reach.
    """

    def __init__(self, ratio: float = 1.25):
        if ratio < 1:
            raise InputError(f"target_pad: {ratio}: long side / short side is at least 1; CLIP4Cir uses 1.25")
        self.ratio = ratio

    def __call__(self, image: Image.Image) -> Image.Image:
        """Takes and returns an RGB picture; the original is in the middle."""
        least = math.ceil(max(image.size) / self.ratio)
        missing = [max(least - side, 0) for side in image.size]
        left, top = (total // 2 for total in missing)
        return pad(image, [left, top, missing[0] - left, missing[1] - top], fill=0)

    def __repr__(self) -> str:
        return f"TargetPad(ratio={self.ratio})"


def preprocess(size: int, mean: Sequence[float], std: Sequence[float], ratio: float = 1.25) -> Compose:
    """CLIP's preprocessing after target padding: bicubic resize of the shorter side, centre crop, normalise.

    Returns:
        a transform from an RGB picture to a float tensor, 3 x size x size.

    Raises:
        InputError: the ratio is below 1.
    """
    clip = open_clip.image_transform(size, is_train=False, mean=tuple(mean), std=tuple(std))
    return Compose([TargetPad(ratio), clip])


def picture_suffixes() -> frozenset[str]:
    """The suffixes, in lower case, of every format that the installed Pillow can open."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN)


def load_image(path: str | Path) -> Image.Image:
    """A benchmark picture, decoded in full, as RGB: as peers read it, see the head of this file.

    Raises:
        InputError: the file is absent or cannot be decoded to its end.
    """
    return _decoded(path, lambda image, white: _eight_bits(image, white).convert("RGB"))


def load_photo(path: str | Path) -> Image.Image:
    """A user's picture, decoded in full, as RGB as people see it: turned upright, laid on white where transparent.

    Of several frames it is the first.

    Raises:
        InputError: as `load_image`.
    """
    return _decoded(path, _as_seen)


def _decoded(path: str | Path, finish: Callable[[Image.Image, int], Image.Image]) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return finish(image, _white(image))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:  # which errors a broken file raises depends on its format; Pillow gives no closed list
        reason = taken_for(path) or f"{error}; fetch or write it again"
        raise InputError(f"{path}: cannot be decoded as a picture ({reason})") from None


def _as_seen(image: Image.Image, white: int) -> Image.Image:
    with contextlib.suppress(Exception):  # broken metadata of a sound picture: nothing says that it is turned
        image = ImageOps.exif_transpose(image)
    image = _eight_bits(image, white)
    if not image.has_transparency_data:
        return image.convert("RGB")
    seen = Image.new("RGBA", image.size, "white")
    seen.alpha_composite(image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA"))
    return seen.convert("RGB")


def _white(image: Image.Image) -> int:
    """What white is in a picture of 16 bits: less in a TIFF of 12 bits, whose values Pillow does not scale."""
    bits = getattr(image, "tag_v2", {}).get(ExifTags.Base.BitsPerSample, (16,))[0]
    return 2 ** min(bits, 16) - 1


def _eight_bits(image: Image.Image, white: int) -> Image.Image:
    """Grey of more than 8 bits as 8 bits, which Pillow would cut off at 255; any other picture as it is.

    32-bit and float pictures do not say what white is: the least of 1, 255 and 65535 that no value exceeds; where there
    is none, or a value below 0, their own range goes from black to white.

    Args:
        white: of 16 bits.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = 0.0, float(white)
    if image.mode in ("I", "F") and finite.size:
        low, high = finite.min(), finite.max()
        if low >= 0:
            low, high = 0.0, next((white for white in (1, 255, 65535) if high <= white), high)
    scaled = np.nan_to_num((values - low) * (255 / ((high - low) or 1)), nan=0, posinf=255, neginf=0)
    grey = Image.fromarray(np.rint(scaled).clip(0, 255).astype(np.uint8))
    if isinstance(clear := image.info.get("transparency"), int):  # the one value that a PNG makes transparent
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def pixels(paths: Sequence[str | Path], transform: Compose, read: Reader = load_image) -> torch.Tensor:
    """The transformed pictures as one tensor, B x 3 x H x W, in the order of the paths.

    Args:
        transform: as `preprocess` makes it.

    Raises:
        InputError: one of them cannot be decoded.
    """
    crop, normalise = parted(transform)
    parts = [paths[start : start + _AT_ONCE] for start in range(0, len(paths), _AT_ONCE)]
    with ThreadPoolExecutor() as pool:
        decoded = pool.map(lambda part: [np.asarray(crop(read(path))) for path in part], parts)
        return normalise(to_tensors(np.stack([picture for part in decoded for picture in part])))


_AT_ONCE = 8  # pictures that a thread decodes before it asks for more: to ask takes as long as to decode a small one


def parted(transform: Compose) -> tuple[Compose, Compose]:
    """CLIP's preprocessing in two: what crops a picture, and what normalises tensors. Between them is `to_tensors`."""
    steps = [step for part in transform.transforms for step in getattr(part, "transforms", [part])]
    cut = next(number for number, step in enumerate(steps) if isinstance(step, ToTensor))
    return Compose(steps[:cut]), Compose(steps[cut + 1 :])


def to_tensors(pictures: np.ndarray) -> torch.Tensor:
    """Bytes, B x H x W x 3, as numbers from 0 to 1, B x 3 x H x W: torchvision's `ToTensor` of a whole batch."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous().float().div(255)


def ahead(load: Callable[[Item], Loaded], items: Iterable[Item]) -> Iterator[Loaded]:
    """What `load` makes of each item; the next one is loaded in a thread while the caller works on this one."""
    with ThreadPoolExecutor(1) as pool:
        coming = None
        for item in items:
            last, coming = coming, pool.submit(load, item)
            if last is not None:
                yield last.result()
        if coming is not None:
            yield coming.result()
