"""One split of a dataset from disk: its triplets and galleries, with the pictures that they need.

Nothing is dropped silently: an annotation that does not hold together, or a picture that is missing or broken,
stops the loading and is named.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tmcir_lite.config import Layout
from tmcir_lite.data.layouts import READERS, Places, Triplet, holds
from tmcir_lite.data.picture_files import PictureFolder
from tmcir_lite.io.files import InputError, resolve


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
    if layout not in READERS:
        raise InputError(f"layout {layout!r}: unknown; known: {', '.join(READERS)}")
    reader = READERS[layout]
    if split not in reader.splits:
        raise InputError(f"split {split!r}: unknown; {layout} has {', '.join(reader.splits)}")
    root = resolve(root)
    for folder in ("captions", "image_splits") + ("images",) * images:
        if not (root / folder).is_dir():
            raise InputError(
                f"{root}: no folder {folder}/ in it{holds(root)}; the tree it should have is in data/README.md"
            )
    triplets, places = reader.read(root, split, categories)
    loaded = Split(layout, split, root, triplets, {category: list(names) for category, names in places.items()}, {})
    return _with_images(loaded, places, skip_missing) if images else loaded


def union(triplets: Iterable[Triplet]) -> list[str]:
    """Names of all reference and target images, each once, in order of appearance."""
    names = (name for triplet in triplets for name in (triplet.reference_name, triplet.target_name))
    return list(dict.fromkeys(name for name in names if name is not None))


def _with_images(split: Split, places: dict[str, Places], skip_missing: bool) -> Split:
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
