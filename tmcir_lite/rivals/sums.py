"""Sums of the two pooled features: the baselines without training, and the one whose weight is learned."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from tmcir_lite.io.files import InputError
from tmcir_lite.method.encoders import ImageFeatures, TextFeatures
from tmcir_lite.method.model import weight_logit

Baseline = Callable[[Tensor, Tensor], Tensor]


def image_only(image: Tensor, text: Tensor) -> Tensor:
    """q = norm(image): the caption is ignored."""
    return F.normalize(image, dim=-1)


def text_only(image: Tensor, text: Tensor) -> Tensor:
    """q = norm(text): the reference image is ignored."""
    return F.normalize(text, dim=-1)


def sum_query(image: Tensor, text: Tensor, weight: float | Tensor) -> Tensor:
    """q = norm( w norm(text) + (1 - w) norm(image) ), w the text's weight."""
    return F.normalize(weight * F.normalize(text, dim=-1) + (1 - weight) * F.normalize(image, dim=-1), dim=-1)


def weighted_sum(weight: float) -> Baseline:
    """The baseline `sum_query` with a fixed weight of the text.

    Raises:
        InputError: the weight is not between 0 and 1.
    """
    if not 0 <= weight <= 1:
        raise InputError(f"weighted sum: the text's weight is {weight}; choose one from 0 to 1")
    return lambda image, text: sum_query(image, text, weight)


class LearnedSum(nn.Module):
    """What is left of ATF without its fusion: q = norm( w norm(text) + (1 - w) norm(image) ), w learned.

    Args:
        text_weight: w at the start, between 0 and 1.
    """

    def __init__(self, text_weight: float):
        super().__init__()
        self.text_logit = weight_logit(text_weight)

    def forward(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        return sum_query(image.pooled, text.pooled, self.text_logit.sigmoid())
