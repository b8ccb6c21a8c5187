"""Fashion-IQ's and CIRR's annotation files as triplets and galleries.

Both lie in `captions/` and `image_splits/`. A further dataset that does is a further reader in `READERS`, and a further
`Layout` of the configuration.
"""

import re
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tmcir_lite.config import Layout
from tmcir_lite.io.files import InputError, read_json

Places = dict[str, list[str]]
"""Image name -> where mirrors of the dataset keep its picture, relative to `images/`; see `PictureFolder.find`."""

_IMG_SET = 6  # pictures in an img_set of CIRR; recall in the subset is among the five that are not the reference


@dataclass(frozen=True)
class Triplet:
    """A query and its answer: (reference image, relative captions) -> target image."""

    id: str
    """Fashion-IQ: "<category>-<split>-<index>"; CIRR: the pairid."""
    reference_name: str
    target_name: str | None
    """None in a test split, whose targets are not public."""
    captions: tuple[str, ...]
    """As in the file: Fashion-IQ has two (of which a few are empty), CIRR one."""
    category: str
    group_members: tuple[str, ...] = ()
    """CIRR: the names of the query's img_set, the reference among them."""


Annotation = tuple[list[Triplet], dict[str, Places]]
"""A split's triplets, and for each of its categories where the pictures of the gallery may lie."""


class AnnotationReader(NamedTuple):
    """How the annotation of one dataset is read."""

    splits: tuple[str, ...]
    read: Callable[[Path, str, Sequence[str] | None], Annotation]
    """From the dataset's folder, the split and the categories wanted (None: all). Raises InputError for a file that is
    missing or broken, a record that does not hold together (named by file and index), or an unknown category."""


def _read_fashioniq(root: Path, split: str, categories: Sequence[str] | None) -> Annotation:
    pattern = re.compile(rf"cap\.(.+)\.{split}\.json")
    matches = (pattern.fullmatch(path.name) for path in (root / "captions").iterdir())
    found = sorted(match[1] for match in matches if match)
    if not found:
        raise InputError(f"{root / 'captions'}: no file cap.<category>.{split}.json in it{holds(root / 'captions')}")
    for category in categories or ():
        if category not in found:
            raise InputError(f"category {category!r}: {root / 'captions'} has {', '.join(found)} for {split}")
    triplets, galleries = [], {}
    for category in dict.fromkeys(categories or found):
        known = galleries[category] = _fashioniq_places(root / "image_splits" / f"split.{category}.{split}.json")
        for index, record in enumerate(_records(root / "captions" / f"cap.{category}.{split}.json")):
            reference = record.name("candidate", known)
            target = None if split == "test" else record.name("target", known, other_than=reference)
            captions = tuple(_expect(text, str, record.where) for text in record.get("captions", list))
            if not captions:
                raise InputError(f"{record.where}: 'captions' is empty; a query needs a caption")
            triplets.append(Triplet(f"{category}-{split}-{index}", reference, target, captions, category))
    return triplets, galleries


def _fashioniq_places(path: Path) -> Places:
    places = {}
    for name in _expect(read_json(path), list, str(path)):
        if _plain_name(name, str(path)) in places:
            raise InputError(f"{path}: {name!r} stands twice and would count twice in every ranking; remove one")
        places[name] = [f"{name}.jpg"]
    return places


def _read_cirr(root: Path, split: str, categories: Sequence[str] | None) -> Annotation:
    if categories:
        raise InputError(f"category {categories[0]!r}: CIRR has no categories; write data.categories: null")
    known = _cirr_places(root / "image_splits" / f"split.rc2.{split}.json")
    triplets: dict[str, Triplet] = {}
    for record in _records(root / "captions" / f"cap.rc2.{split}.json"):
        pair = str(record.get("pairid", int))
        if pair in triplets:
            raise InputError(
                f"{record.where}: pairid {pair} stands twice; a submission answers each once, so fix the file"
            )
        reference = record.name("reference", known)
        target = None if split == "test1" else record.name("target_hard", known, other_than=reference)
        group = _Record(f"{record.where}, img_set", record.get("img_set", dict))
        members = tuple(_known_name(name, known, f"{group.where}, 'members'") for name in group.get("members", list))
        if len(set(members)) != _IMG_SET or len(members) != _IMG_SET:
            raise InputError(f"{group.where}: {len(set(members))} different members of {len(members)}, where CIRR has "
                             f"{_IMG_SET}; correct the file")  # fmt: skip
        for name in (reference, target):
            if name is not None and name not in members:
                raise InputError(f"{group.where}: {name!r} is not among its members, so the subset cannot be ranked")
        triplets[pair] = Triplet(pair, reference, target, (record.get("caption", str),), "all", members)
    return list(triplets.values()), {"all": known}


def _cirr_places(path: Path) -> Places:
    places = {}
    for name, place in _expect(read_json(path), dict, str(path)).items():
        where = f"{path}, {name!r}"
        parts = _expect(place, str, where).removeprefix("./").split("/")
        for part in (name, *parts):
            _plain_name(part, where)
        # "train/34/x.png" lies there, or in train/ (no sub-folders), or beside all the others (no folders).
        places[name] = list(dict.fromkeys(("/".join(parts), f"{parts[0]}/{parts[-1]}", parts[-1])))
    return places


READERS: dict[Layout, AnnotationReader] = {
    "fashioniq": AnnotationReader(("train", "val", "test"), _read_fashioniq),
    "cirr": AnnotationReader(("train", "val", "test1"), _read_cirr),
}


@dataclass(frozen=True)
class _Record:
    """One object of a caption file, which can say where it stands when something is wrong with it."""

    where: str
    values: dict[str, Any]

    def get(self, key: str, kind: type) -> Any:
        if key not in self.values:
            raise InputError(f"{self.where}: no key {key!r}")
        return _expect(self.values[key], kind, f"{self.where}, {key!r}")

    def name(self, key: str, known: Container[str], other_than: str | None = None) -> str:
        name = _known_name(self.get(key, str), known, f"{self.where}, {key!r}")
        if name == other_than:
            raise InputError(f"{self.where}: {name!r} is both reference and target; a masked reference needs another")
        return name


def _records(path: Path) -> Iterator[_Record]:
    for index, values in enumerate(_expect(read_json(path), list, str(path))):
        where = f"{path}, record {index}"
        yield _Record(where, _expect(values, dict, where))


def _expect(value: Any, kind: type, where: str) -> Any:
    names = {list: "a list", dict: "an object", str: "a text", int: "a whole number"}
    if not isinstance(value, kind):
        raise InputError(f"{where}: {value!r:.80} is not {names[kind]}")
    return value


def _plain_name(name: Any, where: str) -> str:
    """An image name becomes part of a path, so it may not lead elsewhere."""
    if not isinstance(name, str) or name in ("", ".", "..") or re.search(r"[/\\\0]", name):
        raise InputError(f"{where}: {name!r:.80} is not a plain image name (no path, no '..'); correct the file")
    return name


def _known_name(name: Any, known: Container[str], where: str) -> str:
    if _plain_name(name, where) not in known:
        raise InputError(f"{where}: {name!r} is not in the split file, so no gallery holds it")
    return name


def holds(folder: Path) -> str:
    """What a folder holds, to be shown where something else was expected."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    return f" (it holds {', '.join(names[:6])}{', ...' * (len(names) > 6)})" if names else ""
