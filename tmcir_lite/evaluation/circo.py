"""CIRCO: queries with several right answers among 123,403 COCO pictures. Evaluation only: it has no train split.

The text of a query is its relative caption alone; `shared_concept`, which says what both pictures show, is not used.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from tmcir_lite.data.layouts import Triplet
from tmcir_lite.evaluation.features import encode_queries, gallery_features
from tmcir_lite.evaluation.ranking import top
from tmcir_lite.io.files import InputError, read_json, resolve, write_text
from tmcir_lite.method.model import Composed

MAP_AT = (5, 10, 25, 50)
_RANKED = 50  # ids that the server wants for each query
_IMAGES = Path("COCO2017_unlabeled") / "unlabeled2017"


class Queries(NamedTuple):
    """A split: its queries, and for val the ids of all right answers to each."""

    triplets: list[Triplet]
    targets: list[tuple[str, ...]]
    images: dict[str, Path]
    """COCO id -> file, of the whole gallery."""


def load_circo(root: str | Path, split: str) -> Queries:
    """Reads `annotations/<split>.json` and lists the gallery in `COCO2017_unlabeled/`.

    Raises:
        InputError: a missing file or key, or an id whose picture is not there.
    """
    root = resolve(root)
    images = _gallery(root)
    triplets: dict[str, Triplet] = {}
    targets = []
    path = root / "annotations" / f"{split}.json"
    records = read_json(path)
    if not isinstance(records, list) or not records:
        raise InputError(f"{path}: not a list of queries; fetch it again")
    for index, record in enumerate(records):
        where = f"{path}, record {index}"
        try:
            reference, caption, number = _id(record["reference_img_id"]), record["relative_caption"], _id(record["id"])
            given = record["gt_img_ids"] if split == "val" else []
            if not isinstance(caption, str) or not isinstance(given, list):
                raise TypeError
            right = tuple(dict.fromkeys(map(_id, given)))
        except (KeyError, TypeError, ValueError) as error:
            reason = f"no key {error}" if isinstance(error, KeyError) else "not as CIRCO writes it"
            raise InputError(f"{where}: {reason}") from None
        absent = [name for name in (reference, *right) if name not in images]
        if absent:
            raise InputError(f"{where}: picture {absent[0]} is not in the gallery")
        if number in triplets:
            raise InputError(f"{where}: query {number} stands twice; the server takes one answer to each")
        if split == "val" and not right:
            raise InputError(f"{where}: query {number} has no right answer")
        triplets[number] = Triplet(number, reference, None, (caption,), "all")
        targets.append(right)
    return Queries(list(triplets.values()), targets, images)


def _gallery(root: Path) -> dict[str, Path]:
    path = root / "COCO2017_unlabeled" / "annotations" / "image_info_unlabeled2017.json"
    images: dict[str, Path] = {}
    try:
        for entry in read_json(path)["images"]:
            number = _id(entry["id"])
            if number in images:
                raise InputError(f"{path}: picture {number} stands twice and would be ranked twice; remove one")
            images[number] = root / _IMAGES / entry["file_name"]
    except InputError:
        raise
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: no list of images with an id and a file_name; fetch it again") from None
    there = set((root / _IMAGES).glob("*"))
    missing = [path.name for path in images.values() if path not in there]
    if missing:
        raise InputError(f"{root / _IMAGES}: {len(missing)} of {len(images)} pictures are missing, such as "
                         f"{missing[0]}; unpack COCO's unlabeled2017.zip there")  # fmt: skip
    return images


def _id(value: int | str) -> str:
    """COCO's ids are whole numbers, which some copies of its files have as texts with leading zeros."""
    return str(int(value))


def average_precision(ranking: Sequence[str], targets: Sequence[str], k: int) -> float:
    """AP@k of one ranking (CIRCO, Baldrati et al. 2023, arXiv 2303.15247), at most 1:

    AP@k = sum_{i <= k} precision@i * rel_i / min(number of targets, k)

    An id that stands again in the ranking is wrong there, and one that stands again among the targets is one target.
    """
    left = set(targets)
    wanted, hits, total = len(left), 0, 0.0
    for position, name in enumerate(ranking[:k], 1):
        if name in left:
            left.remove(name)
            hits += 1
            total += hits / position
    return total / min(wanted, k)


def mean_average_precision(rankings: Sequence[Sequence[str]], targets: Sequence[Sequence[str]]) -> dict[str, float]:
    """mAP@k in % for each k of `MAP_AT`."""
    pairs = list(zip(rankings, targets, strict=True))
    return {f"mAP@{k}": 100 * sum(average_precision(r, t, k) for r, t in pairs) / len(pairs) for k in MAP_AT}


def rank(model: Composed, queries: Queries, folder: Path) -> list[list[str]]:
    """The 50 nearest ids to each query, nearest first; the reference stays in the gallery, as in CIRCO's own code.

    Args:
        folder: where the gallery's features are kept.
    """
    names = list(queries.images)
    gallery = gallery_features(model.backbone, list(queries.images.values()), folder)
    asked: Tensor = encode_queries(model, queries.triplets, queries.images, "and")
    return [[names[row] for row in rows] for rows in top(asked, gallery, _RANKED).tolist()]


def write_submission(queries: Queries, rankings: Sequence[Sequence[str]], path: Path) -> None:
    """Writes what CIRCO's server takes: query id -> 50 picture ids.

    Raises:
        InputError: a ranking that the server would refuse; the query is named.
    """
    content = {triplet.id: list(map(int, ranking)) for triplet, ranking in zip(queries.triplets, rankings, strict=True)}
    check_submission(content, queries)
    write_text(path, json.dumps(content))


def check_submission(content: Mapping[str, Sequence[int]], queries: Queries) -> None:
    """Makes sure that each query is answered by 50 different pictures of the gallery.

    Raises:
        InputError: otherwise; the query is named.
    """
    wanted = {triplet.id for triplet in queries.triplets}
    if wanted != content.keys():
        raise InputError(f"submission: query {min(wanted ^ content.keys())} is missing or unknown")
    for number, ranking in content.items():
        if len(set(ranking)) != _RANKED or len(ranking) != _RANKED:
            raise InputError(f"submission: query {number}: {len(set(ranking))} different ids; CIRCO wants {_RANKED}")
        strangers = [name for name in ranking if str(name) not in queries.images]
        if strangers:
            raise InputError(f"submission: query {number}: {strangers[0]} is not in the gallery")
