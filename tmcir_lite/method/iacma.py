"""Stage 1, IACMA: intent-aware cross-modal alignment of CLIP's encoders with pseudo-target images."""

import torch
from torch import Tensor
from torch.nn import functional as F

from tmcir_lite.method.encoders import Backbone
from tmcir_lite.method.losses import Contrastive, late_interaction


class Iacma(Contrastive):
    """Both encoders, whose forward returns InfoNCE between pseudo-target images v and texts t (paper).

        L = -1/B sum_i log( exp(cos(v_i, t_i) / tau) / sum_j exp(cos(v_i, t_j) / tau) )      tau learned

    The text is the relative caption. That the paper pairs the pseudo-target with the caption, and not with a
    description of the whole picture, is our reading. Two queries of a batch may ask for the same change; they are then
    each other's false negatives.

    Args:
        token_weight: of a second InfoNCE, in which a text is as near to an image as its words are to their best patches
            (`losses.late_interaction`), so that token similarities mean something before ATF thresholds them. The paper
            speaks of aligned tokens and gives no such loss: our addition. 0 leaves it out.
    """

    def __init__(self, backbone: Backbone, symmetric: bool = False, token_weight: float = 0.0):
        super().__init__(backbone, symmetric)
        self.token_weight = token_weight

    def pairs(self, pseudo_targets: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """pseudo_targets: B 3 H W; texts: B M token ids; returns image and text features, B D each."""
        return self.backbone.image(pseudo_targets).pooled, self.backbone.text(texts).pooled

    def forward(self, cached=None, **batch: Tensor) -> Tensor:
        """As `Contrastive.forward`; with `token_weight` both losses are of one and the same pass."""
        if not self.token_weight:
            return super().forward(cached, **batch)
        image, text = self.backbone.image(batch["pseudo_targets"]), self.backbone.text(batch["texts"])
        loss = self.loss(image.pooled, text.pooled, self.logit_scale)
        words = text.mask & text.mask.roll(-1, dims=1)  # without the end token, which stands for the whole text
        with torch.autocast(words.device.type, enabled=False):
            logits = self.logit_scale * late_interaction(image.tokens.float(), text.tokens.float(), words)
            matching = torch.arange(len(logits), device=logits.device)
            return loss + self.token_weight * F.cross_entropy(logits, matching)
