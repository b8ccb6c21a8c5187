"""A fusion of the same size without similarity, threshold and merging."""

from torch import Tensor, nn
from torch.nn import functional as F

from tmcir_lite.method.encoders import ImageFeatures, TextFeatures
from tmcir_lite.method.model import Head


class CrossAttention(nn.Module):
    """Words look at patches, and their mean is the fusion: what ATF is without similarity, threshold and merging.

    One transformer block (words attend to words, then to patches) with about as many weights as ATF, then ATF's `Head`.
    """

    Head = Head

    def __init__(self, dim: int, text_weight: float, heads: int = 8):
        super().__init__()
        self.block = nn.TransformerDecoderLayer(
            dim, heads, dim // 2, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(dim)
        self.head = self.Head(dim, text_weight)

    def forward(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        width = image.tokens.shape[-1:]
        V, T = F.rms_norm(image.tokens, width), F.rms_norm(text.tokens, width)  # one scale for both towers, as in ATF
        mask = text.mask.bool()
        f = self.norm(self.block(T, V, tgt_key_padding_mask=~mask)) * mask[..., None]
        return self.head(f.sum(1) / mask.sum(1, keepdim=True), image.pooled, text.pooled)
