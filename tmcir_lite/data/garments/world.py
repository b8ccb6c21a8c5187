"""The garment world on disk: in Fashion-IQ's layout and in CIRR's, deterministic by seed."""

import dataclasses
import itertools
import json
import random
from pathlib import Path
from typing import NamedTuple

from tmcir_lite.data.drawn.folders import IMG_SET, append_lines, build_folder, cirr_record, member_names
from tmcir_lite.data.garments.attributes import (
    ATTRIBUTES,
    TYPES,
    Garment,
    Nuisance,
    background_of,
    contradict,
    drift_nuisance,
    other_values,
    sample_change,
    sample_garment,
    sample_nuisance,
)
from tmcir_lite.data.garments.captions import describe, relative_caption, relative_captions
from tmcir_lite.data.garments.drawing import draw
from tmcir_lite.io.files import InputError, write_json

CATEGORIES = tuple(TYPES)
_CHANGES = (1, 2, 2, 3)  # number of attributes a query asks to change, drawn uniformly
_VARIANT = (1, 2, 3)  # number of attributes in which a reference differs from its family's garment


class Picture(NamedTuple):
    """What it takes to draw a picture."""

    garment: Garment
    nuisance: Nuisance

    def draw(self):
        """The 64x64 RGB picture."""
        return draw(self.garment, self.nuisance)


@dataclasses.dataclass(frozen=True)
class World:
    """Size and rules of a garment world; see `notebooks/params/lite.yaml` for the meaning of each.

    A query is well-posed: in a gallery no two pictures share all attributes, and the relative captions together
    name every changed attribute, each in words that fix its new value (unless `unasked_change` or `contradiction` > 0).

    As in a shop, garments come in families: the references of `family` queries are variants of one garment, so that a
    target has many near-duplicates beside it in the gallery.
    """

    seed: int
    train: int
    val: int
    gallery: int
    cirr_train: int
    cirr_val: int
    family: int
    nuisance_drift: float = 1.0
    unasked_change: float = 0.0
    contradiction: float = 0.0
    background_by_text: float = 0.0
    full_captions: float = 0.0

    def captions(self, rng: random.Random, reference: Garment, asked: Garment) -> tuple[str, str]:
        """Two annotators' captions."""
        if self.full_captions and rng.random() < self.full_captions:
            return describe(rng, asked), describe(rng, asked)
        return relative_captions(rng, reference, asked)

    def target(self, rng: random.Random, reference: Picture) -> tuple[Garment, Picture]:
        """A target for the reference: what the captions say (a garment), and the picture that is taken of it."""
        asked = sample_change(rng, reference.garment, rng.choice(_CHANGES))
        shown, changed = asked, reference.garment.differences(asked)
        if rng.random() < self.unasked_change:
            shown = sample_change(rng, asked, 1, keep=changed)
        if self.contradiction and rng.random() < self.contradiction:  # 0 draws nothing: that world stays what it was
            shown = contradict(rng, reference.garment, shown, changed)
        nuisance = drift_nuisance(rng, reference.nuisance, self.nuisance_drift)
        if self.background_by_text and rng.random() < self.background_by_text:
            nuisance = dataclasses.replace(nuisance, background=background_of(changed[0], getattr(asked, changed[0])))
        return asked, Picture(shown, nuisance)


def build_world(world: World, root: Path) -> None:
    """Writes the world below `root` (`fashioniq/` and `cirr/`), or does nothing if it is there already.

    Raises:
        InputError: the folder holds a world with other parameters.
    """

    def write(partial: Path) -> dict[Path, Picture]:
        rng = random.Random(world.seed)
        return _fashioniq(world, rng, partial / "fashioniq") | _cirr(world, rng, partial / "cirr")

    build_folder(world, root, write, "a garment world", "garments.root")


def read_attributes(root: Path) -> dict[str, Picture]:
    """Image name -> what it shows, from the side file of one layout's folder."""
    pictures = {}
    for line in (Path(root) / "attributes.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        nuisance = {k: tuple(v) if isinstance(v, list) else v for k, v in record["nuisance"].items()}
        pictures[record["name"]] = Picture(Garment(**record["garment"]), Nuisance(**nuisance))
    return pictures


def _fashioniq(world: World, rng: random.Random, root: Path) -> dict[Path, Picture]:
    drawn: dict[Path, Picture] = {}
    for number, category in enumerate(CATEGORIES):
        train = list(itertools.islice(_queries(world, rng, category), _share(world.train, number)))
        val, distractors = _val_triplets(world, rng, category, _share(world.val, number))
        for split, triplets, others in (("train", train, []), ("val", val, distractors)):
            names = _names(rng, f"{category[0].upper()}{split[0].upper()}", 2 * len(triplets) + len(others))
            records, pictures = [], {}
            for reference, target, captions in triplets:
                candidate, answer = names.pop(), names.pop()
                pictures |= {candidate: reference, answer: target}
                records.append({"target": answer, "candidate": candidate, "captions": list(captions)})
            pictures |= {names.pop(): picture for picture in others}
            write_json(root / "captions" / f"cap.{category}.{split}.json", records)
            write_json(root / "image_splits" / f"split.{category}.{split}.json", sorted(pictures))
            _write_attributes(root, pictures)
            drawn |= {root / "images" / f"{name}.png": picture for name, picture in pictures.items()}
    return drawn


def _share(total: int, number: int) -> int:
    return total // len(CATEGORIES) + (number < total % len(CATEGORIES))


def _names(rng: random.Random, prefix: str, count: int) -> list[str]:
    """Image ids in random order, so that an id says nothing about its role."""
    names = [f"G{prefix}{number:07d}" for number in range(count)]
    rng.shuffle(names)
    return names


def _queries(world, rng, category):
    """Endless (reference, target, captions); `world.family` in a row have variants of one garment as references."""
    while True:
        base = sample_garment(rng, category, pretraining=False)
        for _ in range(world.family):
            reference = Picture(sample_change(rng, base, rng.choice(_VARIANT)), sample_nuisance(rng))
            asked, target = world.target(rng, reference)
            yield reference, target, world.captions(rng, reference.garment, asked)


def _val_triplets(world, rng, category, count):
    """Queries and distractors; every distractor is one attribute off a target, and no garment comes twice."""
    if world.gallery < 2 * count:
        raise InputError(
            f"garments.gallery is {world.gallery}, but {category} has {count} val queries with a reference "
            f"and a target each: give at least {2 * count}"
        )
    triplets, seen = [], set()
    for triplet in _queries(world, rng, category):
        if len(triplets) == count:
            break
        garments = {triplet[0].garment, triplet[1].garment}
        if not garments & seen:
            seen |= garments
            triplets.append(triplet)
    distractors = []
    while len(distractors) < world.gallery - 2 * count:
        near = sample_change(rng, triplets[len(distractors) % count][1].garment, 1)
        if near not in seen:
            seen.add(near)
            distractors.append(Picture(near, sample_nuisance(rng)))
        elif seen >= _one_off(triplets[len(distractors) % count][1].garment):
            raise InputError(f"garments.gallery is {world.gallery}, but around the targets of {category}'s {count} val "
                             f"queries there are not so many garments: give at most {2 * count + len(distractors)}, or "
                             "more garments.val")  # fmt: skip
    return triplets, distractors


def _one_off(garment: Garment) -> set[Garment]:
    """What `sample_change` can make of a garment by one change."""
    changed = (dataclasses.replace(garment, **{name: value}) for name in ATTRIBUTES for value in
               other_values(garment, name))  # fmt: skip
    return {other for other in changed if other.pretraining == garment.pretraining}


def _cirr(world: World, rng: random.Random, root: Path) -> dict[Path, Picture]:
    drawn: dict[Path, Picture] = {}
    pairid = 0
    for split, prefix, count in (("train", "train", world.cirr_train), ("val", "dev", world.cirr_val)):
        records, paths, seen = [], {}, set()
        for group in range((count + 1) // 2):  # two queries a group
            pictures = _near_duplicates(rng, seen)
            names = member_names(prefix, group)
            for _ in range(min(2, count - 2 * group)):
                reference, target = rng.sample(range(IMG_SET), 2)
                caption = relative_caption(rng, pictures[reference].garment, pictures[target].garment)
                records.append(cirr_record(pairid, group, names, reference, target, caption))
                pairid += 1
            for name, picture in zip(names, pictures, strict=True):
                paths[name] = f"./{prefix}/{name}.png"
                drawn[root / "images" / paths[name]] = picture
            _write_attributes(root, dict(zip(names, pictures, strict=True)))
        write_json(root / "captions" / f"cap.rc2.{split}.json", records)
        write_json(root / "image_splits" / f"split.rc2.{split}.json", paths)
    return drawn


def _near_duplicates(rng: random.Random, seen: set[Garment]) -> list[Picture]:
    """Six pictures; each shows the first one's garment, or it with one or two attributes changed."""
    base = sample_garment(rng, rng.choice(CATEGORIES), pretraining=False)
    while base in seen:
        base = sample_garment(rng, rng.choice(CATEGORIES), pretraining=False)
    garments = [base]
    seen.add(base)
    while len(garments) < IMG_SET:
        near = sample_change(rng, base, rng.choice((1, 2)))
        if near not in seen:
            seen.add(near)
            garments.append(near)
    rng.shuffle(garments)
    return [Picture(garment, sample_nuisance(rng)) for garment in garments]


def _write_attributes(root: Path, pictures: dict[str, Picture]) -> None:
    append_lines(
        root / "attributes.jsonl",
        ({"name": name, "garment": dataclasses.asdict(garment), "nuisance": dataclasses.asdict(nuisance)}
         for name, (garment, nuisance) in pictures.items()),
    )  # fmt: skip
