"""What the lite CLIPs share, whatever they look at: batches of drawn groups, the model, its training and its card."""

import argparse
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.loss import ClipLoss
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader, Dataset

from tmcir_lite.evaluation.intervals import percentage
from tmcir_lite.io.files import atomic, resolve, write_json
from tmcir_lite.method.checkpoint import load_weights, read_history
from tmcir_lite.method.encoders import Backbone, without_padding
from tmcir_lite.method.training import Schedule, decay_groups, fit
from tmcir_lite.pretrain.model_card import command_line, device_name, publish_folder
from tmcir_lite.pretrain.tokenizer import kept_tokenizer

PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.3, 0.3, 0.3], "interpolation": "bicubic", "resize_mode": "shortest"}


class DrawnBatches(Dataset):
    """Item i is a whole batch of drawn pictures with descriptions, the same for the same seed, epoch and i.

    A batch is made of groups of near-duplicates, so that the loss cannot be lowered without a close look.
    """

    group = 4
    """Near-duplicates that stand side by side."""

    def __init__(self, tokenizer, seed: int, epoch: int, steps: int, batch: int):
        self._tokenizer, self._key, self._steps, self._groups = tokenizer, (seed, epoch), steps, batch // self.group

    def __len__(self):
        return self._steps

    def __getitem__(self, index):
        pictures, texts, labels = self.examples(random.Random(repr((*self._key, index))), self._groups)
        return {"images": as_tensor(pictures), "texts": without_padding(self._tokenizer(texts)), **labels}

    def examples(self, rng: random.Random, groups: int) -> tuple[list[Image.Image], list[str], dict[str, torch.Tensor]]:
        """Pictures, their descriptions and what else the model's forward takes; `group` in a row go together."""
        raise NotImplementedError


class PictureText(nn.Module):
    """An open_clip model that takes raw pictures, and CLIP's symmetric loss."""

    def __init__(self, clip: nn.Module):
        super().__init__()
        self.clip = clip
        self._backbone = [Backbone(clip, None, {}, 0)]  # in a list: its weights are the CLIP's
        self._loss = ClipLoss()
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(PREPROCESS[name]).view(3, 1, 1), persistent=False)

    @property
    def backbone(self) -> Backbone:
        """The CLIP as the library reads it."""
        return self._backbone[0]

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (B, 3, H, W) -> the floats that the encoder expects."""
        return (images.float() / 255 - self.mean) / self.std

    def contrast(self, images: torch.Tensor, texts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss of a batch, and its pictures' and texts' features, B D each, of length one."""
        image, text = self.backbone.image(self.normalise(images)), self.backbone.text(texts)
        image, text = normalize(image.pooled, dim=-1), normalize(text.pooled, dim=-1)
        return self._loss(image, text, self.backbone.logit_scale), image, text

    @torch.no_grad()
    def encode_pictures(self, pictures: Iterable[Image.Image]) -> torch.Tensor:
        """Features of length one."""
        images = as_tensor(list(pictures)).to(self.mean.device)
        return _batched(lambda x: self.clip.encode_image(self.normalise(x), normalize=True), images)

    @torch.no_grad()
    def encode_texts(self, tokenizer, texts: Iterable[str]) -> torch.Tensor:
        """Features of length one."""
        tokens = tokenizer(list(texts)).to(self.mean.device)
        return _batched(lambda x: self.clip.encode_text(x, normalize=True), tokens)


def as_tensor(pictures: list[Image.Image]) -> torch.Tensor:
    """uint8 (B, 3, H, W)."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)


def _batched(encode, inputs: torch.Tensor) -> torch.Tensor:
    return torch.cat([encode(chunk) for chunk in inputs.split(250)])


def read_labels(heads: nn.Linear, features: torch.Tensor, labels: torch.Tensor, answers: list[int]) -> torch.Tensor:
    """Mean cross-entropy of linear heads that read one label each, of `answers` values, from features of length one."""
    logits = heads(features * features.shape[1] ** 0.5).split(answers, dim=1)
    return torch.stack([cross_entropy(part, label) for part, label in zip(logits, labels.T, strict=True)]).mean()


def text_ranks(texts: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """From 1, where each text finds the picture of its number among all."""
    scores = texts @ images.T
    return (scores >= scores.diagonal()[:, None]).sum(1)


def build_clip(folder: Path, model: dict, corpus: Iterable[str] | None = None) -> tuple[nn.Module, Callable]:
    """Writes tokenizer and configuration into `folder` and returns (open_clip model, tokenizer) with fresh weights.

    Args:
        model: open_clip's `model_cfg`, but for the size of the vocabulary.
        corpus: what the tokenizer is learned on, if the folder has none; see `train_tokenizer`.
    """
    tokenizer = kept_tokenizer(folder, model["text_cfg"]["context_length"], corpus)
    config = {**model, "text_cfg": {**model["text_cfg"], "vocab_size": len(tokenizer)}}
    write_json(folder / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": PREPROCESS})
    clip = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    return clip, open_clip.get_tokenizer(f"local-dir:{folder}")


def clip_options(module: str, about: str, **defaults) -> argparse.ArgumentParser:
    """The command line of a lite CLIP; `defaults` are those of `epochs`, `steps`, `batch`, `lr` and `measure`."""
    parser = argparse.ArgumentParser(prog=f"python -m tmcir_lite.pretrain.{module}", description=about)
    parser.add_argument("--out", default=f"data/models/{module}", help="the model folder to write")
    parser.add_argument(
        "--work", default=f"runs/pretrain-{module}", help="checkpoints and the log; resumes from here"
    )  # fmt: skip
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--steps", type=int, help="batches an epoch")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", type=int, help="held-out pictures for the card")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw; the weights are the same")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.set_defaults(**defaults)
    return parser


def train_clip(
    options: argparse.Namespace,
    build: Callable[[Path], tuple[PictureText, Callable]],
    batches: type[DrawnBatches],
    measure: Callable[[PictureText, Callable, int, int], dict[str, torch.Tensor]],
) -> dict[str, torch.Tensor]:
    """Trains, or goes on with, a model in `--work`, saves it to the folder `clip` there and returns what it gets right.

    Args:
        build: folder -> (model, tokenizer).
        measure: (model, tokenizer, number of pictures, seed) -> measure -> whether each is right, `R@1` among them.
    """
    device, work = torch.device(options.device), resolve(options.work)
    torch.manual_seed(options.seed)
    model, tokenizer = build(work / "clip")
    model.to(device)
    schedule = Schedule(options.epochs, options.lr, weight_decay=0.1, warmup=0.05)

    def loader(epoch):
        data = batches(tokenizer, options.seed, epoch, options.steps, options.batch)
        return DataLoader(data, batch_size=None, num_workers=options.workers)

    fit(model, loader, schedule, work, device=device, seed=options.seed, score="R@1", title="clip",
        groups=decay_groups(model, schedule.weight_decay),
        validate=lambda: {name: 100 * right.float().mean().item()
                          for name, right in measure(model, tokenizer, 500, 1).items()})  # fmt: skip
    load_weights(model, work / "last.safetensors")
    finish(model, work / "clip")
    return measure(model, tokenizer, options.measure, 2)


def finish(model: PictureText, folder: Path) -> None:
    """Saves the weights where open_clip looks for them, in half precision."""
    weights = {name: tensor.half().contiguous().cpu() for name, tensor in model.clip.state_dict().items()}
    with atomic(folder / "open_clip_model.safetensors") as path:
        save_file(weights, path)


def publish_clip(
    module: str,
    options: argparse.Namespace,
    measured: dict[str, torch.Tensor],
    *,
    title: str,
    what: str,
    data: str,
    blind: str,
    pictures: str,
    legend: str,
) -> None:
    """Copies the finished model and its log to `--out`, with a card.

    Args:
        module: the command, `python -m tmcir_lite.pretrain.<module>`.
        blind: what the model does not see.
        pictures: what it was measured on.
        legend: what the measures mean.
    """
    work = resolve(options.work)
    facts = {
        "what": what,
        "made by": f"`{command_line(module)}`",
        "data": data,
        "samples seen": f"{options.epochs * options.steps * options.batch:,} pairs",
        "time": f"{read_history(work)['seconds'].sum() / 3600:.2f} h on {device_name(options.device)}",
        "what it does not see": blind,
    }
    rows = [f"| {name} | {percentage(int(right.sum()), len(right))} |" for name, right in measured.items()]
    table = "\n".join(["| measure | % (95% interval) |", "| --- | --- |", *rows, "", legend])
    heading = f"Measured on {options.measure} held-out {pictures}"
    publish_folder(work / "clip", resolve(options.out), work, title, facts, {heading: table})
