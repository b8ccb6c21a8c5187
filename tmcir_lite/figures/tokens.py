"""Tokens before and after ATF: their cosines, what merges with what, and the query feature."""

import math
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from tmcir_lite.config import Config
from tmcir_lite.data.datasets import Split
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.evaluation.features import encode_captions, encode_images, encode_queries, joined
from tmcir_lite.method.atf import Fused, Match, similarity
from tmcir_lite.method.encoders import Backbone
from tmcir_lite.method.model import Composed
from tmcir_lite.rivals.sums import weighted_sum


@torch.no_grad()
def token_cosines(cfg: Config, backbone: Backbone, triplets: Sequence[Triplet], split: Split) -> Tensor:
    """Cosines of all patch tokens with all word tokens, padding left out, over some queries; one flat tensor."""
    device = next(backbone.parameters()).device
    image = backbone.image(backbone.load([split.images[t.reference_name] for t in triplets]).to(device))
    text = backbone.text(backbone.tokenize(joined(triplets, cfg.data.val_captions)).to(device))
    S = similarity(image.tokens, text.tokens)
    return S[text.mask[:, None, :].expand_as(S)].cpu()


def token_similarity(cfg: Config, backbone: Backbone, triplet: Triplet, split: Split) -> Tensor:
    """N M: cosines of each patch of one query's reference with each word of its text."""
    return token_cosines(cfg, backbone, [triplet], split).view(math.prod(backbone.grid), -1)


@torch.no_grad()
def fusion_facts(cfg: Config, model: Composed, triplets: Sequence[Triplet], split: Split) -> pd.DataFrame:
    """What the fusion does to each query, a row each.

    Returns:
        Columns `words`; `merged` of them, `patches` that take in at least one; and `cosine with the sum`: of the query
        feature with the weighted sum of its own two pooled features, weighted as the model learned.
    """
    references = [split.images[t.reference_name] for t in triplets]
    match = fuse_queries(cfg, model, triplets, split).match
    words, patches = match.text_mask, F.one_hot(match.index, math.prod(model.backbone.grid)).bool()
    sums = weighted_sum(model.fusion.head.text_weight)(
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
    image = backbone.image(backbone.load([split.images[t.reference_name] for t in triplets]).to(device))
    text = backbone.text(backbone.tokenize(joined(triplets, cfg.data.val_captions)).to(device))
    tokens, mask, match = model.fusion.fuse(image.tokens, text.tokens, text.mask)
    return Fused(tokens.cpu(), mask.cpu(), Match(*(part.cpu() for part in match)))
