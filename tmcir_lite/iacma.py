"""Stage 1, IACMA: intent-aware cross-modal alignment of CLIP's encoders with pseudo-target images."""

from torch import Tensor, nn

from tmcir_lite.backbone import Backbone
from tmcir_lite.losses import InfoNCE


class Iacma(nn.Module):
    """Both encoders, whose forward returns InfoNCE between pseudo-target images v and texts t (paper).

        L = -1/B sum_i log( exp(cos(v_i, t_i) / tau) / sum_j exp(cos(v_i, t_j) / tau) )      tau learned

    The text is the relative caption. That the paper pairs the pseudo-target with the caption, and not with a
    description of the whole picture, is our reading. Two queries of a batch may ask for the same change; they are then
    each other's false negatives.
    """

    def __init__(self, backbone: Backbone, symmetric: bool):
        super().__init__()
        self.backbone = backbone
        self._loss = InfoNCE(symmetric)

    def forward(self, pseudo_targets: Tensor, texts: Tensor) -> Tensor:
        """pseudo_targets: B 3 H W; texts: B M token ids; returns the loss."""
        v = self.backbone.image(pseudo_targets).pooled
        t = self.backbone.text(texts).pooled
        return self._loss(v, t, self.backbone.logit_scale)
