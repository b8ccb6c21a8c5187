"""Trains the lite CLIP from nothing on drawn garments: `python -m tmcir_lite.pretrain.clip`."""

import argparse
import dataclasses
import random
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from tmcir_lite.data.garments import (
    ATTRIBUTES,
    CATEGORIES,
    VALUES,
    Garment,
    describe,
    draw,
    other_values,
    sample_change,
    sample_garment,
    sample_nuisance,
)
from tmcir_lite.io.files import ROOT
from tmcir_lite.pretrain.contrast import (
    DrawnBatches,
    PictureText,
    build_clip,
    clip_options,
    publish_clip,
    read_labels,
    text_ranks,
    train_clip,
)

MODEL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 144, "head_width": 36, "patch_size": 8},
    "text_cfg": {
        "context_length": 40, "width": 128, "heads": 4, "layers": 2, "hf_tokenizer_name": "in this folder",
    },
}  # fmt: skip


class PairBatches(DrawnBatches):
    """Groups of one garment and three copies with one attribute changed, most of them described in full.

    So the loss cannot be lowered without seeing every attribute.
    """

    def examples(self, rng, groups):
        """See `DrawnBatches`; `shown` and `said` are the numbers of the attributes' values."""
        garments = [g for _ in range(groups) for g in _near_duplicates(rng)]
        pictures = [draw(g, sample_nuisance(rng)) for g in garments]
        mentioned = [_mentioned(rng) for _ in garments]
        texts = [describe(rng, g, names) for g, names in zip(garments, mentioned, strict=True)]
        shown = _labels(garments, [ATTRIBUTES] * len(garments))
        return pictures, texts, {"shown": shown, "said": _labels(garments, mentioned)}


def _near_duplicates(rng: random.Random) -> list[Garment]:
    base = sample_garment(rng, rng.choice(CATEGORIES), pretraining=True)
    return [base, *(sample_change(rng, base, 1) for _ in range(PairBatches.group - 1))]


def _mentioned(rng: random.Random) -> tuple[str, ...]:
    """All attributes most of the time, else a part, so that short texts are understood as well."""
    if rng.random() < 0.7:
        return ATTRIBUTES
    return tuple(rng.sample(ATTRIBUTES, rng.randint(2, len(ATTRIBUTES) - 1)))


def _labels(garments: list[Garment], mentioned: list[tuple[str, ...]]) -> torch.Tensor:
    """The number of each attribute's value, int64 (B, attributes); -100 (ignored) where it is not mentioned."""
    return torch.tensor(
        [[VALUES[a].index(getattr(g, a)) if a in names else -100 for a in ATTRIBUTES]
         for g, names in zip(garments, mentioned, strict=True)]
    )  # fmt: skip


class Pretraining(PictureText):
    """An open_clip model whose forward returns the loss of a batch of raw pictures and token ids.

    The loss is CLIP's symmetric one plus, as a crutch that is thrown away after training, the cross-entropy of linear
    heads that read every attribute from the picture's feature and every mentioned one from the text's. CLIP's loss
    alone takes hundreds of thousands of pairs before it looks at small shapes.
    """

    def __init__(self, clip: nn.Module):
        super().__init__(clip)
        self._answers = [len(values) for values in VALUES.values()]
        self.heads = nn.Linear(MODEL["embed_dim"], sum(self._answers))

    def forward(self, images, texts, shown, said):
        loss, image, text = self.contrast(images, texts)
        return loss + self._read(image, shown) + self._read(text, said)

    def _read(self, features, labels):
        return read_labels(self.heads, features, labels, self._answers)


@torch.no_grad()
def measure(model: Pretraining, tokenizer, count: int, seed: int) -> dict[str, torch.Tensor]:
    """What the model gets right among `count` distinct held-out pictures, bool vectors.

    - `R@1`, `R@10`: text to image.
    - `R@10 free`: with the hand-written descriptions of `data/free_wording.csv`, of pictures in the same gallery;
      `R@10 templates` has the same pictures described as in training.
    - `swap <attribute>`: whether the right caption is nearer than that with this attribute changed.

    The pictures' garments are of the pretraining half, but drawn from a seed that training does not use.
    """
    rng = random.Random(f"held-out {seed}")
    free = free_wording(count)
    distinct = dict.fromkeys(garment for garment, _ in free)
    while len(distinct) < count:
        distinct[sample_garment(rng, CATEGORIES[len(distinct) % 3], pretraining=True)] = None
    garments = list(distinct)
    image = model.encode_pictures(draw(g, sample_nuisance(rng)) for g in garments)

    def encode(texts):
        return model.encode_texts(tokenizer, texts)

    found = text_ranks(encode([describe(rng, g) for g in garments]), image)
    by_hand = text_ranks(encode([text for _, text in free]), image)
    result = {"R@1": found <= 1, "R@10": found <= 10, "R@10 templates": found[: len(free)] <= 10,
              "R@10 free": by_hand <= 10}  # fmt: skip
    for name in ATTRIBUTES:
        right, wrong = zip(*(_swapped(rng, g, name) for g in garments), strict=True)
        result[f"swap {name}"] = (image * (encode(right) - encode(wrong))).sum(1) > 0
    return result


def free_wording(count: int) -> list[tuple[Garment, str]]:
    """The first `count` garments of `data/free_wording.csv`, each with its hand-written description."""
    table = pd.read_csv(ROOT / "data" / "free_wording.csv", keep_default_na=False, nrows=count)
    return [(Garment(**{name: row[name] for name in ATTRIBUTES}), row["caption"]) for _, row in table.iterrows()]


def _swapped(rng: random.Random, garment: Garment, name: str) -> tuple[str, str]:
    state = rng.getrandbits(64)
    changed = dataclasses.replace(garment, **{name: rng.choice(other_values(garment, name))})
    return describe(random.Random(state), garment), describe(random.Random(state), changed)


def build(folder: Path) -> tuple[Pretraining, object]:
    """Writes tokenizer and configuration into `folder` and returns (model, tokenizer) with fresh weights."""
    clip, tokenizer = build_clip(folder, MODEL)
    return Pretraining(clip), tokenizer


def main(arguments: list[str] | None = None) -> None:
    """Trains, or goes on with, the lite CLIP; see `--help`."""
    parser = clip_options("clip", __doc__, epochs=36, steps=25, batch=256, lr=1.5e-3, measure=2000)
    options = parser.parse_args(arguments)
    publish(options, train_clip(options, build, PairBatches, measure))


def publish(options: argparse.Namespace, measured: dict[str, torch.Tensor]) -> None:
    """Copies the finished model and its log to `--out`, with a card."""
    publish_clip(
        "clip", options, measured, title="Lite CLIP", pictures="pictures",
        what="open_clip CLIP, ViT 64 px, patch 8, 4 layers of width 144; text 2 layers of width 128; fp16",
        data="garment world, pretraining half of the attribute combinations (`Garment.pretraining`), drawn on the "
             f"fly; seed {options.seed}; groups of four near-duplicates in every batch",
        blind="attributes whose caption-swap accuracy below is near 50% (chance)",
        legend="swap: the right caption against the same with that attribute changed. free: hand-written descriptions "
               "(`data/free_wording.csv`); templates: the same pictures in the wording of training.",
    )  # fmt: skip


if __name__ == "__main__":
    main()
