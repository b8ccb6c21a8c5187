"""Stage 2: a query composed of image and text by a fusion, trained towards the real target."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tmcir_lite.method.cached import CachedEncoder
from tmcir_lite.method.checkpoint import load_weights, save_weights
from tmcir_lite.method.encoders import Backbone
from tmcir_lite.method.losses import Contrastive
from tmcir_lite.method.training import decay_groups

_FILE = "fusion.safetensors"


class Composed(Contrastive):
    """Encoders and a fusion; InfoNCE between the fused query features and the target images' features (paper).

    Args:
        fusion: (`ImageFeatures`, `TextFeatures`) -> query features B D: `ATF`, a rival's, or one of your own.
        scale, learned: see `Contrastive`.
    """

    def __init__(
        self, backbone: Backbone | CachedEncoder, fusion: nn.Module, scale: float | None = None, learned: bool = True
    ):  # fmt: skip
        super().__init__(backbone, scale=scale, learned=learned)
        self.fusion = fusion

    def forward(self, references: Tensor, texts: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """references, targets: B 3 H W; texts: B M token ids; see `Contrastive.forward`."""
        query = self.fusion(self.backbone.image(references), self.backbone.text(texts))
        return query, self.backbone.image(targets).pooled, self.logit_scale

    def query(self, references: Tensor, texts: Tensor) -> Tensor:
        """references: B 3 H W; texts: B M token ids; returns query features, B D, of length 1."""
        return self.fusion(self.backbone.image(references), self.backbone.text(texts))

    def groups(self, weight_decay: float, lr: float, fusion_lr: float) -> list[dict]:
        """AdamW groups: a fusion is new, and may learn at another rate than the pretrained encoders."""
        scale = [] if self.log_scale is None else [{"params": [self.log_scale], "weight_decay": 0.0, "lr": lr}]
        return [
            *decay_groups(self.backbone, weight_decay, lr),
            *decay_groups(self.fusion, weight_decay, fusion_lr),
            *scale,
        ]

    def save(self, folder: Path) -> None:
        """Writes the fusion's weights for `load`, and the encoders as an open_clip folder if they were trained."""
        super().save(folder)
        save_weights(self.fusion, Path(folder) / _FILE)

    def load(self, folder: Path) -> "Composed":
        """Takes the fusion's weights that `save` wrote; the encoders are those that this was made with.

        Raises:
            InputError: they are missing or belong to another architecture.
        """
        load_weights(self.fusion, Path(folder) / _FILE)
        return self.eval()


def weight_logit(text_weight: float) -> nn.Parameter:
    """The text's share of a sum, between 0 and 1, to be learned: the parameter whose sigmoid it is."""
    return nn.Parameter(torch.tensor(text_weight).logit())


class Head(nn.Module):
    """The query feature from a fusion's output f and the pooled features v, t (of length 1); all B D.

    The output is added to the weighted sum of v and t, and its projection P starts at zero, so that training starts
    from that sum and shows what fusion adds to it (our reading):

        q = norm( w t + (1 - w) v + P f )

    Args:
        text_weight: w at the start, between 0 and 1; learned from there.
    """

    def __init__(self, dim: int, text_weight: float):
        super().__init__()
        self.text_logit = weight_logit(text_weight)
        self.project = nn.Linear(dim, dim)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    @property
    def text_weight(self) -> float:
        """w, the text's share in the sum as learned so far."""
        return self.text_logit.sigmoid().item()

    def forward(self, fusion: Tensor, image_pooled: Tensor, text_pooled: Tensor) -> Tensor:
        """All B D; the result has length 1."""
        w = self.text_logit.sigmoid()
        residual = w * F.normalize(text_pooled, dim=-1) + (1 - w) * F.normalize(image_pooled, dim=-1)
        return F.normalize(residual + self.project(fusion), dim=-1)
