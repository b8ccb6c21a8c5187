"""From picture files to the pixels a CLIP model reads: target padding, then open_clip's own preprocessing."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import open_clip
import torch
from PIL import Image
from torchvision.transforms import Compose
from torchvision.transforms.functional import pad

from tmcir_lite.files import InputError


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


def load_image(path: str | Path) -> Image.Image:
    """The picture, decoded in full, as RGB; transparency is dropped.

    Raises:
        InputError: the file is absent or cannot be decoded to its end.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:  # which errors a broken file raises depends on its format; Pillow gives no closed list
        raise InputError(f"{path}: cannot be decoded as a picture ({error}); fetch or write it again") from None


def pixels(paths: Sequence[str | Path], transform: Callable[[Image.Image], torch.Tensor]) -> torch.Tensor:
    """The transformed pictures as one tensor, B x 3 x H x W, in the order of the paths.

    Raises:
        InputError: one of them cannot be decoded.
    """
    with ThreadPoolExecutor() as pool:
        return torch.stack(list(pool.map(lambda path: transform(load_image(path)), paths)))
