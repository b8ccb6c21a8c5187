"""Garments, for the editor: one to three attributes change."""

import random

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tmcir_lite.data.captions import join_captions
from tmcir_lite.data.garments import (
    ATTRIBUTES,
    CATEGORIES,
    VALUES,
    Picture,
    relative_caption,
    relative_captions,
    sample_change,
    sample_garment,
    sample_nuisance,
)
from tmcir_lite.pretrain.worlds.example import IGNORED, EditExample
from tmcir_lite.pseudo_targets import quality

PROFILE = "lite"
DATA = "garment world, pretraining half of the attribute combinations, drawn on the fly"
CONTEXT = 40
CHANNELS = (64, 112)
AUTOENCODER = None
held_out = quality.sample_edits

_KEPT = ((), ("sleeves", "length", "neckline"), ("sleeves", "length", "colour", "accent"))
"""Attributes that a third of the edits each leave alone: what is learned fast is shown less often than prints."""
_ANSWERS = [1 + len(values) for values in VALUES.values()]


def corpus() -> None:
    """That of `tokenizer.train_tokenizer`."""


def sample_edit(rng: random.Random) -> EditExample:
    """A reference, its perfect edit (same nuisance), the relative caption(s) between them and what they ask for."""
    reference = Picture(sample_garment(rng, rng.choice(CATEGORIES), pretraining=True), sample_nuisance(rng))
    edited = sample_change(rng, reference.garment, rng.choice((1, 1, 2, 3)), keep=rng.choice(_KEPT))
    if rng.random() < 0.3:
        text = relative_caption(rng, reference.garment, edited)
    else:
        text = join_captions(relative_captions(rng, reference.garment, edited), "and")
    changed = reference.garment.differences(edited)
    labels = [VALUES[a].index(getattr(edited, a)) + 1 if a in changed else 0 for a in ATTRIBUTES]
    return EditExample(reference, Picture(edited, reference.nuisance), text, labels)


def without_text(labels: list[int]) -> list[int]:
    """Nothing is asked for that could be read."""
    return [IGNORED] * len(labels)


class CaptionReader(nn.Module):
    """Linear heads that read from the text encoder's output, for each attribute, the value asked for (0: none)."""

    def __init__(self, text_width: int, channels: int):
        super().__init__()
        self.heads = nn.Linear(text_width, sum(_ANSWERS))

    def forward(self, hidden, down, mid, labels) -> torch.Tensor:
        """Mean cross-entropy; see `editor.Editing`."""
        logits = self.heads(hidden.mean(1)).split(_ANSWERS, dim=1)
        return torch.stack([cross_entropy(part, label) for part, label in zip(logits, labels.T, strict=True)]).mean()


READER = CaptionReader
