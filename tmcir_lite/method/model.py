"""Composed queries: a backbone and a fusion of what it says of image and text, trained towards the real targets."""

from pathlib import Path

from torch import Tensor, nn

from tmcir_lite.method.atf import Fused
from tmcir_lite.method.checkpoint import save_weights
from tmcir_lite.method.encoders import Backbone
from tmcir_lite.method.frozen import Frozen
from tmcir_lite.method.losses import Contrastive
from tmcir_lite.method.training import decay_groups


class Composed(Contrastive):
    """Whose forward returns InfoNCE between fused query features and the target images' features (paper: stage 2).

    Args:
        fusion: (what is said of images, what of texts) -> query features B D: `ATF`, or a rival's (`rivals.py`).
        scale, learned: see `Contrastive`.
    """

    def __init__(
        self, backbone: Backbone | Frozen, fusion: nn.Module, scale: float | None = None, learned: bool = True
    ):  # fmt: skip
        super().__init__(backbone, scale=scale, learned=learned)
        self.fusion = fusion

    def query(self, references: Tensor, texts: Tensor) -> Tensor:
        """references: B 3 H W; texts: B M token ids; returns query features, B D, of length 1."""
        return self.fusion(self.backbone.image(references), self.backbone.text(texts))

    def fuse(self, references: Tensor, texts: Tensor) -> Fused:
        """The fused token sequence of each query, and what merged with what (`ATF` only)."""
        text = self.backbone.text(texts)
        return self.fusion.fuse(self.backbone.image(references).tokens, text.tokens, text.mask)

    def pairs(self, references: Tensor, texts: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """references, targets: B 3 H W; texts: B M token ids; returns query and target features, B D each."""
        return self.query(references, texts), self.backbone.image(targets).pooled

    def groups(self, weight_decay: float, lr: float, fusion_lr: float) -> list[dict]:
        """AdamW groups: a fusion is new and learns faster than the pretrained encoders."""
        scale = [] if self.log_scale is None else [{"params": [self.log_scale], "weight_decay": 0.0, "lr": lr}]
        return [
            *decay_groups(self.backbone, weight_decay, lr),
            *decay_groups(self.fusion, weight_decay, fusion_lr),
            *scale,
        ]

    def save(self, folder: Path) -> None:
        """Writes a folder that `load_composed` reads: the fusion's weights and, if trained, an open_clip model."""
        self.backbone.save(folder)
        save_weights(self.fusion, Path(folder) / FUSION_FILE)


FUSION_FILE = "fusion.safetensors"
