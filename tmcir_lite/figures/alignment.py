"""What the encoders see, before and after IACMA: attributes, and cosines of pictures and texts."""

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from tmcir_lite.config import Config
from tmcir_lite.data.datasets import Split
from tmcir_lite.data.garments import ATTRIBUTES, VALUES, describe, other_values
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.evaluation.features import encode_captions, encode_images, encode_texts
from tmcir_lite.method.encoders import Backbone
from tmcir_lite.run.data import Data, iacma_images, known_attributes, sample


def attribute_confusions(backbone: Backbone, split: Split, count: int, seed: int = 0) -> dict[str, pd.DataFrame]:
    """What a backbone sees: for each attribute, how often each value (rows) is taken for which (columns).

    A picture is compared with its own description and with those in which one attribute has another value; the
    nearest description (cosine) is the answer. `type` is asked within the category only.
    """
    known, rng = known_attributes(split), random.Random(seed)
    names = rng.sample(sorted(split.images), min(count, len(split.images)))
    asked, texts = [], []
    for row, name in enumerate(names):
        garment, state = known[name].garment, rng.getrandbits(64)
        for attribute in ATTRIBUTES:
            for value in [getattr(garment, attribute), *other_values(garment, attribute)]:
                asked.append((row, attribute, getattr(garment, attribute), value))
                other = dataclasses.replace(garment, **{attribute: value})
                texts.append(describe(random.Random(state), other))  # the same wording but for the attribute's own
    table = pd.DataFrame(asked, columns=["row", "attribute", "shown", "taken for"])
    images = encode_images(backbone, [split.images[name] for name in names])
    table["cosine"] = (images[torch.tensor(table["row"].tolist())] * encode_texts(backbone, texts)).sum(1).cpu()
    best = table.loc[table.groupby(["row", "attribute"])["cosine"].idxmax()]
    return {
        name: pd.crosstab(part["shown"], part["taken for"]).reindex(VALUES[name], axis=0, fill_value=0)
        .reindex(VALUES[name], axis=1, fill_value=0)
        for name in ATTRIBUTES for part in [best[best["attribute"] == name]]
    }  # fmt: skip


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
    own = torch.eye(len(S), dtype=torch.bool)
    return pd.Series({"paired picture, its text": S.diagonal().mean().item(),
                      "paired picture, another's text": S[~own].mean().item(),
                      "paired picture, its nearest other text": S.masked_fill(own, -1).amax(dim=1).mean().item(),
                      "reference, text": references, "target, text": targets})  # fmt: skip
