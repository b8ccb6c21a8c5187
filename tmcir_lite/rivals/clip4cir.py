"""CLIP4Cir (Baldrati et al. 2022): a sum of features in its first stage, a Combiner in its second."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tmcir_lite.method.encoders import ImageFeatures, TextFeatures

CLIP4CIR_SCALE = 100.0
"""1 / tau of both of CLIP4Cir's stages, as published."""


class PooledSum(nn.Module):
    """CLIP4Cir's first stage (Baldrati et al. 2022): q = norm(image + text). What it trains are the encoders.

    The features are added as they come from the encoders, whatever their lengths.
    """

    def forward(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        return F.normalize(image.pooled + text.pooled, dim=-1)


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
