"""What is chosen on triplets held out of train, never on val: an epoch, and the weighted sum's text weight."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from tmcir_lite.config import Config
from tmcir_lite.data.datasets import union
from tmcir_lite.evaluation.features import encode_captions, encode_images, encode_queries
from tmcir_lite.evaluation.ranking import CHUNK, recall, target_ranks
from tmcir_lite.method.checkpoint import chosen_epoch, read_history
from tmcir_lite.method.encoders import Backbone
from tmcir_lite.method.losses import Contrastive
from tmcir_lite.rivals.sums import weighted_sum
from tmcir_lite.run.data import Data


def heldout_recall(cfg: Config, model: Contrastive, data: Data) -> dict[str, float]:
    """Recall of a model's queries on held-out train: its references and targets the gallery, the reference masked.

    Returns:
        A history's columns: the recall, under `score_name`, and its `standard_error`, both in %.
    """
    gallery, target, reference = _heldout_gallery(data)
    features = encode_images(model.backbone, [data.train.images[name] for name in gallery])
    queries = encode_queries(model, data.held, data.train.images, cfg.data.val_captions)
    return scored(cfg, data, recall(target_ranks(queries, features, target, reference), cfg.evaluation.choose_at))


def scored(cfg: Config, data: Data, score: float) -> dict[str, float]:
    """A recall on held-out train as columns of a history; with that of a share p of n queries, sqrt(p (1 - p) / n)."""
    return {score_name(cfg): score, "standard_error": (score * (100 - score) / len(data.held)) ** 0.5}


def _heldout_gallery(data: Data) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    gallery = union(data.held)
    row = {name: index for index, name in enumerate(gallery)}
    target = torch.tensor([row[triplet.target_name] for triplet in data.held])
    reference = torch.tensor([row[triplet.reference_name] for triplet in data.held])
    return gallery, target, reference


def tune_weight(cfg: Config, backbone: Backbone, data: Data) -> tuple[float, float, pd.DataFrame]:
    """The weighted sum's text weight on held-out train: (weight, its recall, the sweep of recalls)."""
    gallery, target, reference = _heldout_gallery(data)
    features = encode_images(backbone, [data.train.images[name] for name in gallery])
    texts = encode_captions(backbone, data.held, cfg.data.val_captions)
    k = cfg.evaluation.choose_at
    weight, sweep = choose_weight(features[reference], texts, features, target, reference, k=k)
    return weight, float(sweep[f"R@{k}"].max()), sweep


def start_weight(cfg: Config) -> float:
    """The text's weight in the sum that stage 2 starts from: the best on held-out train after IACMA."""
    history = read_history(cfg.run_dir / "iacma")
    epoch = kept_epoch(history) if cfg.iacma.keep == "chosen" else history["epoch"].max()
    return float(history.set_index("epoch").loc[epoch, "text_weight"])


def kept_epoch(history: pd.DataFrame) -> int:
    """The epoch whose weights `fit` kept, by held-out recall."""
    return chosen_epoch(history, heldout(history).name)


def heldout(history: pd.DataFrame) -> pd.Series:
    """A history's held-out recall; the series is named for it, such as "heldout_R@10"."""
    return history[next(column for column in history if column.startswith("heldout_R@"))]


def score_name(cfg: Config) -> str:
    """The column of a history that an epoch is chosen by."""
    return f"heldout_R@{cfg.evaluation.choose_at}"


WEIGHTS = tuple(step / 20 for step in range(1, 20))
"""The text weights tried; 0 and 1 are the baselines `image_only` and `text_only`."""


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
        gallery, target_index, masked_index, chunk: as in `ranking.target_ranks`.

    Returns:
        The weight (of equals, the smallest), and the sweep: columns weight and `R@k`.

    Raises:
        InputError: a weight not between 0 and 1, or as `ranking.target_ranks`.
    """

    def measure(weight: float) -> float:
        return recall(target_ranks(weighted_sum(weight)(image, text), gallery, target_index, masked_index, chunk), k)

    sweep = pd.DataFrame({"weight": weights, f"R@{k}": [measure(weight) for weight in weights]}).sort_values("weight")
    return float(sweep.loc[sweep[f"R@{k}"].idxmax(), "weight"]), sweep.reset_index(drop=True)
