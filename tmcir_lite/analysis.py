"""What the notebooks look at beside the result table: what a backbone sees, token similarities, retrievals."""

import dataclasses
import random
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from tmcir_lite.atf import similarity
from tmcir_lite.backbone import Backbone
from tmcir_lite.config import Config
from tmcir_lite.datasets import Split, Triplet, protocol
from tmcir_lite.examples import Example, choose, example, find
from tmcir_lite.features import encode_images, encode_queries, encode_texts, joined
from tmcir_lite.garments import ATTRIBUTES, VALUES, describe, other_values
from tmcir_lite.run_data import Data, known_attributes, known_garments
from tmcir_lite.run_models import load_clip4cir, load_trained, load_trained_pic2word

OURS = "TMCIR"


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


@torch.no_grad()
def token_cosines(cfg: Config, backbone: Backbone, triplets: Sequence[Triplet], split: Split) -> Tensor:
    """Cosines of all patch tokens with all word tokens, padding left out, over some queries; one flat tensor."""
    device = next(backbone.parameters()).device
    image = backbone.image(backbone.load([split.images[t.reference_name] for t in triplets]).to(device))
    text = backbone.text(backbone.tokenize(joined(triplets, cfg.data.val_captions)).to(device))
    S = similarity(image.tokens, text.tokens)
    return S[text.mask[:, None, :].expand_as(S)].cpu()


def compare_retrievals(cfg: Config, data: Data, count: int, top_k: int) -> list[Example]:
    """Queries of one category, chosen by `examples.choose`, and what each method finds for them.

    Category and protocol are the first of each.
    """
    category = next(iter(data.val.galleries))
    rules = protocol(data.val, cfg.evaluation.protocols[0], category)
    triplets = [t for t in data.val.triplets if t.category == category]
    found = find(_features(cfg, data, triplets, rules.gallery), triplets, rules, top_k)
    chosen = choose({method: ranks for method, (ranks, _) in found.items()}, OURS, count)
    known = known_garments(data.val)
    return [example(why, triplets[i], i, found, rules.gallery, data.val, known) for why, i in chosen]


def _features(
    cfg: Config, data: Data, triplets: Sequence[Triplet], names: Sequence[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Method -> features of the queries and of the gallery, the other methods first."""
    paths = [data.val.images[name] for name in names]
    models = {"CLIP4Cir": load_clip4cir(cfg)[1], "Pic2Word": load_trained_pic2word(cfg), OURS: load_trained(cfg)}
    return {
        name: (
            encode_queries(model, triplets, data.val.images, cfg.data.val_captions),
            encode_images(model.backbone, paths),
        )
        for name, model in models.items()
    }
