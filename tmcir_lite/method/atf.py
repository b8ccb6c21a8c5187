"""Adaptive token fusion (ATF): the tokens of a reference image and of a relative caption become one query feature.

The paper says: token-wise cosine similarity; pairs that pass a threshold are merged, weighted by similarity and aware
of position; the result is one joint representation. It does not publish the equations. The ones here are **our
reading**, each a pure function of a batch, and `ATF` is the module that puts them in a row:

    similarity -> match -> merge -> (one transformer block) -> pool

Shapes: B batch, N visual tokens, M text tokens, D shared dimension.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tmcir_lite.method.encoders import ImageFeatures, TextFeatures
from tmcir_lite.method.model import Head

TEMPERATURE = 1.0
"""Of the merge weights. A visual token is similar to itself by 1, to a word usually by much less: a temperature far
below 1 would let it drown the text tokens that merge into it."""

NO_MERGING = 2.0
"""A threshold that no cosine and no quantile reaches."""


class Match(NamedTuple):
    """What becomes of each text token: it is merged, or kept, or it is padding (neither)."""

    index: Tensor
    """B M, the best visual token of each text token."""
    score: Tensor
    """B M, its cosine with that visual token."""
    merged: Tensor
    """B M bool, True where the text token merges into that visual token."""
    text_mask: Tensor
    """B M bool, False at padding."""

    @property
    def kept(self) -> Tensor:
        """B M bool, True where it stays a token of its own."""
        return self.text_mask & ~self.merged


class Fused(NamedTuple):
    """The fused sequence, and the match that led to it."""

    tokens: Tensor
    """B (N+M) D: the N visual tokens, then the M text tokens."""
    mask: Tensor
    """B (N+M) bool, False in the slots of text tokens that were merged or are padding."""
    match: Match


def similarity(V: Tensor, T: Tensor) -> Tensor:
    """Cosine similarity of every visual with every text token (paper).

        S_ij = <v_i, t_j> / (|v_i| |t_j|)

    Args:
        V: B N D, visual tokens.
        T: B M D, text tokens.

    Returns:
        S: B N M.
    """
    S = F.normalize(V, dim=-1) @ F.normalize(T, dim=-1).transpose(1, 2)
    return S.clamp(-1, 1)  # rounding can pass 1 by a hair, and a threshold just above 1 must merge nothing


def match(S: Tensor, text_mask: Tensor, threshold: float, threshold_is: str) -> Match:
    """Pairs each text token with its best visual token; the pair merges if it passes the threshold (our reading).

        i*(j) = argmax_i S_ij        s_j = S_{i*(j) j}        j merges  <=>  s_j >= bar

    With `threshold_is="absolute"` the bar is the threshold itself: above 1 merges nothing, -1 merges every text token.
    With "quantile" it is that quantile of the sample's own s_j, padding left out: 0 merges every text token, 1 only
    the best, above 1 nothing. Taken per sample, so that the rest of a batch cannot change a query's feature.

    Args:
        S: B N M, cosines.
        text_mask: B M bool, False at padding.
    """
    s, index = S.max(dim=1)
    bar = threshold if threshold_is == "absolute" else _quantile(s, text_mask, threshold)
    return Match(index, s, (s >= bar) & text_mask, text_mask)


def _quantile(s: Tensor, text_mask: Tensor, q: float) -> Tensor | float:
    """B 1: the quantile of each row's valid entries; itself one of them, so that rounding cannot decide `s >= bar`."""
    if q > 1:
        return math.inf
    valid = s.detach().masked_fill(~text_mask, math.nan)
    return valid.nanquantile(q, dim=1, keepdim=True, interpolation="nearest")


def merge_weights(match: Match, num_visual: int) -> Tensor:
    """The share that a visual token and the text tokens matched to it have in the merged token (our reading).

    A softmax over the visual token itself, whose similarity with itself is 1, and the set J_i of its text tokens:

        w_i0 = exp(1 / temperature) / Z_i        w_ij = exp(s_j / temperature) / Z_i   for j in J_i, else 0
        Z_i  = exp(1 / temperature) + sum_{j in J_i} exp(s_j / temperature)

    So weights are non-negative and sum to 1, and a visual token without text tokens keeps all of itself.

    Returns:
        B N (1+M): column 0 is the visual token's own weight, the rest are the text tokens'.
    """
    belongs = F.one_hot(match.index, num_visual).bool() & match.merged.unsqueeze(-1)  # B M N
    text = (match.score / TEMPERATURE).unsqueeze(-1).masked_fill(~belongs, -math.inf).transpose(1, 2)  # B N M
    itself = torch.full_like(text[..., :1], 1 / TEMPERATURE)  # B N 1
    return torch.softmax(torch.cat([itself, text], dim=-1), dim=-1)


def merge(V: Tensor, T: Tensor, match: Match) -> Fused:
    """Merges matched text tokens into their visual tokens and keeps the others (our reading).

        f_i     = w_i0 v_i + sum_j w_ij t_j      i = 1..N, the merged tokens
        f_{N+j} = t_j                            j kept; where it merged, the slot does not count

    The number of valid tokens is N + M' - (merged ones), for M' text tokens that are no padding.

    Args:
        V: B N D, visual tokens with their position embeddings.
        T: B M D, text tokens, likewise. As f is linear, a merged token gets the same mixture of positions as of
            contents: it knows where it was in the image and in the sentence.
    """
    w = merge_weights(match, V.shape[1])
    merged = w[..., :1] * V + w[..., 1:] @ T
    visual = torch.ones(V.shape[:2], dtype=torch.bool, device=V.device)
    return Fused(torch.cat([merged, T], dim=1), torch.cat([visual, match.kept], dim=1), match)


def pack(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens that count come first, in order, in as many slots as the fullest row needs: what was merged costs nothing.

    Args:
        tokens: B L D.
        mask: B L bool, False where a token does not count.

    Returns:
        B L' D and B L', with L' <= L.
    """
    order = mask.byte().argsort(dim=1, descending=True, stable=True)[:, : int(mask.sum(dim=1).max())]
    return tokens.gather(1, order.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])), mask.gather(1, order)


def pool(tokens: Tensor, mask: Tensor, query: Tensor) -> Tensor:
    """Attention pooling with one learned query, D; where that is zero it is the mean (our reading).

        a = softmax_l( <query, f_l> / sqrt(D) )        f = sum_l a_l f_l        over the tokens that count

    Args:
        tokens: B L D.
        mask: B L bool, False where a token does not count.

    Returns:
        B D.
    """
    a = (tokens @ query / math.sqrt(tokens.shape[-1])).masked_fill(~mask, -math.inf).softmax(dim=-1)
    return (a.unsqueeze(1) @ tokens).squeeze(1)


class ATF(nn.Module):
    """Adaptive token fusion as a module: encoder outputs in, query features out.

    Args:
        dim: D.
        num_visual: N; the number of position embeddings.
        num_text: the largest M; likewise.
        threshold, threshold_is: see `match`; above 1 merges nothing: the control "same module, merging off".
        text_weight: see `Head`.
        heads: of the transformer block's attention; they divide `dim`.
    """

    Head = Head

    def __init__(
        self, dim: int, num_visual: int, num_text: int, *, threshold: float, threshold_is: str = "quantile",
        text_weight: float = 0.5, heads: int = 8,
    ):  # fmt: skip
        super().__init__()
        self.dim, self.threshold, self.threshold_is = dim, threshold, threshold_is
        self.visual_position, self.text_position = self._positions(num_visual), self._positions(num_text)
        self.block = nn.TransformerEncoderLayer(
            dim, heads, 2 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(dim)
        self.pool_query = nn.Parameter(torch.zeros(dim))  # starts as the mean
        self.head = self.Head(dim, text_weight)

    def _positions(self, count: int) -> nn.Parameter:
        return nn.Parameter(0.02 * torch.randn(count, self.dim))

    def place(self, V: Tensor, T: Tensor) -> tuple[Tensor, Tensor]:
        """Adds to each token, B N D and B M D, the embedding of its position."""
        return V + self.visual_position, T + self.text_position[: T.shape[1]]

    def fuse(self, image_tokens: Tensor, text_tokens: Tensor, text_mask: Tensor) -> Fused:
        """The fused sequence before the transformer block; takes B N D, B M D and B M (False or 0 at padding)."""
        with torch.autocast(image_tokens.device.type, enabled=False):  # bf16 is too coarse to compare cosines
            # Towers differ in the length of their tokens: bring all to one scale. Cosines stay as they are.
            V = F.rms_norm(image_tokens.float(), (self.dim,))
            T = F.rms_norm(text_tokens.float(), (self.dim,))
            matched = match(similarity(V, T), text_mask.bool(), self.threshold, self.threshold_is)
            return merge(*self.place(V, T), matched)

    def forward(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """Encoder outputs of the reference images and of the relative captions -> query features, B D, of length 1."""
        fused = self.fuse(image.tokens, text.tokens, text.mask)
        tokens, mask = pack(fused.tokens, fused.mask)
        f = self.norm(self.block(tokens, src_key_padding_mask=~mask))
        return self.head(pool(f, mask, self.pool_query), image.pooled, text.pooled)
