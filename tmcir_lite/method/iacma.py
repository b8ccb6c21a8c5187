"""Stage 1, IACMA: intent-aware cross-modal alignment of CLIP's encoders with pseudo-target images."""

from torch import Tensor

from tmcir_lite.method.losses import Contrastive


class Iacma(Contrastive):
    """Both encoders; InfoNCE between pseudo-target images v and texts t (paper).

        L = -1/B sum_i log( exp(cos(v_i, t_i) / tau) / sum_j exp(cos(v_i, t_j) / tau) )      tau learned

    The text is the relative caption. That the paper pairs the pseudo-target with the caption, and not with a
    description of the whole picture, is our reading. Two queries of a batch may ask for the same change; they are then
    each other's false negatives.
    """

    def forward(self, pseudo_targets: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """pseudo_targets: B 3 H W; texts: B M token ids; see `Contrastive.forward`."""
        return self.backbone.image(pseudo_targets).pooled, self.backbone.text(texts).pooled, self.logit_scale
