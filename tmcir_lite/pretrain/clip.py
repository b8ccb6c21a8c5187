"""Trains the lite CLIP from nothing on drawn garments: `python -m tmcir_lite.pretrain.clip`."""

import argparse
import dataclasses
import random
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch
from open_clip.loss import ClipLoss
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

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
from tmcir_lite.evaluation.intervals import percentage
from tmcir_lite.io.files import ROOT, atomic, resolve, write_json
from tmcir_lite.method.checkpoint import load_weights, read_history
from tmcir_lite.method.training import Schedule, decay_groups, fit
from tmcir_lite.pretrain.model_card import command_line, device_name, publish_folder
from tmcir_lite.pretrain.tokenizer import kept_tokenizer

MODEL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 144, "head_width": 36, "patch_size": 8},
    "text_cfg": {
        "context_length": 40, "width": 128, "heads": 4, "layers": 2, "hf_tokenizer_name": "in this folder",
    },
}  # fmt: skip
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.3, 0.3, 0.3], "interpolation": "bicubic", "resize_mode": "shortest"}
_GROUP = 4  # near-duplicates that stand side by side in a batch


class PairBatches(Dataset):
    """Item i is a whole batch of drawn pictures with descriptions, the same for the same seed, epoch and i.

    A batch is made of groups of near-duplicates: one garment and three copies with one attribute changed, each
    described in full, so that the loss cannot be lowered without seeing every attribute.
    """

    def __init__(self, tokenizer, seed: int, epoch: int, steps: int, batch: int):
        self._tokenizer, self._key, self._steps, self._groups = tokenizer, (seed, epoch), steps, batch // _GROUP

    def __len__(self):
        return self._steps

    def __getitem__(self, index):
        rng = random.Random(repr((*self._key, index)))
        garments = [g for _ in range(self._groups) for g in _near_duplicates(rng)]
        pixels = np.stack([np.asarray(draw(g, sample_nuisance(rng))) for g in garments])
        mentioned = [_mentioned(rng) for _ in garments]
        texts = [describe(rng, g, names) for g, names in zip(garments, mentioned, strict=True)]
        return {
            "images": torch.from_numpy(pixels).permute(0, 3, 1, 2),
            "texts": self._tokenizer(texts),
            "shown": _labels(garments, [ATTRIBUTES] * len(garments)),
            "said": _labels(garments, mentioned),
        }


def _near_duplicates(rng: random.Random) -> list[Garment]:
    base = sample_garment(rng, rng.choice(CATEGORIES), pretraining=True)
    return [base, *(sample_change(rng, base, 1) for _ in range(_GROUP - 1))]


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


class Pretraining(nn.Module):
    """An open_clip model whose forward returns the loss of a batch of raw pictures and token ids.

    The loss is CLIP's symmetric one plus, as a crutch that is thrown away after training, the cross-entropy of linear
    heads that read every attribute from the picture's feature and every mentioned one from the text's. CLIP's loss
    alone takes hundreds of thousands of pairs before it looks at small shapes.
    """

    def __init__(self, clip: nn.Module):
        super().__init__()
        self.clip = clip
        self.heads = nn.Linear(MODEL["embed_dim"], sum(map(len, VALUES.values())))
        self._loss = ClipLoss()
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(PREPROCESS[name]).view(3, 1, 1), persistent=False)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (B, 3, H, W) -> the floats that the encoder expects."""
        return (images.float() / 255 - self.mean) / self.std

    def forward(self, images, texts, shown, said):
        image, text, scale = self.clip(self.normalise(images), texts)
        return self._loss(image, text, scale) + self._read(image, shown) + self._read(text, said)

    def _read(self, features, labels):
        """Mean cross-entropy over the attributes."""
        logits = self.heads(features * MODEL["embed_dim"] ** 0.5).split([len(v) for v in VALUES.values()], dim=1)
        losses = [cross_entropy(part, label) for part, label in zip(logits, labels.T, strict=True)]
        return torch.stack(losses).mean()


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
    device = model.mean.device
    free = free_wording(count)
    distinct = dict.fromkeys(garment for garment, _ in free)
    while len(distinct) < count:
        distinct[sample_garment(rng, CATEGORIES[len(distinct) % 3], pretraining=True)] = None
    garments = list(distinct)
    pixels = torch.from_numpy(np.stack([np.asarray(draw(g, sample_nuisance(rng))) for g in garments]))
    image = _batched(lambda x: model.clip.encode_image(model.normalise(x), normalize=True),
                     pixels.permute(0, 3, 1, 2).to(device))  # fmt: skip

    def encode(texts):
        return _batched(lambda x: model.clip.encode_text(x, normalize=True), tokenizer(texts).to(device))

    def ranks(texts):
        scores = encode(texts) @ image.T
        return (scores >= scores.diagonal()[:, None]).sum(1)

    found = ranks([describe(rng, g) for g in garments])
    result = {"R@1": found <= 1, "R@10": found <= 10, "R@10 templates": found[: len(free)] <= 10,
              "R@10 free": ranks([text for _, text in free]) <= 10}  # fmt: skip
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


def _batched(encode, inputs: torch.Tensor) -> torch.Tensor:
    return torch.cat([encode(chunk) for chunk in inputs.split(250)])


def build(folder: Path):
    """Writes tokenizer and configuration into `folder` and returns (model, tokenizer) with fresh weights."""
    tokenizer = kept_tokenizer(folder, MODEL["text_cfg"]["context_length"])
    config = {**MODEL, "text_cfg": {**MODEL["text_cfg"], "vocab_size": len(tokenizer)}}
    write_json(folder / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": PREPROCESS})
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    return Pretraining(model), open_clip.get_tokenizer(f"local-dir:{folder}")


def main(arguments: list[str] | None = None) -> None:
    """Trains, or goes on with, the lite CLIP; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m tmcir_lite.pretrain.clip", description=__doc__)
    parser.add_argument("--out", default="data/models/clip", help="the model folder to write")
    parser.add_argument("--work", default="runs/pretrain-clip", help="checkpoints and the log; resumes from here")
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--steps", type=int, default=25, help="batches an epoch")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", type=int, default=2000, help="held-out pictures for the card")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    device, work = torch.device(options.device), resolve(options.work)
    torch.manual_seed(options.seed)
    model, tokenizer = build(work / "clip")
    model.to(device)
    schedule = Schedule(options.epochs, options.lr, weight_decay=0.1, warmup=0.05)

    def batches(epoch):
        data = PairBatches(tokenizer, options.seed, epoch, options.steps, options.batch)
        return DataLoader(data, batch_size=None, num_workers=1)

    fit(model, batches, schedule, work, device=device, seed=options.seed, score="R@1", title="clip",
        groups=decay_groups(model, schedule.weight_decay),
        validate=lambda: {name: 100 * right.float().mean().item()
                          for name, right in measure(model, tokenizer, 500, seed=1).items()})  # fmt: skip
    load_weights(model, work / "last.safetensors")
    finish(model, work / "clip")
    publish(options, work, measure(model, tokenizer, options.measure, seed=2))


def finish(model: Pretraining, folder: Path) -> None:
    """Saves the weights where open_clip looks for them, in half precision."""
    weights = {name: tensor.half().contiguous().cpu() for name, tensor in model.clip.state_dict().items()}
    with atomic(folder / "open_clip_model.safetensors") as path:
        save_file(weights, path)


def publish(options: argparse.Namespace, work: Path, measured: dict[str, torch.Tensor]) -> None:
    """Copies the finished model and its log to `--out`, with a card."""
    history = read_history(work)
    pairs = options.epochs * options.steps * options.batch
    facts = {
        "what": "open_clip CLIP, ViT 64 px, patch 8, 4 layers of width 144; text 2 layers of width 128; fp16",
        "made by": f"`{command_line('clip')}`",
        "data": "garment world, pretraining half of the attribute combinations (`Garment.pretraining`), drawn on the "
                f"fly; seed {options.seed}; groups of four near-duplicates in every batch",
        "samples seen": f"{pairs:,} pairs",
        "time": f"{history['seconds'].sum() / 3600:.2f} h on {device_name(options.device)}",
        "what it does not see": "attributes whose caption-swap accuracy below is near 50% (chance)",
    }  # fmt: skip
    rows = [f"| {name} | {percentage(int(right.sum()), len(right))} |" for name, right in measured.items()]
    table = "\n".join(["| measure | % (95% interval) |", "| --- | --- |", *rows])
    heading = f"Measured on {options.measure} held-out pictures"
    table += (
        "\n\nswap: the right caption against the same with that attribute changed. free: hand-written descriptions "
        "(`data/free_wording.csv`); templates: the same pictures in the wording of training."
    )
    publish_folder(work / "clip", resolve(options.out), work, "Lite CLIP", facts, {heading: table})


if __name__ == "__main__":
    main()
