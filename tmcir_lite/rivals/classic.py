"""The fusions that composed retrieval began with: concatenation, TIRG and FiLM, on CLIP's features.

Written anew after the papers; the layers of TIRG and of concatenation are those of TIRG's public code (google/tirg).
Ours in all three: features first get a mean square of 1, as tokens do in ATF and in cross-attention, so that what a
module starts from, TIRG's w_g and w_r above all, means the same whatever the lengths of an encoder's features.

Where a `BatchNorm1d` stands, a query hangs on its batch while the fusion is trained, and in evaluation on the mean and
variance that training kept. So a batch cannot be trained in parts (`chunk`; `stages.train` refuses it), and of several
processes each takes the statistics of its own share.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tmcir_lite.method.encoders import ImageFeatures, TextFeatures


class Concatenation(nn.Module):
    """Both features side by side, through two layers (the baseline of Vo et al., CVPR 2019, arXiv 1812.07119).

        x = [v, t]      q = norm( W2 drop(relu(bn( W1 relu(bn(x)) ))) )

    v, t are the pooled features, W1 2D x 2D, W2 D x 2D, both with a bias; dropout is 0.1.
    """

    def __init__(self, dim: int):
        super().__init__()
        both = 2 * dim
        self.layers = nn.Sequential(
            nn.BatchNorm1d(both), nn.ReLU(), nn.Linear(both, both),
            nn.BatchNorm1d(both), nn.ReLU(), nn.Dropout(0.1), nn.Linear(both, dim),
        )  # fmt: skip

    def forward(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        return F.normalize(self.layers(torch.cat([_even(image.pooled), _even(text.pooled)], dim=-1)), dim=-1)


class TIRG(nn.Module):
    """Text image residual gating (Vo et al., CVPR 2019, arXiv 1812.07119): the image, gated, and what is changed of it.

        x = [v, t]      q = norm( w_g sigmoid(G relu(bn(x))) * v + w_r R2 relu(R1 relu(bn(x))) )

    v, t are the pooled features, G and R2 D x 2D, R1 2D x 2D, all with a bias, and each bn is one of its own. The
    scalars w_g, w_r are learned and start at 1 and 10, as in the public code: the residual is the larger part at first.
    """

    def __init__(self, dim: int):
        super().__init__()
        both = 2 * dim
        self.gate = nn.Sequential(nn.BatchNorm1d(both), nn.ReLU(), nn.Linear(both, dim))
        self.residual = nn.Sequential(
            nn.BatchNorm1d(both), nn.ReLU(), nn.Linear(both, both), nn.ReLU(), nn.Linear(both, dim)
        )
        self.gate_weight, self.residual_weight = (nn.Parameter(torch.tensor(start)) for start in (1.0, 10.0))

    def forward(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        v = _even(image.pooled)
        x = torch.cat([v, _even(text.pooled)], dim=-1)
        kept = self.gate_weight * self.gate(x).sigmoid() * v
        return F.normalize(kept + self.residual_weight * self.residual(x), dim=-1)


class FiLM(nn.Module):
    """Feature-wise linear modulation (Perez et al., AAAI 2018, arXiv 1709.07871): text scales and shifts the patches.

    One of the paper's residual blocks on the N patch tokens v_n, then their mean; t is the text's pooled feature.

        h_n = relu(W1 v_n)      u_n = h_n + relu( gamma * ln(W2 h_n) + beta )      q = norm( P mean_n u_n )
        gamma = 1 + A t         beta = B t

    Ours: W2 in place of a 3x3 convolution, ln (a token's norm, without weights) of batch norm, the mean and P of a
    classifier. All of W1, W2, P, A, B have a bias.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.enter, self.inner, self.project = (nn.Linear(dim, dim) for _ in range(3))
        self.modulation = nn.Linear(dim, 2 * dim)

    def forward(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        scale, beta = self.modulation(_even(text.pooled))[:, None].chunk(2, dim=-1)
        h = self.enter(_even(image.tokens)).relu()
        u = h + ((1 + scale) * F.layer_norm(self.inner(h), h.shape[-1:]) + beta).relu()
        return F.normalize(self.project(u.mean(dim=1)), dim=-1)


def _even(features: Tensor) -> Tensor:
    """Each with a mean square of 1."""
    return F.rms_norm(features, features.shape[-1:])
