"""What is chosen on triplets held out of train, never on val: an epoch, and the weighted sum's text weight."""

import pandas as pd
import torch

from tmcir_lite.backbone import Backbone
from tmcir_lite.baselines import choose_weight
from tmcir_lite.config import Config
from tmcir_lite.datasets import union
from tmcir_lite.evaluation import recall, target_ranks
from tmcir_lite.features import encode_captions, encode_images, encode_queries
from tmcir_lite.losses import Contrastive
from tmcir_lite.run_data import Data
from tmcir_lite.training import chosen_epoch, read_history


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
