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
from tmcir_lite.method import atf
from tmcir_lite.method.encoders import Backbone, ImageFeatures, TextFeatures
from tmcir_lite.method.model import Composed
from tmcir_lite.rivals.sums import weighted_sum

STOP_WORDS = {
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "from", "has", "have", "in", "is", "it",
    "its", "of", "on", "or", "same", "than", "that", "the", "their", "them", "there", "these", "this", "to",
    "was", "where", "which", "with",
}  # fmt: skip
"""Words that name nothing to be seen."""


@torch.no_grad()
def encode(
    cfg: Config, backbone: Backbone, triplets: Sequence[Triplet], split: Split
) -> tuple[ImageFeatures, TextFeatures]:
    """Outputs of both encoders for the references and the texts of some queries, on the CPU."""
    device = backbone.logit_scale.device
    image = backbone.image(backbone.load([split.images[t.reference_name] for t in triplets]).to(device))
    text = backbone.text(backbone.tokenize(joined(triplets, cfg.data.val_captions)).to(device))
    return ImageFeatures(*(part.cpu() for part in image)), TextFeatures(*(part.cpu() for part in text))


def token_cosines(cfg: Config, backbone: Backbone, triplets: Sequence[Triplet], split: Split) -> Tensor:
    """Cosines of all patch tokens with all word tokens, padding left out, over some queries; one flat tensor."""
    image, text = encode(cfg, backbone, triplets, split)
    S = atf.similarity(image.tokens, text.tokens)
    return S[text.mask[:, None, :].expand_as(S)]


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
    match = match_queries(cfg, model, triplets, split)
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
def match_queries(
    cfg: Config, model: Composed, triplets: Sequence[Triplet], split: Split, threshold: float | None = None
) -> atf.Match:  # fmt: skip
    """What merges with what in some queries, on the CPU.

    Args:
        threshold: None: the fusion's own.
    """
    image, text = encode(cfg, model.backbone, triplets, split)
    threshold = model.fusion.threshold if threshold is None else threshold
    S = atf.similarity(image.tokens, text.tokens)
    return atf.match(S, text.mask, threshold, model.fusion.threshold_is)


def merged_words(cfg: Config, model: Composed, triplets: Sequence[Triplet], split: Split) -> pd.DataFrame:
    """Which text tokens merge, over some queries: a row each.

    Returns:
        Columns `word`; `kind`: "content word", "stop word" (also punctuation) or "end token"; `merged`, a bool.
    """
    rows, match = [], match_queries(cfg, model, triplets, split)
    for number, text in enumerate(joined(triplets, cfg.data.val_captions)):
        words = model.backbone.words(text)
        kinds = ["stop word" if _is_stop_word(word) else "content word" for word in words[:-1]]
        merged = match.merged[number][match.text_mask[number]].tolist()
        rows += zip(words, [*kinds, "end token"], merged, strict=True)
    return pd.DataFrame(rows, columns=["word", "kind", "merged"])


def _is_stop_word(word: str) -> bool:
    return word.lower() in STOP_WORDS or not any(map(str.isalnum, word))
