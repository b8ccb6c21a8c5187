"""Is a real dataset complete? Counts beside the published ones, missing pictures by split, and where to get them."""

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from tmcir_lite.config import Config
from tmcir_lite.data.captions import join_captions
from tmcir_lite.data.datasets import Split, load_split
from tmcir_lite.data.layouts import READERS
from tmcir_lite.io.files import InputError, resolve, sha256

PUBLISHED = {
    "fashioniq": {"train": (18000, 46609), "val": (6016, 15536), "test": (6118, 15538)},
    "cirr": {"train": (28225, 16939), "val": (4181, 2297), "test1": (4148, 2315)},
}
"""Layout -> split -> (triplets, names in the split files; Fashion-IQ: summed over its categories)."""


def check_data(cfg: Config) -> tuple[str, bool]:
    """Looks at every split of the profile's dataset, decoding every picture that it needs.

    Returns:
        A report of some lines, and whether train and val can be used as they are.

    Raises:
        InputError: the folder is not there, or an annotation file is broken.
    """
    root, layout = resolve(cfg.data.root), cfg.data.layout
    if not root.is_dir() and cfg.drawn:
        raise InputError(f"data.root: {root}: not drawn yet; `python -m tmcir_lite data` with this profile draws it")
    if not root.is_dir():
        raise InputError(f"data.root: {root}: no such folder; data/README.md says how to get {layout} and what "
                         "its tree is; data.root may also name a folder elsewhere")  # fmt: skip
    lines, usable, skipping = [f"{layout} in {root}"], True, True
    published = PUBLISHED[layout] if not cfg.drawn else {}
    for name in READERS[layout].splits:
        needed = name in ("train", "val")
        try:
            split = load_split(root, layout, name, cfg.data.categories, images=False)
        except InputError as error:
            lines.append(f"  {name}: {'' if needed else 'not there, and only needed for a submission: '}{error}")
            usable &= not needed
            skipping &= not needed
            continue
        lines.append(f"  {name}: {_counts(split, published.get(name))}")
        pictures, complete, some = _pictures(split, cfg.data.categories)
        lines += [f"    {line}" for line in (*pictures, *_captions(split))]
        usable &= complete or not needed
        skipping &= some or not needed
    lines.append(f"  free disk for the run: {shutil.disk_usage(_existing(resolve(cfg.runs))).free / 1e9:.0f} GB")
    if not usable:
        lines.append("not usable as it is; data/README.md says where the files are to be had, and on what terms"
                     + ("; data.skip_missing: true goes on without what is missing" if skipping else ""))  # fmt: skip
    return "\n".join(lines), usable


def _counts(split: Split, published: tuple[int, int] | None) -> str:
    found = (len(split.triplets), sum(map(len, split.galleries.values())))
    text = f"{found[0]} triplets, {found[1]} images in the split files"
    if published is None or found == published:
        return text + (" (as published)" if published else "")
    return text + f"; published: {published[0]} and {published[1]}"


def _pictures(split: Split, categories) -> tuple[list[str], bool, bool]:
    """Lines, whether no picture is missing, and whether something is left without those that are."""
    try:
        loaded = load_split(split.root, split.layout, split.name, categories, skip_missing=True)
    except InputError as error:
        return str(error).splitlines(), False, False
    missing = [line for line in loaded.skipped if line.startswith("image ")]
    lost = len(split.triplets) - len(loaded.triplets)
    found = Counter(path.suffix for path in loaded.images.values())
    lines = [f"{sum(found.values())} pictures can be decoded ({', '.join(f'{n} {s}' for s, n in found.items())}), "
             f"{len(missing)} are missing or broken, which takes {lost} triplets along"]  # fmt: skip
    lines += missing[:5] + ([f"... and {len(missing) - 5} more"] if len(missing) > 5 else [])
    return lines + _suspect(loaded.images.values()), not missing, True


def _suspect(paths: Iterable[Path]) -> list[str]:
    """What can be decoded and yet is hardly the picture that it should be, as some hosts answer for a lost one."""
    specks, by_size = [], defaultdict(list)
    for path in paths:
        with Image.open(path) as image:  # reads the head of the file only
            if max(image.size) == 1:
                specks.append(path)
        by_size[path.stat().st_size].append(path)
    same = defaultdict(list)
    for path in (path for group in by_size.values() if len(group) > 1 for path in group):
        same[sha256(path)].append(path)
    copies = [group for group in same.values() if len(group) > 1]
    lines = []
    if specks:
        lines.append(f"{len(specks)} pictures are 1x1, such as {specks[0]}")
    if copies:
        one, other = max(copies, key=len)[:2]
        lines.append(f"{sum(map(len, copies))} pictures are identical to another, byte for byte, such as {one} "
                     f"and {other}")  # fmt: skip
    return lines


def _captions(split: Split) -> list[str]:
    empty = [triplet.id for triplet in split.triplets if not join_captions(triplet.captions, "and")]
    if not empty:
        return []
    return [f"{len(empty)} queries have no words at all: {', '.join(empty[:5])}; the empty text is what is encoded"]


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
