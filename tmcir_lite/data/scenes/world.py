"""The world of scenes on disk, in CIRR's layout, deterministic by seed."""

import dataclasses
import json
import random
from pathlib import Path
from typing import NamedTuple

from tmcir_lite.data.drawn.folders import (
    IMG_SET,
    append_lines,
    build_folder,
    cirr_record,
    member_names,
)
from tmcir_lite.data.scenes.drawing import draw_scene
from tmcir_lite.data.scenes.edits import KINDS, SceneEdit, edit_between, sample_edit, sample_twin
from tmcir_lite.data.scenes.objects import Backdrop, Scene, Thing, sample_backdrop, sample_scene
from tmcir_lite.data.scenes.wording import Request, request
from tmcir_lite.io.files import InputError, write_json

_TWINS = 2  # of the five edits of a group, how many are the same change made to another thing
_MOST_PAIRS = 6  # of a group: one in four starts elsewhere, so that the other five are all edits of its source


class Shot(NamedTuple):
    """What it takes to draw a picture of a scene."""

    scene: Scene
    backdrop: Backdrop

    def draw(self):
        """The 64x64 RGB picture."""
        return draw_scene(self.scene, self.backdrop)


class SceneQuery(NamedTuple):
    """What `edits.jsonl` keeps of a query."""

    kind: str
    places: tuple[int, ...]
    """Of the things that change, as they are in the reference; see `SceneEdit.places`."""
    named: tuple[dict, ...]
    """What the text says of each of them, in the same order."""


@dataclasses.dataclass(frozen=True)
class SceneWorld:
    """Size and rules of a world of scenes.

    An img_set is a scene and five edits of it, of which two make the same change as another to another thing. Three of
    four pairs have the first scene as their reference, so that the picture alone does not say what is wanted; the
    others lead from one member to another, also back to the first. No scene occurs twice, in train and val together,
    and none with a held-out pair of colour and shape (`HELD_OUT`) in train. Val does not hang on the size of train. A
    query is well-posed: the text singles out every thing that it names in the reference, and fixes what becomes of it.
    """

    seed: int
    train: int
    """Queries."""
    val: int
    train_pairs: int = 4
    """Queries that share an img_set."""
    val_pairs: int = 2


def build_scenes(world: SceneWorld, root: Path) -> None:
    """Writes the world below `root`, or does nothing if it is there already.

    Beside CIRR's files stand `attributes.jsonl` (see `read_scenes`) and `edits.jsonl` (see `read_edits`).

    Raises:
        InputError: the settings are impossible, or the folder holds a world with other ones.
    """
    for name, least, most in (("train", 1, None), ("val", 1, None), ("train_pairs", 1, _MOST_PAIRS),
                              ("val_pairs", 1, _MOST_PAIRS)):  # fmt: skip
        value = getattr(world, name)
        if value < least or most and value > most:
            raise InputError(f"scenes.{name} is {value}; give {f'{least} to {most}' if most else 'one or more'}")
    build_folder(world, root, lambda partial: _write(world, partial), "a world of scenes", "scenes.root")


def read_scenes(root: Path) -> dict[str, Shot]:
    """Image name -> what it shows, from the side file of the world's folder."""
    shots = {}
    for record in _lines(Path(root) / "attributes.jsonl"):
        kept = {**record["nuisance"], "jitter": tuple(map(tuple, record["nuisance"]["jitter"]))}
        backdrop = Backdrop(**{name: tuple(v) if isinstance(v, list) else v for name, v in kept.items()})
        shots[record["name"]] = Shot(Scene(tuple(Thing(**thing) for thing in record["scene"])), backdrop)
    return shots


def read_edits(root: Path) -> dict[str, SceneQuery]:
    """Pair id, as `Triplet.id` has it -> its edit, from the side file of the world's folder."""
    return {str(record["pairid"]): SceneQuery(record["kind"], tuple(record["places"]), tuple(record["named"]))
            for record in _lines(Path(root) / "edits.jsonl")}  # fmt: skip


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write(world: SceneWorld, root: Path) -> dict[Path, Shot]:
    rng, seen = random.Random(world.seed), set()
    drawn: dict[Path, Shot] = {}
    pairid = 0
    for split, prefix, count, together in (  # val first, so that it is the same however large train is
        ("val", "dev", world.val, world.val_pairs), ("train", "train", world.train, world.train_pairs)
    ):  # fmt: skip
        records, places, shots, edits = [], {}, {}, []
        for group, start in enumerate(range(0, count, together)):
            scenes = _img_set(rng, seen, held_out=split == "val")
            names = member_names(prefix, group)
            for reference, target, edit in _pairs(rng, scenes, min(together, count - start)):
                asked = request(rng, edit)
                records.append(cirr_record(pairid, group, names, reference, target, asked.text))
                edits.append(_edit_record(pairid, edit, asked))
                pairid += 1
            shots |= {name: Shot(scene, sample_backdrop(rng)) for name, scene in zip(names, scenes, strict=True)}
        places = {name: f"./{prefix}/{name}.png" for name in shots}
        write_json(root / "captions" / f"cap.rc2.{split}.json", records)
        write_json(root / "image_splits" / f"split.rc2.{split}.json", places)
        append_lines(root / "attributes.jsonl", (_shot_record(*named) for named in shots.items()))
        append_lines(root / "edits.jsonl", edits)
        drawn |= {root / "images" / places[name]: shot for name, shot in shots.items()}
    return drawn


def _img_set(rng: random.Random, seen: set[Scene], held_out: bool) -> list[Scene]:
    """A scene, in any place, and five edits of it; all new, and from now on `seen`."""

    def fits(scene: Scene) -> bool:
        return scene not in seen and scene not in scenes and (held_out or not scene.held_out)

    while True:
        scenes = []
        source = sample_scene(rng, pretraining=False, held_out=held_out)
        if not fits(source):
            continue
        scenes.append(source)
        edits: list[SceneEdit] = []
        for number, kind in enumerate(rng.sample(KINDS, IMG_SET - 1)):
            twin = number >= IMG_SET - 1 - _TWINS and sample_twin(rng, edits[number - IMG_SET + 1 + _TWINS], fits)
            edit = twin or sample_edit(rng, source, kind, fits) or sample_edit(rng, source, fits=fits)
            if edit is None:
                break
            edits.append(edit)
            scenes.append(edit.target)
        if len(scenes) == IMG_SET:
            seen.update(scenes)
            return scenes


def _pairs(rng: random.Random, scenes: list[Scene], count: int) -> list[tuple[int, int, SceneEdit]]:
    """(reference, target, edit) of the queries of one img_set, and the members put into random order beforehand."""
    source = scenes[0]
    rng.shuffle(scenes)
    known = [(one, other, edit_between(scenes[one], scenes[other]))
             for one in range(IMG_SET) for other in range(IMG_SET) if one != other]  # fmt: skip
    known = [pair for pair in known if pair[2]]
    first = [pair for pair in known if scenes[pair[0]] == source]
    others = [pair for pair in known if scenes[pair[0]] != source]
    elsewhere = count // 4
    return rng.sample(first, count - elsewhere) + rng.sample(others, elsewhere)


def _edit_record(pairid: int, edit: SceneEdit, asked: Request) -> dict:
    named = [mention.named for mention in asked.mentions]
    return {"pairid": pairid, "kind": edit.kind, "places": edit.places, "named": named}


def _shot_record(name: str, shot: Shot) -> dict:
    things = [dataclasses.asdict(thing) for thing in shot.scene.things]
    return {"name": name, "scene": things, "nuisance": dataclasses.asdict(shot.backdrop)}
