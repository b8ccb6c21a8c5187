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
from tmcir_lite.training import read_history


def heldout_recall(cfg: Config, model: Contrastive, data: Data) -> float:
    """Recall of a model's queries on held-out train: its references and targets the gallery, the reference masked."""
    gallery, target, reference = _heldout_gallery(data)
    features = encode_images(model.backbone, [data.train.images[name] for name in gallery])
    queries = encode_queries(model, data.held, data.train.images, cfg.data.val_captions)
    return recall(target_ranks(queries, features, target, reference), cfg.evaluation.choose_at)


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
    epoch = best_epoch(history) if cfg.iacma.keep == "best" else history["epoch"].max()
    return float(history.set_index("epoch").loc[epoch, "text_weight"])


def best_epoch(history: pd.DataFrame) -> int:
    """The epoch whose weights `fit` kept as best: the latest of those with the highest held-out recall."""
    scores = heldout(history)
    return int(history["epoch"][scores == scores.max()].max())


def heldout(history: pd.DataFrame) -> pd.Series:
    """A history's held-out recall; the series is named for it, such as "heldout_R@10"."""
    return history[next(column for column in history if column.startswith("heldout_R@"))]


def score_name(cfg: Config) -> str:
    """The column of a history that an epoch is chosen by."""
    return f"heldout_R@{cfg.evaluation.choose_at}"
