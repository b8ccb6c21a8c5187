"""Ranks and recall: features in, numbers out. Q queries, G gallery images, D shared dimension."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from tmcir_lite.io.files import InputError

CHUNK = 1024
"""Queries scored at once."""
BLOCK = 2048
"""Gallery images scored at once: the Q x G matrix of all scores is never held, however large Q or G, and what is held
stays in a processor's cache."""
_EQUAL = 1e-6  # cosines this near are ties: rounding differs between two ways to compute the same one


def target_ranks(
    queries: Tensor, gallery: Tensor, target_index: Tensor, masked_index: Tensor | None = None, chunk: int = CHUNK
) -> Tensor:
    """The rank of each query's target in the gallery, from 1, by cosine.

        rank = 1 + number of other gallery images whose score is at least the target's

    Ties count against us: features that are all equal rank last, not first. Nothing is sorted; memory does not grow
    with the gallery, which may be a memory-mapped array on disk (`features.gallery_features`).

    Args:
        queries: Q D.
        gallery: G D.
        target_index: Q, the target's row in the gallery.
        masked_index: Q, a row that is taken out of the query's ranking (the reference image).

    Returns:
        Q, whole numbers.

    Raises:
        InputError: features that are not finite, or shapes and indices that do not fit; a target that is masked.
    """
    _check_indices("target_index", target_index, queries, gallery)
    if masked_index is not None:
        _check_indices("masked_index", masked_index, queries, gallery)
        both = (masked_index == target_index).nonzero()
        if len(both):
            raise InputError(f"query {both[0].item()}: its target is masked, so it has no rank; leave the query out")
    bar = _cosines(queries, gallery, target_index) - _EQUAL
    ranks = torch.ones(len(queries), dtype=torch.long)
    for rows, columns, scores in _scores(queries, gallery, chunk):
        # Neither is counted: another way to compute its score may round to the other side of the bar.
        for index in (target_index, masked_index):
            if index is not None:
                _leave_out(scores, index[rows], columns)
        # 0 and 1 in place of the scores, whose sum is exact in a block: truth values take four times as long.
        ranks[rows] += scores.ge_(bar[rows, None]).sum(dim=1).long().cpu()
    return ranks


def subset_ranks(
    queries: Tensor, gallery: Tensor, target_index: Tensor, subset_index: Tensor, chunk: int = CHUNK
) -> Tensor:
    """The rank of each query's target within its subset (CIRR), from 1, by cosine; ties count against us.

    Args:
        queries: Q D.
        gallery: G D.
        target_index: Q, the target's row in the gallery.
        subset_index: Q S, rows of the subset's images: the target among them, the reference not (CIRR: S = 5).

    Returns:
        Q, whole numbers.

    Raises:
        InputError: as `target_ranks`; or a target that does not stand exactly once in its subset.
    """
    _check_indices("target_index", target_index, queries, gallery)
    _check_indices("subset_index", subset_index, queries, gallery)
    _check_dimensions(queries, gallery)
    is_target = subset_index == target_index[:, None]
    wrong = (is_target.sum(dim=1) != 1).nonzero()
    if len(wrong):
        raise InputError(f"query {wrong[0].item()}: its target must stand once in its subset, without the reference")
    queries, gallery = _unit("queries", queries), _unit("gallery", gallery)
    ranks = torch.empty(len(queries), dtype=torch.long)
    for start in range(0, len(queries), chunk):
        rows = slice(start, start + chunk)
        scores = torch.einsum("qd,qsd->qs", queries[rows], gallery[subset_index[rows].to(gallery.device)]).cpu()
        target = scores[is_target[rows].cpu()].unsqueeze(1)
        ranks[rows] = (scores >= target - _EQUAL).sum(dim=1)
    return ranks


def top(queries: Tensor, gallery: Tensor, k: int, masked_index: Tensor | None = None, chunk: int = CHUNK) -> Tensor:
    """The `k` best gallery rows of each query, best first, the masked one left out.

    Returns:
        Q k, rows of the gallery.

    Raises:
        InputError: as `target_ranks`; or a gallery of fewer than `k` images.
    """
    available = len(gallery) - (masked_index is not None)
    if k > available:
        raise InputError(f"top {k}: the gallery has only {available} images to show; ask for fewer")
    if masked_index is not None:
        _check_indices("masked_index", masked_index, queries, gallery)
    best = torch.full((len(queries), k), -torch.inf)
    found = torch.full((len(queries), k), -1)
    for rows, columns, scores in _scores(queries, gallery, chunk):
        near = scores.topk(min(k + 1, scores.shape[1]), dim=1)  # one more than asked for: it may be the masked one
        values, indices = near.values.cpu(), near.indices.cpu() + columns.start
        if masked_index is not None:
            values = values.masked_fill(indices == masked_index[rows, None], -torch.inf)
        values, indices = torch.cat([best[rows], values], dim=1), torch.cat([found[rows], indices], dim=1)
        best[rows], order = values.topk(k, dim=1)
        found[rows] = indices.gather(1, order)
    return found


def recall(ranks: Tensor, k: int) -> float:
    """R@k: the percentage of queries whose target is among the first `k`.

    Raises:
        InputError: no queries.
    """
    if len(ranks) == 0:
        raise InputError("recall of no queries is undefined; give at least one rank")
    return 100 * (ranks <= k).double().mean().item()


def _scores(queries: Tensor, gallery: Tensor, chunk: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yields (rows of queries, rows of the gallery, their cosines), on the queries' device."""
    queries = _unit("queries", queries)
    _check_dimensions(queries, gallery)
    for first in range(0, len(gallery), BLOCK):
        columns = slice(first, min(first + BLOCK, len(gallery)))
        images = _unit("gallery", gallery[columns].to(queries.device), first).T
        for start in range(0, len(queries), chunk):
            rows = slice(start, start + chunk)
            yield rows, columns, queries[rows] @ images


def _leave_out(scores: Tensor, index: Tensor, columns: slice) -> None:
    """Puts the score of one gallery row of each query below all others, where that row is among the columns."""
    inside = ((index >= columns.start) & (index < columns.stop)).nonzero().squeeze(1)
    scores[inside.to(scores.device), (index[inside] - columns.start).to(scores.device)] = -torch.inf


def _cosines(queries: Tensor, gallery: Tensor, index: Tensor) -> Tensor:
    """Q: the cosine of each query with one row of the gallery."""
    _check_dimensions(queries, gallery)
    images = gallery[index].to(queries.device)
    return F.cosine_similarity(queries.float(), images.float(), dim=1)


def _unit(what: str, features: Tensor, first: int = 0) -> Tensor:
    """Features of length 1, in full precision. A NaN would compare as False everywhere and so rank first."""
    features = features.float()
    lengths = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    if not lengths.isfinite().all():  # the length of finite features may be too large a number as well
        bad = (~features.isfinite().all(dim=1)).nonzero()
        if len(bad):
            raise InputError(
                f"{what}: row {first + bad[0].item()} is not finite ({len(bad)} of {len(features)} rows looked at); "
                "encode with a model whose training did not diverge"
            )
    return features / lengths.clamp_min(1e-12)  # as `F.normalize`, whose lengths are needed here


def _check_dimensions(queries: Tensor, gallery: Tensor) -> None:
    if queries.shape[1] != gallery.shape[1]:
        raise InputError(f"queries have {queries.shape[1]} dimensions, the gallery {gallery.shape[1]}: two models?")


def _check_indices(what: str, index: Tensor, queries: Tensor, gallery: Tensor) -> None:
    if len(index) != len(queries):
        raise InputError(f"{what}: {len(index)} entries for {len(queries)} queries")
    outside = (index < 0) | (index >= len(gallery))
    if outside.any():
        raise InputError(f"{what}: {index[outside][0].item()} is no row of a gallery of {len(gallery)} images")
