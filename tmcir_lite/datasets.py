"""Fashion-IQ and CIRR from disk: triplets, galleries, captions, evaluation protocols, held-out triplets.

Nothing is dropped silently: an annotation that does not hold together, or a picture that is missing or broken,
stops the loading and is named.
"""

import itertools
import random
import re
import unicodedata
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from tmcir_lite.config import CaptionJoin, Layout, ProtocolName
from tmcir_lite.files import InputError, read_json, resolve
from tmcir_lite.picture_files import PictureFolder

SPLITS: dict[Layout, tuple[str, ...]] = {"fashioniq": ("train", "val", "test"), "cirr": ("train", "val", "test1")}
PROTOCOLS: dict[Layout, tuple[ProtocolName, ...]] = {
    "fashioniq": ("original", "original-masked", "val-union"),
    "cirr": ("cirr",),
}

_Places = dict[str, list[str]]
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


@dataclass(frozen=True)
class Split:
    """One split of a dataset."""

    layout: Layout
    name: str
    root: Path
    triplets: list[Triplet]
    galleries: dict[str, list[str]]
    """Category -> image names of the split file, in its order; CIRR has one category, "all"."""
    images: dict[str, Path]
    """Image name -> file: those of the triplets, and but for train all of the galleries'."""
    skipped: list[str] = field(default_factory=list)
    """One line for each picture and each triplet left out by `skip_missing`; to be printed with results."""


@dataclass(frozen=True)
class Protocol:
    """What a query is ranked against."""

    gallery: list[str]
    masked: bool
    """Whether the reference image is taken out of its query's ranking."""


def load_split(
    root: str | Path,
    layout: Layout,
    split: str,
    categories: Sequence[str] | None = None,
    skip_missing: bool = False,
    images: bool = True,
) -> Split:
    """Reads one split and makes sure that it holds together and that its pictures can be decoded.

    A train split needs the pictures of its triplets; val and test also need those that only the gallery holds.

    Args:
        root: the folder of `captions/`, `image_splits/` and `images/`.
        layout: "fashioniq" or "cirr".
        split: "train", "val", "test" (Fashion-IQ) or "test1" (CIRR).
        categories: Fashion-IQ categories; None takes every one that has a caption file.
        skip_missing: leaves out the triplets and gallery entries whose picture is missing or broken, and lists them
            in `Split.skipped`.
        images: False reads the annotation only, and `Split.images` stays empty.

    Raises:
        InputError: unknown layout, split or category; a missing or broken file; a bad record (named by its file and
            its index from 0); missing or broken pictures without `skip_missing`.
    """
    if layout not in SPLITS:
        raise InputError(f"layout {layout!r}: unknown; known: {', '.join(SPLITS)}")
    if split not in SPLITS[layout]:
        raise InputError(f"split {split!r}: unknown; {layout} has {', '.join(SPLITS[layout])}")
    root = resolve(root)
    for folder in ("captions", "image_splits") + ("images",) * images:
        if not (root / folder).is_dir():
            raise InputError(
                f"{root}: no folder {folder}/ in it{_held(root)}; the tree it should have is in data/README.md"
            )
    read = _read_cirr if layout == "cirr" else _read_fashioniq
    triplets, places = read(root, split, categories)
    loaded = Split(layout, split, root, triplets, {category: list(names) for category, names in places.items()}, {})
    return _with_images(loaded, places, skip_missing) if images else loaded


def has_words(text: str) -> bool:
    """Whether a text says anything: one letter, digit or pictograph is enough; punctuation and spaces are none."""
    return any(
        unicodedata.category(character)[0] in "LN" or unicodedata.category(character) == "So" for character in text
    )


def join_captions(captions: Sequence[str], how: CaptionJoin, rng: random.Random | None = None) -> str:
    """One text from a triplet's captions.

    A query's only caption (CIRR, CIRCO) is taken as it stands in the file, as peers do, but for white space around it.
    Of several (Fashion-IQ) each is stripped of `.?, ` and the first letter becomes a capital (CLIP4Cir):

    - "and": "Cap1 and cap2" (CLIP4Cir, val).
    - "random": two of them in either order or one alone, all equally likely, so for two captions 25% each of
      1+2, 2+1, 1, 2 (CLIP4Cir, train).
    - "reversed": "Cap2 and cap1" (Pic2Word).
    - "first": "Cap1".

    Captions without words, of which the real files hold a few, are left out; "" if nothing is left.

    Raises:
        InputError: unknown `how`, or "random" without an `rng`.
    """
    if how not in get_args(CaptionJoin):
        raise InputError(f"captions {how!r}: unknown way to join; known: {', '.join(get_args(CaptionJoin))}")
    if how == "random" and rng is None:
        raise InputError("captions 'random': needs a random.Random to draw from")
    if len(captions) == 1:
        return captions[0].strip() if has_words(captions[0]) else ""
    chosen = [caption.strip(".?, ") for caption in captions if has_words(caption)]
    if how == "random" and chosen:
        chosen = rng.choice([*itertools.permutations(chosen, 2), *([text] for text in chosen)])
    elif how == "reversed":
        chosen = chosen[::-1]
    elif how == "first":
        chosen = chosen[:1]
    text = " and ".join(chosen)
    return text[:1].upper() + text[1:]


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


def union(triplets: Iterable[Triplet]) -> list[str]:
    """Names of all reference and target images, each once, in order of appearance."""
    names = (name for triplet in triplets for name in (triplet.reference_name, triplet.target_name))
    return list(dict.fromkeys(name for name in names if name is not None))


def hold_out(split: Split, share: float, seed: int) -> tuple[list[Triplet], list[Triplet]]:
    """Parts the triplets in (kept, held out) so that no image is a reference or a target in both.

    Triplets that share an image, or (CIRR) an img_set, hang together; such clusters are drawn at random until `share`
    of the triplets is reached, never more. A cluster that would overshoot is passed over: CIRR has one that holds most
    of a split. The same split, share and seed give the same parts; both keep the split's order.

    Raises:
        InputError: less than half of what was asked for can be had, because the clusters are too large.
    """
    clusters = _clusters(split.triplets)
    random.Random(seed).shuffle(clusters)
    wanted = round(share * len(split.triplets))
    held: set[int] = set()
    for cluster in clusters:
        if len(held) + len(cluster) <= wanted:
            held.update(cluster)
    if not held or 2 * len(held) < wanted:
        raise InputError(
            f"data.heldout: {share}: of the {wanted} triplets asked for, {len(held)} can be kept aside without sharing"
            f" an image with the rest ({split.root}, {len(split.triplets)} triplets); choose another share"
        )
    parts: tuple[list[Triplet], list[Triplet]] = ([], [])
    for index, triplet in enumerate(split.triplets):
        parts[index in held].append(triplet)
    return parts


def _read_fashioniq(
    root: Path, split: str, categories: Sequence[str] | None
) -> tuple[list[Triplet], dict[str, _Places]]:
    pattern = re.compile(rf"cap\.(.+)\.{split}\.json")
    matches = (pattern.fullmatch(path.name) for path in (root / "captions").iterdir())
    found = sorted(match[1] for match in matches if match)
    if not found:
        raise InputError(f"{root / 'captions'}: no file cap.<category>.{split}.json in it{_held(root / 'captions')}")
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


def _fashioniq_places(path: Path) -> _Places:
    places = {}
    for name in _expect(read_json(path), list, str(path)):
        if _plain_name(name, str(path)) in places:
            raise InputError(f"{path}: {name!r} stands twice and would count twice in every ranking; remove one")
        places[name] = [f"{name}.jpg"]
    return places


def _read_cirr(root: Path, split: str, categories: Sequence[str] | None) -> tuple[list[Triplet], dict[str, _Places]]:
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


def _cirr_places(path: Path) -> _Places:
    places = {}
    for name, place in _expect(read_json(path), dict, str(path)).items():
        where = f"{path}, {name!r}"
        parts = _expect(place, str, where).removeprefix("./").split("/")
        for part in (name, *parts):
            _plain_name(part, where)
        # "train/34/x.png" lies there, or in train/ (no sub-folders), or beside all the others (no folders).
        places[name] = list(dict.fromkeys(("/".join(parts), f"{parts[0]}/{parts[-1]}", parts[-1])))
    return places


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


def _with_images(split: Split, places: dict[str, _Places], skip_missing: bool) -> Split:
    """The split with its pictures found and decoded once; see `load_split`."""
    needed = dict.fromkeys(union(split.triplets))
    needed |= dict.fromkeys(name for triplet in split.triplets for name in triplet.group_members)
    if split.name != "train":
        needed |= dict.fromkeys(name for gallery in split.galleries.values() for name in gallery)
    all_places = {name: files for names in places.values() for name, files in names.items()}
    needed = {name: all_places[name] for name in needed}
    folder = PictureFolder(split.root / "images")
    files, missing = folder.find(needed)
    skipped = [f"image {name}: {reason}" for name, reason in missing.items()]
    triplets = []
    for triplet in split.triplets:
        lost = [name for name in (*union([triplet]), *triplet.group_members) if name in missing]
        if lost:
            skipped.append(f"triplet {triplet.id}: needs {', '.join(dict.fromkeys(lost))}")
        else:
            triplets.append(triplet)
    empty = [category for category in split.galleries if all(t.category != category for t in triplets)]
    if missing and (empty or not skip_missing):
        lost = f"no triplet of {split.name} has all its pictures{_of(split, empty)}" if empty else ""
        raise InputError(folder.missing_report(split.root, split.name, needed, missing, lost))
    if empty:
        raise InputError(
            f"{split.root}: captions/ has no triplet of {split.name}{_of(split, empty)}; fetch the file again"
        )
    galleries = {
        category: [name for name in gallery if name not in missing] for category, gallery in split.galleries.items()
    }
    return replace(split, triplets=triplets, galleries=galleries, images=files, skipped=skipped)


def _of(split: Split, categories: list[str]) -> str:
    return f" in category {', '.join(categories)}" if len(split.galleries) > 1 else ""


def _held(folder: Path) -> str:
    """What a folder holds, to be shown where something else was expected."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    return f" (it holds {', '.join(names[:6])}{', ...' * (len(names) > 6)})" if names else ""


def _clusters(triplets: Sequence[Triplet]) -> list[list[int]]:
    """Indices of triplets that hang together through shared images or img_sets (connected components)."""
    parent: dict[Any, Any] = {}

    def find(node: Any) -> Any:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for triplet in triplets:
        for node in (triplet.target_name, frozenset(triplet.group_members)):
            if node:
                parent[find(node)] = find(triplet.reference_name)
    clusters: dict[Any, list[int]] = {}
    for index, triplet in enumerate(triplets):
        clusters.setdefault(find(triplet.reference_name), []).append(index)
    return list(clusters.values())
