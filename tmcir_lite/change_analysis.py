"""What training changed: cosines of pictures and texts (IACMA), of tokens, and the query feature (ATF)."""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from tmcir_lite.analysis import token_cosines
from tmcir_lite.atf import Fused, Match
from tmcir_lite.backbone import Backbone
from tmcir_lite.baselines import weighted_sum
from tmcir_lite.composed import Composed
from tmcir_lite.config import Config
from tmcir_lite.datasets import Split, Triplet
from tmcir_lite.features import encode_captions, encode_images, encode_queries, joined
from tmcir_lite.run_data import Data, iacma_images, sample


def heldout_pairs(cfg: Config, data: Data, count: int, seed: int = 0) -> tuple[list[Triplet], list[Path]]:
    """Some held-out triplets, and the picture that IACMA would pair with the text of each (it learned from none)."""
    images = iacma_images(cfg, data)
    triplets = sample([triplet for triplet in data.held if triplet.id in images], count, seed)
    return triplets, [images[triplet.id] for triplet in triplets]


def pair_similarity(cfg: Config, backbone: Backbone, triplets: Sequence[Triplet], pictures: Sequence[Path]) -> Tensor:
    """Q Q: cosines of each picture (rows) with the text of each triplet (columns)."""
    texts = encode_captions(backbone, triplets, cfg.data.val_captions)
    return F.normalize(encode_images(backbone, pictures), dim=1) @ F.normalize(texts, dim=1).T


def text_cosines(cfg: Config, data: Data, backbone: Backbone, triplets: Sequence[Triplet],
                 pictures: Sequence[Path]) -> pd.Series:  # fmt: skip
    """Mean cosines of texts with the pictures that IACMA pairs them with, and with those it never pairs them with."""
    images = data.train.images
    S = pair_similarity(cfg, backbone, triplets, pictures)
    references, targets = (
        pair_similarity(cfg, backbone, triplets, [images[name] for name in names]).diagonal().mean().item()
        for names in ([t.reference_name for t in triplets], [t.target_name for t in triplets])
    )
    others = S[~torch.eye(len(S), dtype=torch.bool)]
    return pd.Series({"paired picture, its text": S.diagonal().mean().item(),
                      "paired picture, another's text": others.mean().item(),
                      "reference, text": references, "target, text": targets})  # fmt: skip


def token_similarity(cfg: Config, backbone: Backbone, triplet: Triplet, split: Split) -> Tensor:
    """N M: cosines of each patch of one query's reference with each word of its text."""
    return token_cosines(cfg, backbone, [triplet], split).view(math.prod(backbone.grid), -1)


@torch.no_grad()
def fusion_facts(cfg: Config, model: Composed, triplets: Sequence[Triplet], split: Split) -> pd.DataFrame:
    """What the fusion does to each query, a row each.

    Returns:
        Columns `words`; `merged` of them, `patches` that take in at least one; and `cosine with the sum`: of the query
        feature with the weighted sum of its own two pooled features, weighted as the model learned (without residual:
        halves).
    """
    references = [split.images[t.reference_name] for t in triplets]
    match = fuse_queries(cfg, model, triplets, split).match
    words, patches = match.text_mask, F.one_hot(match.index, model.fusion.num_visual).bool()
    weight = 0.5 if model.fusion.head.text_weight is None else model.fusion.head.text_weight
    sums = weighted_sum(weight)(
        encode_images(model.backbone, references), encode_captions(model.backbone, triplets, cfg.data.val_captions)
    )
    queries = encode_queries(model, triplets, split.images, cfg.data.val_captions)
    taken = (patches & match.merged.unsqueeze(-1)).any(dim=1).sum(dim=1)
    return pd.DataFrame({"words": words.sum(dim=1).tolist(), "merged": match.merged.sum(dim=1).tolist(),
                         "patches": taken.tolist(),
                         "cosine with the sum": (queries * sums).sum(dim=1).tolist()})  # fmt: skip


@torch.no_grad()
def fuse_queries(cfg: Config, model: Composed, triplets: Sequence[Triplet], split: Split) -> Fused:
    """The fused tokens of some queries, and what merged with what, on the CPU."""
    device, backbone = next(model.parameters()).device, model.backbone
    references = backbone.load([split.images[t.reference_name] for t in triplets]).to(device)
    texts = backbone.tokenize(joined(triplets, cfg.data.val_captions)).to(device)
    tokens, weight, match = model.fuse(references, texts)
    return Fused(tokens.cpu(), weight.cpu(), Match(*(part.cpu() for part in match)))
