"""Baselines without training. Each is one function: (image features Q D, text features Q D) -> query features Q D."""

from collections.abc import Callable, Sequence

import pandas as pd
from torch import Tensor
from torch.nn import functional as F

from tmcir_lite.evaluation import CHUNK, recall, target_ranks
from tmcir_lite.files import InputError

Baseline = Callable[[Tensor, Tensor], Tensor]

WEIGHTS = tuple(step / 20 for step in range(1, 20))
"""The text weights tried; 0 and 1 are the baselines `image_only` and `text_only`."""


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


def choose_weight(
    image: Tensor,
    text: Tensor,
    gallery: Tensor,
    target_index: Tensor,
    masked_index: Tensor | None = None,
    weights: Sequence[float] = WEIGHTS,
    k: int = 10,
    chunk: int = CHUNK,
) -> tuple[float, pd.DataFrame]:
    """The text weight with the highest R@k; measure it on triplets held out of *train*, never on val.

    Args:
        image: Q D, features of the reference images.
        text: Q D, features of the relative captions.
        gallery, target_index, masked_index, chunk: as in `evaluation.target_ranks`.

    Returns:
        The weight (of equals, the smallest), and the sweep: columns weight and `R@k`.

    Raises:
        InputError: a weight not between 0 and 1, or as `evaluation.target_ranks`.
    """

    def measure(weight: float) -> float:
        return recall(target_ranks(weighted_sum(weight)(image, text), gallery, target_index, masked_index, chunk), k)

    sweep = pd.DataFrame({"weight": weights, f"R@{k}": [measure(weight) for weight in weights]}).sort_values("weight")
    return float(sweep.loc[sweep[f"R@{k}"].idxmax(), "weight"]), sweep.reset_index(drop=True)
