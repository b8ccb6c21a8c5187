"""The fusions that ATF is compared with.

All take what the encoders say of B images and of B texts, and return the query features, B D, of length 1.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tmcir_lite.atf import Head, weight_logit
from tmcir_lite.baselines import sum_query
from tmcir_lite.encoded import ImageFeatures, TextFeatures

CLIP4CIR_SCALE = 100.0
"""1 / tau of both of CLIP4Cir's stages, as published."""


class PooledSum(nn.Module):
    """CLIP4Cir's first stage (Baldrati et al. 2022): q = norm(image + text). What it trains are the encoders.

    The features are added as they come from the encoders, whatever their lengths.
    """

    def forward(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        return F.normalize(image.pooled + text.pooled, dim=-1)


class LearnedSum(nn.Module):
    """What is left of ATF without its fusion: q = norm( w norm(text) + (1 - w) norm(image) ), w learned.

    Args:
        text_weight: w at the start, between 0 and 1.

    Raises:
        InputError: a weight outside.
    """

    def __init__(self, text_weight: float):
        super().__init__()
        self.text_logit = weight_logit(text_weight)

    def forward(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        return sum_query(image.pooled, text.pooled, self.text_logit.sigmoid())


class Combiner(nn.Module):
    """CLIP4Cir's second stage, on features of encoders that stay as they are.

        x = [ relu(P_t t), relu(P_v v) ]        each of them with dropout, v and t the pooled features
        q = norm( W2 relu(W1 x) + l t + (1 - l) v )      l = sigmoid( w2 relu(L1 x) ), after dropout too

    Args:
        dim: D. The projections have 4 D numbers and the hidden layers 8 D, as in the original (640, 2560, 5120).
    """

    def __init__(self, dim: int):
        super().__init__()
        self.text_projection, self.image_projection = _layer(dim, 4 * dim), _layer(dim, 4 * dim)
        self.combination = nn.Sequential(_layer(8 * dim, 8 * dim), nn.Linear(8 * dim, dim))
        self.text_share = nn.Sequential(_layer(8 * dim, 8 * dim), nn.Linear(8 * dim, 1), nn.Sigmoid())

    def forward(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        x = torch.cat([self.text_projection(text.pooled), self.image_projection(image.pooled)], dim=-1)
        share = self.text_share(x)
        return F.normalize(self.combination(x) + share * text.pooled + (1 - share) * image.pooled, dim=-1)


def _layer(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(0.5))


class CrossAttention(nn.Module):
    """Words look at patches, and their mean is the fusion: what ATF is without similarity, threshold and merging.

    One transformer block (words attend to words, then to patches) with about as many weights as ATF, then ATF's `Head`.
    """

    def __init__(self, dim: int, residual: bool, text_weight: float, heads: int = 8):
        super().__init__()
        self.block = nn.TransformerDecoderLayer(
            dim, heads, dim // 2, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(dim)
        self.head = Head(dim, residual, text_weight)

    def forward(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        width = image.tokens.shape[-1:]
        V, T = F.rms_norm(image.tokens, width), F.rms_norm(text.tokens, width)  # one scale for both towers, as in ATF
        mask = text.mask.bool()
        f = self.norm(self.block(T, V, tgt_key_padding_mask=~mask)) * mask[..., None]
        return self.head(f.sum(1) / mask.sum(1, keepdim=True), image.pooled, text.pooled)
