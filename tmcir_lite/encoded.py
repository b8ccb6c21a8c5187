"""What the two encoders say of images and of texts: all that a fusion is given."""

from typing import NamedTuple

from torch import Tensor


class ImageFeatures(NamedTuple):
    """What the visual encoder says of B images."""

    pooled: Tensor
    """B D."""
    tokens: Tensor
    """B N D, the patches' output tokens, row by row from the top left."""


class TextFeatures(NamedTuple):
    """What the text encoder says of B texts."""

    pooled: Tensor
    """B D."""
    tokens: Tensor
    """B M D."""
    mask: Tensor
    """B M bool, False at padding and at the start token, which is the same for every text."""
