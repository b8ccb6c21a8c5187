"""Retrieval metrics: features in, numbers out. Q queries, G gallery images, D shared dimension."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from tmcir_lite.datasets import Protocol, Split, Triplet, protocol
from tmcir_lite.files import InputError
from tmcir_lite.garments import Garment
from tmcir_lite.intent import intent

CHUNK = 1024
"""Queries scored at once."""
BLOCK = 2048
"""Gallery images scored at once: the Q x G matrix of all scores is never held, however large Q or G, and what is held
stays in a processor's cache."""
_EQUAL = 1e-6  # cosines this near are ties: rounding differs between two ways to compute the same one
SUBSET_RECALL_AT = (1, 2, 3)
"""CIRR's subset has five images, so recall beyond 3 says little."""


def target_ranks(
    queries: Tensor, gallery: Tensor, target_index: Tensor, masked_index: Tensor | None = None, chunk: int = CHUNK
) -> Tensor:
    """The rank of each query's target in the gallery, from 1, by cosine.

        rank = 1 + number of other gallery images whose score is at least the target's

    Ties count against us: features that are all equal rank last, not first. Nothing is sorted; memory does not grow
    with the gallery, which may be a memory-mapped array on disk (`features.FeatureFile`).

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
        at_least = (scores >= bar[rows, None]).view(torch.uint8)
        ranks[rows] += at_least.sum(dim=1, dtype=torch.int32).cpu()  # quicker than a sum of truth values
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


def evaluate_split(
    query_features: Tensor,
    gallery_names: Sequence[str],
    gallery_features: Tensor,
    split: Split,
    protocols: Sequence[str],
    recall_at: Sequence[int],
    chunk: int = CHUNK,
    known: Mapping[str, Garment] | None = None,
) -> pd.DataFrame:
    """Recall of a split under each protocol: a row for each category, then their unweighted mean.

    Args:
        query_features: Q D, in the order of `split.triplets`.
        gallery_names: the names of all images that any gallery of the split holds.
        gallery_features: their features, one row a name.
        protocols: names that `datasets.protocol` knows for the split's layout.
        recall_at: the k of R@k.
        known: what each image shows, where this is known.

    Returns:
        Columns layout, protocol, category, queries, gallery (its size; for the mean: in all), `R@k` for each k, and
        for CIRR `Rs@1`, `Rs@2`, `Rs@3`; with `known` those of `intent.MEASURES`. The mean's category is "mean".
        Percentages are not rounded.

    Raises:
        InputError: rows that do not fit the split; an image without a feature, or a query without its one target in
            the gallery; and as `target_ranks`.
    """
    tables = []
    for name in dict.fromkeys(protocols):
        rows = []
        for part in _parts(query_features, gallery_names, gallery_features, split, name):
            numbers = _recalls(part, recall_at, chunk)
            if known is not None:
                numbers |= intent(part.triplets, _answers(part, chunk), known)
            sizes = {"queries": len(part.triplets), "gallery": len(part.images)}
            rows.append({"category": part.category, **sizes, **numbers})
        tables.append(_with_mean(pd.DataFrame(rows)).assign(layout=split.layout, protocol=name))
    table = pd.concat(tables, ignore_index=True)
    return table[["layout", "protocol", *table.columns.drop(["layout", "protocol"])]]


def answers(
    query_features: Tensor, gallery_names: Sequence[str], gallery_features: Tensor, split: Split, name: str
) -> tuple[Tensor, list[str]]:
    """For each triplet of a split the rank of its target, and the name of the image ranked first, under one protocol.

    Arguments and errors are those of `evaluate_split`.
    """
    ranks, first = torch.empty(len(split.triplets), dtype=torch.long), [""] * len(split.triplets)
    for part in _parts(query_features, gallery_names, gallery_features, split, name):
        ranks[part.chosen] = target_ranks(part.queries, part.images, part.target, part.masked)
        for i, found in zip(part.chosen, _answers(part, CHUNK), strict=True):
            first[i] = found
    return ranks, first


class _Part(NamedTuple):
    """What one category's queries are ranked against under a protocol."""

    category: str
    chosen: list[int]
    """Their places in the split."""
    triplets: list[Triplet]
    gallery: list[str]
    queries: Tensor
    images: Tensor
    """The gallery's features."""
    target: Tensor
    masked: Tensor | None


def _parts(
    query_features: Tensor, gallery_names: Sequence[str], gallery_features: Tensor, split: Split, name: str
) -> Iterator[_Part]:
    if len(query_features) != len(split.triplets):
        raise InputError(f"{len(query_features)} query features for {len(split.triplets)} triplets of {split.name}")
    if len(gallery_names) != len(gallery_features):
        raise InputError(f"{len(gallery_features)} gallery features for {len(gallery_names)} names")
    row_of = _positions(gallery_names, "the gallery features")
    for category in split.galleries:
        chosen = [i for i, triplet in enumerate(split.triplets) if triplet.category == category]
        if not chosen:
            raise InputError(f"category {category!r} of {split.root} has no triplets in {split.name}; leave it out")
        triplets, rules = [split.triplets[i] for i in chosen], protocol(split, name, category)
        images = gallery_features[_rows(rules.gallery, row_of, "the gallery features")]
        yield _Part(category, chosen, triplets, rules.gallery, query_features[chosen], images, *places(triplets, rules))


def _recalls(part: _Part, recall_at: Sequence[int], chunk: int) -> dict[str, float]:
    ranks = target_ranks(part.queries, part.images, part.target, part.masked, chunk)
    numbers = {f"R@{k}": recall(ranks, k) for k in recall_at}
    if any(triplet.group_members for triplet in part.triplets):
        subsets = _subsets(part.triplets, _positions(part.gallery, "the gallery"))
        ranks = subset_ranks(part.queries, part.images, part.target, subsets, chunk)
        numbers |= {f"Rs@{k}": recall(ranks, k) for k in SUBSET_RECALL_AT}
    return numbers


def places(triplets: Sequence[Triplet], rules: Protocol) -> tuple[Tensor, Tensor | None]:
    """Rows in a protocol's gallery: of the targets, and of the references if they are masked.

    Raises:
        InputError: a target that is not public, or an image that is not in the gallery.
    """
    row_of = _positions(rules.gallery, "the gallery")
    for triplet in triplets:
        if triplet.target_name is None:
            raise InputError(f"triplet {triplet.id}: its target is not public, so it has no recall; evaluate val")
    target = _rows([triplet.target_name for triplet in triplets], row_of, "the gallery")
    masked = _rows([triplet.reference_name for triplet in triplets], row_of, "the gallery") if rules.masked else None
    return target, masked


def _answers(part: _Part, chunk: int) -> list[str]:
    """The name of the image that is ranked first for each query."""
    return [part.gallery[row] for row in top(part.queries, part.images, 1, part.masked, chunk).flatten().tolist()]


def _subsets(triplets: list[Triplet], row_of: dict[str, int]) -> Tensor:
    """Q S: each query's group without its reference."""
    groups = [[name for name in t.group_members if name != t.reference_name] for t in triplets]
    for triplet, group in zip(triplets, groups, strict=True):
        if len(group) != len(groups[0]):
            raise InputError(
                f"triplet {triplet.id}: a subset of {len(group)} images, where {triplets[0].id} has {len(groups[0])}; "
                "subset recall needs subsets of one size"
            )
    return torch.stack([_rows(group, row_of, "the gallery") for group in groups])


def _with_mean(rows: pd.DataFrame) -> pd.DataFrame:
    """Adds the headline row: recall averaged over categories, each counting the same; sizes in all."""
    sizes = ["queries", "gallery"]
    mean = {"category": "mean", **rows[sizes].sum(), **rows.drop(columns=["category", *sizes]).mean()}
    return pd.concat([rows, pd.DataFrame([mean])], ignore_index=True)


def _positions(names: Sequence[str], where: str) -> dict[str, int]:
    positions = {name: position for position, name in enumerate(names)}
    if len(positions) < len(names):
        twice = next(name for position, name in enumerate(names) if positions[name] != position)
        raise InputError(f"image {twice!r} stands twice in {where}; a query may have one positive only")
    return positions


def _rows(names: Sequence[str], row_of: dict[str, int], where: str) -> Tensor:
    absent = [name for name in names if name not in row_of]
    if absent:
        raise InputError(f"image {absent[0]!r} is not in {where} ({len(absent)} such); encode or correct the split")
    return torch.tensor([row_of[name] for name in names], dtype=torch.long)


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
    bad = (~features.isfinite().all(dim=1)).nonzero()
    if len(bad):
        raise InputError(
            f"{what}: row {first + bad[0].item()} is not finite ({len(bad)} of {len(features)} rows looked at); encode "
            "with a model whose training did not diverge"
        )
    return F.normalize(features.float(), dim=1)


def _check_dimensions(queries: Tensor, gallery: Tensor) -> None:
    if queries.shape[1] != gallery.shape[1]:
        raise InputError(f"queries have {queries.shape[1]} dimensions, the gallery {gallery.shape[1]}: two models?")


def _check_indices(what: str, index: Tensor, queries: Tensor, gallery: Tensor) -> None:
    if len(index) != len(queries):
        raise InputError(f"{what}: {len(index)} entries for {len(queries)} queries")
    outside = (index < 0) | (index >= len(gallery))
    if outside.any():
        raise InputError(f"{what}: {index[outside][0].item()} is no row of a gallery of {len(gallery)} images")
