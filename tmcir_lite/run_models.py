"""The models of a run: the backbone that it starts from, and what its stages left."""

import functools
from collections.abc import Callable
from pathlib import Path

import torch

from tmcir_lite.atf import NO_MERGING
from tmcir_lite.backbone import Backbone, load_backbone
from tmcir_lite.composed import Composed, build_fusion, load_composed
from tmcir_lite.config import Atf, Config, pick_device
from tmcir_lite.frozen import Frozen
from tmcir_lite.pic2word import Pic2Word, load_pic2word
from tmcir_lite.rivals import Combiner, PooledSum


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


def fusion_settings(cfg: Config, name: str) -> Atf:
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
