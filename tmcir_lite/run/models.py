"""The models of a run: the encoders that it starts from, and what its stages left."""

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from tmcir_lite.config import AtfSettings, Clip4CirSettings, Config
from tmcir_lite.io.processes import pick_device
from tmcir_lite.method.atf import ATF, NO_MERGING
from tmcir_lite.method.cached import CachedEncoder
from tmcir_lite.method.encoders import Backbone
from tmcir_lite.method.model import Composed
from tmcir_lite.rivals.clip4cir import Combiner, PooledSum
from tmcir_lite.rivals.pic2word import Pic2Word
from tmcir_lite.rivals.sums import LearnedSum
from tmcir_lite.run.backbones import load_backbone
from tmcir_lite.run.choices import start_weight

Fusion = Callable[[Backbone | CachedEncoder], nn.Module]
"""Encoders -> the module that takes their outputs (`ImageFeatures`, `TextFeatures`) and returns query features, B D. A
class whose constructor takes the encoders is one."""


def token_fusion(cfg: Config, threshold: float | None = None, module: type[ATF] = ATF) -> Fusion:
    """ATF as the profile has it, or with another threshold, starting at the weighted sum that is best after IACMA."""
    settings = cfg.atf

    def build(backbone: Backbone | CachedEncoder) -> ATF:
        rows, columns = backbone.grid
        return module(
            backbone.dim, rows * columns, backbone.context, threshold_is=settings.threshold_is,
            threshold=settings.threshold if threshold is None else threshold, text_weight=start_weight(cfg),
        )  # fmt: skip

    return build


def without_merging(cfg: Config) -> Fusion:
    """The control of merging: the same module with a threshold that nothing reaches."""
    return token_fusion(cfg, NO_MERGING)


def plain_sum(cfg: Config) -> Fusion:
    """The control of fusing tokens at all: the weighted sum that ATF starts from, its weight learned."""
    return lambda backbone: LearnedSum(start_weight(cfg))


def pooled_sum(backbone: Backbone | CachedEncoder) -> PooledSum:
    """CLIP4Cir's stage 1."""
    return PooledSum()


def of_width(module: Callable[[int], nn.Module]) -> Fusion:
    """A fusion that has to know of the encoders no more than D."""
    return lambda backbone: module(backbone.dim)


combiner = of_width(Combiner)
"""CLIP4Cir's stage 2."""


def load_start(cfg: Config) -> Backbone:
    """The pretrained encoders that the run starts from, on the run's device."""
    return _ready(cfg, load_backbone(cfg.backbone.name, cfg.backbone.pretrained, cfg.backbone.target_pad))


def load_aligned(cfg: Config, last: bool | None = None) -> Backbone:
    """The encoders after IACMA: of the epoch chosen on held-out train or the last one; None: as `iacma.keep` says."""
    return _ready(cfg, load_backbone(_aligned(cfg, last), target_pad=cfg.backbone.target_pad))


def load_cached(cfg: Config, aligned: bool = False) -> CachedEncoder:
    """The encoders that the run starts from, or those after IACMA that `iacma.keep` says, not to be trained.

    The latest three are remembered, with the features of all pictures that they have seen: of the aligned ones the
    tokens too, which a fusion may take; those of the start serve methods of pooled features.
    """
    name = _aligned(cfg) if aligned else cfg.backbone.name
    return _cached(cfg, name, None if aligned else cfg.backbone.pretrained, tokens=aligned)


def load_stage1(cfg: Config) -> CachedEncoder:
    """The encoders of CLIP4Cir's stage 1 (its chosen epoch), on whose pooled features its Combiner is trained."""
    stage1 = _cached(cfg, _local(cfg.run_dir / "clip4cir" / "model"), None, tokens=False)
    return load_cached(cfg).beside(stage1.inner) if images_stay(cfg.clip4cir) else stage1


def _cached(cfg: Config, name: str, pretrained: str | None, tokens: bool) -> CachedEncoder:
    return _remembered(name, pretrained, cfg.backbone.target_pad, pick_device(cfg.device), tokens)


@functools.lru_cache(maxsize=3)
def _remembered(
    name: str, pretrained: str | None, target_pad: float, device: torch.device, tokens: bool
) -> CachedEncoder:  # fmt: skip
    return CachedEncoder(load_backbone(name, pretrained, target_pad).to(device), tokens)


def _aligned(cfg: Config, last: bool | None = None) -> str:
    last = cfg.iacma.keep == "last" if last is None else last
    return _local(cfg.run_dir / "iacma" / ("model_last" if last else "model"))


def _local(folder: Path) -> str:
    return f"local-dir:{folder.resolve()}"


def _ready(cfg: Config, backbone: Backbone) -> Backbone:
    limits = cfg.backbone
    backbone.limit(limits.unlocked_image_groups, limits.unlocked_text_layers, limits.gradient_checkpointing)
    return backbone.to(pick_device(cfg.device)).eval()


def load_fusion(
    cfg: Config, name: str, fusion: Fusion, backbone: Backbone | CachedEncoder | None = None
) -> Composed:  # fmt: skip
    """What `stages.train_fusion` left in the folder `name`: its chosen epoch.

    Args:
        fusion: the one that was trained.
        backbone: the encoders that it was trained on and that stayed as they were; None: those that were trained with
            it or, where `atf.encoders` says none, the aligned ones.
    """
    folder, device = cfg.run_dir / name / "model", pick_device(cfg.device)
    if backbone is None and cfg.atf.encoders == "none":
        backbone = load_aligned(cfg)
    backbone = backbone or load_backbone(_local(folder), target_pad=cfg.backbone.target_pad)
    return Composed(backbone, fusion(backbone)).load(folder).to(device)


def images_stay(settings: AtfSettings | Clip4CirSettings) -> bool:
    """Whether a training leaves the image encoder as it was, so that pictures need to be encoded only once."""
    return settings.encoders in ("none", "text")


def with_cached_images(cfg: Config, model: Composed) -> Composed:
    """The same model, which encodes a picture once for all fusions whose image encoder is that after IACMA."""
    if images_stay(cfg.atf):
        model.backbone = load_cached(cfg, aligned=True).beside(model.backbone)
    return model


def load_trained(cfg: Config) -> Composed:
    """TMCIR after both stages: the epoch chosen on held-out train."""
    return load_fusion(cfg, "atf", token_fusion(cfg))


def load_clip4cir(cfg: Config) -> tuple[Composed, Composed]:
    """CLIP4Cir after its stage 1, and with its Combiner: the chosen epochs. Their encoders are the same."""
    encoders = load_stage1(cfg)
    return load_fusion(cfg, "clip4cir", pooled_sum, encoders), load_fusion(cfg, "combiner", combiner, encoders)


def load_pic2word(cfg: Config) -> Pic2Word:
    """Pic2Word on the encoders that the run started from: its chosen epoch."""
    return Pic2Word(load_cached(cfg)).load(cfg.run_dir / "pic2word" / "model").to(pick_device(cfg.device))
