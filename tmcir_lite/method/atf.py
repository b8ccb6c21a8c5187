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

from tmcir_lite.io.files import InputError
from tmcir_lite.method.encoders import ImageFeatures, TextFeatures

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

    Raises:
        InputError: another `threshold_is`, or a negative quantile.
    """
    _check_threshold(threshold, threshold_is)
    s, index = S.max(dim=1)
    bar = threshold if threshold_is == "absolute" else _quantile(s, text_mask, threshold)
    return Match(index, s, (s >= bar) & text_mask, text_mask)


def _quantile(s: Tensor, text_mask: Tensor, q: float) -> Tensor | float:
    """B 1: the quantile of each row's valid entries; itself one of them, so that rounding cannot decide `s >= bar`."""
    if q > 1:
        return math.inf
    valid = s.detach().masked_fill(~text_mask, math.nan)
    return valid.nanquantile(q, dim=1, keepdim=True, interpolation="nearest")


def _check_threshold(threshold: float, threshold_is: str) -> None:
    if threshold_is not in ("quantile", "absolute"):
        raise InputError(f"atf.threshold_is: {threshold_is!r} is unknown; write quantile or absolute")
    if threshold_is == "quantile" and threshold < 0:
        raise InputError(f"atf.threshold: {threshold} is no quantile; write 0 to 1, or more than 1 to merge nothing")


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
        V: B N D, visual tokens, with their position embeddings added if there are any.
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


def pool(tokens: Tensor, mask: Tensor, query: Tensor | None = None) -> Tensor:
    """Attention pooling with one learned query; without a query, the mean (our reading).

        a = softmax_l( <query, f_l> / sqrt(D) )        f = sum_l a_l f_l        over the tokens that count

    Args:
        tokens: B L D.
        mask: B L bool, False where a token does not count.
        query: D.

    Returns:
        B D.
    """
    query = tokens.new_zeros(tokens.shape[-1]) if query is None else query  # zero: all weights equal, the mean
    a = (tokens @ query / math.sqrt(tokens.shape[-1])).masked_fill(~mask, -math.inf).softmax(dim=-1)
    return (a.unsqueeze(1) @ tokens).squeeze(1)


def weight_logit(text_weight: float) -> nn.Parameter:
    """The text's share of a sum, to be learned: the parameter whose sigmoid it is.

    Raises:
        InputError: the share is not between 0 and 1.
    """
    if not 0 < text_weight < 1:
        raise InputError(f"text_weight: {text_weight} must lie between 0 and 1, both excluded")
    return nn.Parameter(torch.tensor(text_weight).logit())


class Head(nn.Module):
    """The query feature from a fusion's output and the pooled features v, t (of length 1).

    With `residual` the output is added to the weighted sum of v and t, and its projection P starts at zero, so that
    training starts from that sum and shows what fusion adds to it (our reading):

        q = norm( w t + (1 - w) v + P fusion )         without residual:  q = norm( P fusion )

    Args:
        text_weight: w at the start, between 0 and 1; learned from there.

    Raises:
        InputError: a weight outside.
    """

    def __init__(self, dim: int, residual: bool, text_weight: float):
        super().__init__()
        text_logit = weight_logit(text_weight)
        self.project = nn.Linear(dim, dim)
        self.text_logit = text_logit if residual else None
        if residual:
            nn.init.zeros_(self.project.weight)
            nn.init.zeros_(self.project.bias)

    @property
    def text_weight(self) -> float | None:
        """w, the text's share in the residual sum as learned so far; None without residual."""
        return None if self.text_logit is None else self.text_logit.sigmoid().item()

    def forward(self, fusion: Tensor, image_pooled: Tensor, text_pooled: Tensor) -> Tensor:
        """All B D; the result has length 1."""
        q = self.project(fusion)
        if self.text_logit is not None:
            w = self.text_logit.sigmoid()
            q = w * F.normalize(text_pooled, dim=-1) + (1 - w) * F.normalize(image_pooled, dim=-1) + q
        return F.normalize(q, dim=-1)


class ATF(nn.Module):
    """Adaptive token fusion as a module: the two encoders' output in, the query feature out.

    Args:
        dim: D.
        num_visual: N; the number of position embeddings.
        num_text: the largest M; likewise.
        threshold: see `match`; above 1 merges nothing, which is the control "same module, merging off".
        threshold_is: "quantile" or "absolute", see `match`.
        pool: "attention" or "mean", see `pool`.
        positions: whether tokens carry learned position embeddings; without, their order changes nothing.
        residual, text_weight: see `Head`.
        heads: of the transformer block's attention; they divide `dim`.

    Raises:
        InputError: an argument outside what is said here.
    """

    def __init__(
        self,
        dim: int,
        num_visual: int,
        num_text: int,
        *,
        threshold: float,
        threshold_is: str,
        pool: str,
        positions: bool,
        residual: bool,
        text_weight: float = 0.5,
        heads: int = 8,
    ):
        super().__init__()
        _check_threshold(threshold, threshold_is)
        if pool not in ("attention", "mean"):
            raise InputError(f"atf.pool: {pool!r} is unknown; write attention or mean")
        if dim % heads:
            raise InputError(f"heads: {heads} do not divide the shared dimension {dim}; choose a divisor")
        self.dim, self.num_visual, self.num_text = dim, num_visual, num_text
        self.threshold, self.threshold_is = threshold, threshold_is

        self.visual_position = nn.Parameter(0.02 * torch.randn(num_visual, dim)) if positions else None
        self.text_position = nn.Parameter(0.02 * torch.randn(num_text, dim)) if positions else None
        self.block = nn.TransformerEncoderLayer(
            dim, heads, 2 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(dim)
        self.pool_query = nn.Parameter(torch.zeros(dim)) if pool == "attention" else None  # starts as the mean
        self.head = Head(dim, residual, text_weight)

    def fuse(self, image_tokens: Tensor, text_tokens: Tensor, text_mask: Tensor) -> Fused:
        """The fused sequence before the transformer block, with the match: what a picture of the merge needs.

        Args:
            image_tokens: B N D.
            text_tokens: B M D.
            text_mask: B M, False (or 0) at padding.

        Raises:
            InputError: shapes that do not fit each other or this module.
        """
        self._check(image_tokens, text_tokens, text_mask)
        with torch.autocast(image_tokens.device.type, enabled=False):  # bf16 is too coarse to compare cosines
            # Towers differ in the length of their tokens: bring all to one scale. Cosines stay as they are.
            V = F.rms_norm(image_tokens.float(), (self.dim,))
            T = F.rms_norm(text_tokens.float(), (self.dim,))
            matched = match(similarity(V, T), text_mask.bool(), self.threshold, self.threshold_is)
            if self.visual_position is not None:
                V = V + self.visual_position
                T = T + self.text_position[: T.shape[1]]
            return merge(V, T, matched)

    def forward(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """
        Args:
            image: of the reference images: pooled B D, tokens B N D.
            text: of the relative captions: pooled B D, tokens B M D, mask B M, False (or 0) at padding.

        Returns:
            B D, the query features, of length 1.

        Raises:
            InputError: shapes that do not fit each other or this module.
        """
        fused = self.fuse(image.tokens, text.tokens, text.mask)
        tokens, mask = pack(fused.tokens, fused.mask)
        f = self.norm(self.block(tokens, src_key_padding_mask=~mask))
        return self.head(pool(f, mask, self.pool_query), image.pooled, text.pooled)

    def _check(self, image_tokens: Tensor, text_tokens: Tensor, text_mask: Tensor) -> None:
        batch, num_visual = image_tokens.shape[:2]
        num_text = text_tokens.shape[1]
        expected = ((batch, num_visual, self.dim), (batch, num_text, self.dim), (batch, num_text))
        shapes = tuple(tuple(tensor.shape) for tensor in (image_tokens, text_tokens, text_mask))
        if shapes != expected:
            raise InputError(f"ATF: image tokens, text tokens, text mask are {shapes}; expected {expected}")
        if self.visual_position is not None and (num_visual != self.num_visual or num_text > self.num_text):
            raise InputError(
                f"ATF: {num_visual} visual and {num_text} text tokens, but the position embeddings are for "
                f"{self.num_visual} and at most {self.num_text}; build ATF for this backbone"
            )
