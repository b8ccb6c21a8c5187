"""The models of a run: the backbone that it starts from, and what its stages left."""

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from tmcir_lite.config import AtfSettings, Config
from tmcir_lite.io.processes import pick_device
from tmcir_lite.method.atf import ATF, NO_MERGING
from tmcir_lite.method.checkpoint import load_weights
from tmcir_lite.method.encoders import Backbone
from tmcir_lite.method.frozen import Frozen
from tmcir_lite.method.model import FUSION_FILE, Composed
from tmcir_lite.rivals.clip4cir import Combiner, PooledSum
from tmcir_lite.rivals.cross_attention import CrossAttention
from tmcir_lite.rivals.pic2word import MAPPING_FILE, Pic2Word
from tmcir_lite.rivals.sums import LearnedSum
from tmcir_lite.run.backbones import load_backbone


def load_start(cfg: Config) -> Backbone:
    """The pretrained backbone that the run starts from, on the run's device."""
    return _ready(cfg, load_backbone(cfg.backbone.name, cfg.backbone.pretrained, cfg.backbone.target_pad))


def load_aligned(cfg: Config, last: bool | None = None) -> Backbone:
    """The backbone after IACMA: of the epoch chosen on held-out train or the last one; None: as `iacma.keep` says."""
    last = cfg.iacma.keep == "last" if last is None else last
    return _ready(cfg, load_backbone(_aligned(cfg, last), target_pad=cfg.backbone.target_pad))


def load_frozen(cfg: Config, aligned: bool = False) -> Frozen:
    """The backbone that the run starts from, or the one after IACMA that `iacma.keep` says, not to be trained.

    The latest ones are remembered, with the features of all pictures that they have seen: of the aligned one the tokens
    too, which a fusion may take; the one of the start serves methods of pooled features.
    """
    name = _aligned(cfg, cfg.iacma.keep == "last") if aligned else cfg.backbone.name
    pretrained = None if aligned else cfg.backbone.pretrained
    return _frozen(name, pretrained, cfg.backbone.target_pad, pick_device(cfg.device), aligned)


@functools.lru_cache(maxsize=2)
def _frozen(name: str, pretrained: str | None, target_pad: float, device: torch.device, tokens: bool) -> Frozen:
    return Frozen(load_backbone(name, pretrained, target_pad).to(device), tokens)


def _aligned(cfg: Config, last: bool) -> str:
    return _local(cfg.run_dir / "iacma" / ("model_last" if last else "model"))


def _local(folder: Path) -> str:
    return f"local-dir:{folder.resolve()}"


def _ready(cfg: Config, backbone: Backbone) -> Backbone:
    backbone.limit_training(cfg.backbone)
    return backbone.to(pick_device(cfg.device)).eval()


def load_trained(cfg: Config, backbone: Frozen | None = None) -> Composed:
    """TMCIR after both stages: the epoch chosen on held-out train.

    Args:
        backbone: to be taken where the encoders were not trained with the fusion; None: loaded again.
    """
    return _load_fusion(cfg, "atf", backbone)


def load_control(cfg: Config) -> Composed:
    """The control, merging off: its chosen epoch."""
    return _load_fusion(cfg, "control")


def load_sum(cfg: Config) -> Composed:
    """The control without a fusion: its chosen epoch."""
    return _load_fusion(cfg, "sum")


def _load_fusion(cfg: Config, name: str, backbone: Frozen | None = None) -> Composed:
    settings = fusion_settings(cfg, name)
    untrained = settings.encoders == "none"
    backbone = (backbone or load_aligned(cfg)) if untrained else None  # None: the folder has those that were trained
    return _load(cfg, name, lambda encoders: build_fusion(encoders, settings), backbone)


def fusion_settings(cfg: Config, name: str) -> AtfSettings:
    """The settings of stage 2, or of the control in the folder `name`, which differs from it in one thing."""
    changes = {"atf": {}, "control": {"threshold": NO_MERGING}, "sum": {"fusion": "sum"}}
    return cfg.atf.model_copy(update=changes[name])


def load_clip4cir(cfg: Config) -> tuple[Composed, Composed]:
    """CLIP4Cir after its stage 1, and with its Combiner: the chosen epochs. Their encoders are the same."""
    return (
        _load(cfg, "clip4cir", _sum, combined_backbone(cfg)),
        _load(cfg, "combiner", lambda backbone: Combiner(backbone.dim), combined_backbone(cfg)),
    )


def combined_backbone(cfg: Config) -> Frozen:
    """The encoders of CLIP4Cir's stage 1 (its chosen epoch), on which its Combiner is trained."""
    return _frozen(
        _local(cfg.run_dir / "clip4cir" / "model"), None, cfg.backbone.target_pad, pick_device(cfg.device), False
    )


def _sum(backbone: Backbone) -> PooledSum:
    return PooledSum()


def load_trained_pic2word(cfg: Config) -> Pic2Word:
    """Pic2Word on the backbone that the run started from: its chosen epoch."""
    return load_pic2word(cfg.run_dir / "pic2word" / "model", load_frozen(cfg)).to(pick_device(cfg.device)).eval()


def _load(cfg: Config, name: str, fusion: Callable[[Backbone], torch.nn.Module], backbone) -> Composed:
    folder = cfg.run_dir / name / "model"
    return load_composed(folder, fusion, cfg.backbone.target_pad, backbone).to(pick_device(cfg.device)).eval()


def build_fusion(
    backbone: Backbone, settings: AtfSettings, text_weight: float = 0.5
) -> ATF | CrossAttention | LearnedSum:
    """The fusion that a profile asks for, starting at the weighted sum with the given weight of the text."""
    if settings.fusion == "cross-attention":
        return CrossAttention(backbone.dim, settings.residual, text_weight)
    if settings.fusion == "sum":
        return LearnedSum(text_weight)
    rows, columns = backbone.grid
    return ATF(
        backbone.dim, rows * columns, backbone.context, threshold=settings.threshold,
        threshold_is=settings.threshold_is, pool=settings.pool, positions=settings.positions,
        residual=settings.residual, text_weight=text_weight,
    )  # fmt: skip


def load_composed(
    folder: Path, build: Callable[[Backbone], nn.Module], target_pad: float, backbone: Backbone | Frozen | None = None
) -> Composed:
    """Loads what `Composed.save` wrote.

    Args:
        build: a backbone -> the fusion that takes the weights.
        backbone: the one that was not trained with the fusion; None: the folder holds one that was.

    Raises:
        InputError: files are missing or belong to another architecture.
    """
    backbone = backbone or load_backbone(f"local-dir:{folder}", target_pad=target_pad)
    model = Composed(backbone, build(backbone))
    load_weights(model.fusion, Path(folder) / FUSION_FILE)
    return model.eval()


def load_pic2word(folder: Path, backbone: Backbone) -> Pic2Word:
    """Loads what `Pic2Word.save` wrote."""
    model = Pic2Word(backbone)
    load_weights(model.mapping, Path(folder) / MAPPING_FILE)
    return model.eval()
