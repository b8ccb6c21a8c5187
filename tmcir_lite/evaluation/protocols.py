"""What a query is ranked against, and the recall of a whole split under each such protocol."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from tmcir_lite.config import PROTOCOLS, ProtocolName
from tmcir_lite.data.datasets import Split, union
from tmcir_lite.data.garments import Garment
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.data.scenes import Scene
from tmcir_lite.evaluation.intent import intent
from tmcir_lite.evaluation.ranking import CHUNK, recall, subset_ranks, target_ranks, top
from tmcir_lite.io.files import InputError


@dataclass(frozen=True)
class Protocol:
    """What a query is ranked against."""

    gallery: list[str]
    masked: bool
    """Whether the reference image is taken out of its query's ranking."""


def protocol(split: Split, name: ProtocolName, category: str) -> Protocol:
    """What a query of `category` is ranked against.

    - "original": every image of the split file; the reference stays (CLIP4Cir, SPRC, Pic2Word).
    - "original-masked": the same; the reference is masked.
    - "val-union": references and targets of the category's triplets; the reference is masked (TG-CIR, DQU-CIR).
    - "cirr": every image of the split; the reference is masked.

    Raises:
        InputError: the layout has no such protocol or the split no such category.
    """
    if name not in PROTOCOLS[split.layout]:
        raise InputError(f"protocol {name!r}: {split.layout} has {', '.join(PROTOCOLS[split.layout])}")
    if category not in split.galleries:
        raise InputError(f"category {category!r}: {split.root} has {', '.join(split.galleries)}")
    if name == "val-union":
        return Protocol(union(triplet for triplet in split.triplets if triplet.category == category), masked=True)
    return Protocol(split.galleries[category], masked=name != "original")


SUBSET_RECALL_AT = (1, 2, 3)
"""CIRR's subset has five images, so recall beyond 3 says little."""


def evaluate_split(
    query_features: Tensor,
    gallery_names: Sequence[str],
    gallery_features: Tensor,
    split: Split,
    protocols: Sequence[str],
    recall_at: Sequence[int],
    chunk: int = CHUNK,
    known: Mapping[str, Garment | Scene] | None = None,
) -> pd.DataFrame:
    """Recall of a split under each protocol: a row for each category, then their unweighted mean.

    Args:
        query_features: Q D, in the order of `split.triplets`.
        gallery_names: the names of all images that any gallery of the split holds.
        gallery_features: their features, one row a name.
        protocols: names that `protocol` knows for the split's layout.
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
