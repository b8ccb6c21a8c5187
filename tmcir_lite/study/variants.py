"""What the study varies and no profile does: fusions with a part left out or made otherwise, and a loss of words."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tmcir_lite.config import Config
from tmcir_lite.method.atf import ATF
from tmcir_lite.method.encoders import ImageFeatures, TextFeatures
from tmcir_lite.method.iacma import Iacma
from tmcir_lite.method.losses import InfoNCE
from tmcir_lite.method.model import Head
from tmcir_lite.rivals.classic import TIRG, Concatenation, FiLM
from tmcir_lite.rivals.cross_attention import CrossAttention
from tmcir_lite.run.choices import start_weight
from tmcir_lite.run.models import Fusion, of_width, plain_sum, token_fusion


class PooledByMean(ATF):
    """ATF whose pooling is the mean and stays so."""

    def __init__(self, *sizes: int, **options):
        super().__init__(*sizes, **options)
        self.pool_query.requires_grad_(False)


class WithoutPositions(ATF):
    """ATF whose tokens carry no positions: their order changes nothing."""

    def _positions(self, count: int) -> None:
        return None

    def place(self, V: Tensor, T: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens as they are."""
        return V, T


class BareHead(nn.Module):
    """The query feature from a fusion's output alone: q = norm( P f )."""

    def __init__(self, dim: int, text_weight: float):
        super().__init__()
        self.project = nn.Linear(dim, dim)

    def forward(self, fusion: Tensor, image_pooled: Tensor, text_pooled: Tensor) -> Tensor:
        """All B D; the pooled features do not count."""
        return F.normalize(self.project(fusion), dim=-1)


class WithoutResidual(ATF):
    """ATF that starts from nothing instead of from the weighted sum."""

    Head = BareHead


class GatedHead(Head):
    """`Head` with a gate: each dimension of the image is let through or held back, as in TIRG (arXiv 1812.07119).

        x = [f, v, t], each with a mean square of 1        g = 2 sigmoid(G x)
        q = norm( w t + (1 - w) g * v + P relu(W x) )

    G and P start at zero, so that training starts from the weighted sum of v and t, as with `Head`.
    """

    def __init__(self, dim: int, text_weight: float):
        super().__init__(dim, text_weight)
        self.gate, self.inner = nn.Linear(3 * dim, dim), nn.Linear(3 * dim, 2 * dim)
        self.project = nn.Linear(2 * dim, dim)
        for layer in (self.gate, self.project):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, fusion: Tensor, image_pooled: Tensor, text_pooled: Tensor) -> Tensor:
        """All B D; the result has length 1."""
        v, t = F.normalize(image_pooled, dim=-1), F.normalize(text_pooled, dim=-1)
        x = torch.cat([F.rms_norm(feature, feature.shape[-1:]) for feature in (fusion, v, t)], dim=-1)
        w, gate = self.text_logit.sigmoid(), 2 * self.gate(x).sigmoid()
        return F.normalize(w * t + (1 - w) * gate * v + self.project(self.inner(x).relu()), dim=-1)


class Gated(ATF):
    """ATF whose head has a gate."""

    Head = GatedHead


class GatedSum(nn.Module):
    """`GatedHead` alone, on the pooled features: what it gives without any fusion of tokens."""

    def __init__(self, dim: int, text_weight: float):
        super().__init__()
        self.head = GatedHead(dim, text_weight)

    def forward(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """See `ATF`."""
        return self.head(torch.zeros_like(image.pooled), image.pooled, text.pooled)


class GatedCrossAttention(CrossAttention):
    """Cross-attention whose head has a gate."""

    Head = GatedHead


def _from_sum(cfg: Config, module: Callable[[int, float], nn.Module]) -> Fusion:
    """A fusion that has to know D, and the text's weight in the sum that it starts from."""
    return lambda backbone: module(backbone.dim, start_weight(cfg))


FUSIONS: dict[str, Callable[[Config], Fusion]] = {
    "ATF": token_fusion,
    "sum": plain_sum,
    "cross-attention": partial(_from_sum, module=CrossAttention),
    "concatenation": lambda cfg: of_width(Concatenation),
    "TIRG": lambda cfg: of_width(TIRG),
    "FiLM": lambda cfg: of_width(FiLM),
    "without positions": partial(token_fusion, module=WithoutPositions),
    "pooled by mean": partial(token_fusion, module=PooledByMean),
    "without residual": partial(token_fusion, module=WithoutResidual),
    "gated": partial(token_fusion, module=Gated),
    "gated cross-attention": partial(_from_sum, module=GatedCrossAttention),
    "gated sum": partial(_from_sum, module=GatedSum),
}
"""What `plan.yaml` calls a cell's fusion -> the fusion, as the run's other settings have it."""


def late_interaction(V: Tensor, T: Tensor, text_mask: Tensor) -> Tensor:
    """How well the words of each text find their patches in each image (FILIP, arXiv 2111.07783).

        s_ik = mean over the words j of text k of  max_n cos(v_in, t_kj)

    Args:
        V: B N D, visual tokens.
        T: K M D, text tokens.
        text_mask: K M bool, False where a token does not count.

    Returns:
        B K; 0 for a text without a token that counts.
    """
    S = torch.einsum("bnd,kmd->bnkm", F.normalize(V, dim=-1), F.normalize(T, dim=-1))
    best = S.amax(dim=1) * text_mask
    return best.sum(dim=-1) / text_mask.sum(dim=-1).clamp(min=1)


class _WordLoss(nn.Module):
    def __init__(self, symmetric: bool, weight: float):
        super().__init__()
        self.pairs, self.weight = InfoNCE(symmetric), weight

    def forward(self, image: Tensor, text: Tensor, scale: Tensor, word_logits: Tensor) -> Tensor:
        matching = torch.arange(len(word_logits), device=word_logits.device)
        return self.pairs(image, text, scale) + self.weight * F.cross_entropy(word_logits, matching)


class WordsToo(Iacma):
    """IACMA with a second InfoNCE, in which a text is as near to an image as its words are to their best patches.

    So token similarities mean something before ATF thresholds them. The paper speaks of aligned tokens and gives no
    such loss: our addition. It needs the whole batch at once (no `iacma.chunk`).

    Args:
        weight: of the second loss.
    """

    def __init__(self, backbone: nn.Module, symmetric: bool = False, weight: float = 1.0):
        super().__init__(backbone, symmetric)
        self.loss = _WordLoss(symmetric, weight)

    def forward(self, pseudo_targets: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `Iacma.forward`, and B B: 1 / tau times the late interaction of every image with every text."""
        image, text = self.backbone.image(pseudo_targets), self.backbone.text(texts)
        words = text.mask & text.mask.roll(-1, dims=1)  # without the end token, which stands for the whole text
        with torch.autocast(words.device.type, enabled=False):
            logits = self.logit_scale * late_interaction(image.tokens.float(), text.tokens.float(), words)
        return image.pooled, text.pooled, self.logit_scale, logits
