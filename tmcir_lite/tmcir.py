"""Stage 2: the backbone and the adaptive token fusion together, trained on the real target images."""

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from tmcir_lite.atf import ATF, Fused
from tmcir_lite.backbone import Backbone, load_backbone
from tmcir_lite.config import Atf
from tmcir_lite.files import atomic, read_json, write_json
from tmcir_lite.losses import Contrastive
from tmcir_lite.training import decay_groups, load_weights


class Tmcir(Contrastive):
    """Whose forward returns InfoNCE between fused query features and the target images' features (paper)."""

    def __init__(self, backbone: Backbone, fusion: ATF):
        super().__init__(backbone)
        self.fusion = fusion

    def query(self, references: Tensor, texts: Tensor) -> Tensor:
        """references: B 3 H W; texts: B M token ids; returns query features, B D, of length 1."""
        image, text = self.backbone.image(references), self.backbone.text(texts)
        return self.fusion(image.pooled, image.tokens, text.pooled, text.tokens, text.mask)

    def fuse(self, references: Tensor, texts: Tensor) -> Fused:
        """The fused token sequence of each query, and what merged with what."""
        text = self.backbone.text(texts)
        return self.fusion.fuse(self.backbone.image(references).tokens, text.tokens, text.mask)

    def pairs(self, references: Tensor, texts: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """references, targets: B 3 H W; texts: B M token ids; returns query and target features, B D each."""
        return self.query(references, texts), self.backbone.image(targets).pooled

    def groups(self, settings: Atf) -> list[dict]:
        """AdamW groups: the fusion is new and learns faster than the pretrained encoders."""
        return [
            *decay_groups(self.backbone, settings.weight_decay, settings.lr),
            *decay_groups(self.fusion, settings.weight_decay, settings.fusion_lr),
        ]

    def save(self, folder: Path) -> None:
        """Writes a folder that `load_tmcir` reads: an open_clip model and the fusion's weights and settings."""
        self.backbone.save(folder)
        with atomic(Path(folder) / "fusion.safetensors") as path:
            save_file({name: t.detach().contiguous() for name, t in self.fusion.state_dict().items()}, path)
        write_json(Path(folder) / "fusion.json", {"text_weight": self.fusion.text_weight})


def build_tmcir(backbone: Backbone, settings: Atf, text_weight: float) -> Tmcir:
    """A fusion for this backbone, starting at the weighted sum with the given weight of the text."""
    rows, columns = backbone.grid
    fusion = ATF(
        backbone.dim, rows * columns, backbone.context, threshold=settings.threshold,
        threshold_is=settings.threshold_is, pool=settings.pool, positions=settings.positions,
        residual=settings.residual, text_weight=text_weight,
    )  # fmt: skip
    return Tmcir(backbone, fusion)


def load_tmcir(folder: Path, settings: Atf, target_pad: float) -> Tmcir:
    """Loads what `Tmcir.save` wrote.

    Raises:
        InputError: files are missing or belong to another architecture.
    """
    backbone = load_backbone(f"local-dir:{folder}", target_pad=target_pad)
    read_json(Path(folder) / "fusion.json")
    model = build_tmcir(backbone, settings, text_weight=0.5)
    load_weights(model.fusion, Path(folder) / "fusion.safetensors")
    return model.eval()
