"""Files for CIRR's test server, whose targets are not public: two rankings a query, checked before they are written."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tmcir_lite.data.datasets import Split
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.evaluation.ranking import top
from tmcir_lite.io.files import InputError, write_text

_VERSION = "rc2"
_NAMES = {"recall": 50, "recall_subset": 3}
"""Metric, which is also the file's stem -> names that the server wants for each query."""
_LARGEST = 5_000_000  # bytes


def write_cirr(split: Split, queries: Tensor, names: Sequence[str], gallery: Tensor, folder: Path) -> list[Path]:
    """Writes `recall.json` and `recall_subset.json` for CIRR's server.

    Args:
        split: a CIRR split, usually test1.
        queries: Q D, the query features, in the order of `split.triplets`.
        names: the gallery's image names.
        gallery: G D, their features.

    Raises:
        InputError: another layout; features that do not fit; a ranking that the server would refuse (see `check_cirr`).
    """
    if split.layout != "cirr":
        raise InputError(f"submission: {split.root} has the layout {split.layout}; the server ranks CIRR only")
    if len(queries) != len(split.triplets):
        raise InputError(f"submission: {len(queries)} query features for {len(split.triplets)} queries of {split.name}")
    row_of = {name: row for row, name in enumerate(names)}
    references = torch.tensor([row_of[triplet.reference_name] for triplet in split.triplets])
    best = top(queries, gallery, _NAMES["recall"], references)
    rankings = {"recall": {}, "recall_subset": {}}
    for query, triplet, rows in zip(queries, split.triplets, best.tolist(), strict=True):
        rankings["recall"][triplet.id] = [names[row] for row in rows]
        others = [name for name in triplet.group_members if name != triplet.reference_name]
        nearest = top(query[None], gallery[[row_of[name] for name in others]], _NAMES["recall_subset"])
        rankings["recall_subset"][triplet.id] = [others[row] for row in nearest[0].tolist()]
    texts = {metric: json.dumps({"version": _VERSION, "metric": metric, **ranking})
             for metric, ranking in rankings.items()}  # fmt: skip
    for text in texts.values():
        check_cirr(text, split)
    paths = [folder / f"{metric}.json" for metric in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    return paths


def check_cirr(text: str, split: Split) -> None:
    """Makes sure that a submission is what CIRR's server takes.

    Raises:
        InputError: wrong version or metric, a query that is missing or unknown, too few, repeated or unknown names, the
            reference among them, or more than 5 MB; the query is named.
    """
    content = json.loads(text)
    version, metric = content.pop("version", None), content.pop("metric", None)
    if version != _VERSION or metric not in _NAMES:
        raise InputError(f"submission: version {version!r}, metric {metric!r}; CIRR takes rc2 and {', '.join(_NAMES)}")
    if len(text.encode()) > _LARGEST:
        raise InputError(f"submission: {len(text.encode()):,} bytes; the server takes {_LARGEST:,}")
    wanted = {triplet.id: triplet for triplet in split.triplets}
    for kind, ids in (("is missing", wanted.keys() - content.keys()), ("is unknown", content.keys() - wanted.keys())):
        if ids:
            raise InputError(f"submission: query {min(ids)} {kind} ({len(ids)} such of {len(wanted)})")
    gallery = set(split.galleries["all"])
    for pair, ranking in content.items():
        _check_ranking(ranking, wanted[pair], metric, gallery)


def _check_ranking(ranking: list[str], triplet: Triplet, metric: str, gallery: set[str]) -> None:
    where = f"submission: query {triplet.id}, {metric}"
    if len(ranking) != _NAMES[metric] or len(set(ranking)) != len(ranking):
        raise InputError(f"{where}: {len(set(ranking))} different names; the server wants {_NAMES[metric]}")
    if triplet.reference_name in ranking:
        raise InputError(f"{where}: holds its own reference {triplet.reference_name!r}")
    strangers = set(ranking) - (gallery if metric == "recall" else set(triplet.group_members))
    if strangers:
        raise InputError(f"{where}: {min(strangers)!r} is not in what is ranked")
