"""Seven kinds of edit, each of which makes one scene of another."""

import dataclasses
import functools
import itertools
import random
from collections.abc import Callable

from tmcir_lite.data.scenes.objects import COLOURS, FEWEST, LOOKS, MOST, SHAPES, SIZES, Scene, Thing

KINDS = ("colour", "size", "shape", "move", "add", "remove", "swap")


@dataclasses.dataclass(frozen=True)
class SceneEdit:
    """What is done to a scene: one of `KINDS`, where, and what becomes of it."""

    source: Scene
    kind: str
    places: tuple[int, ...]
    """Of the thing that changes, as it is in the source (`add`: the place that is filled); `swap` has two."""
    value: str | int | Thing | None
    """The new colour, size or shape; the place it moves to; the thing that is added; None for `remove` and `swap`."""

    @functools.cached_property
    def target(self) -> Scene:
        """The scene after the edit."""
        if self.kind == "add":
            return self.source.change(new=[self.value])
        things = [self.source.at(place) for place in self.places]
        if self.kind == "remove":
            new = []
        elif self.kind == "swap":
            new = [dataclasses.replace(a, place=b.place) for a, b in (things, things[::-1])]
        else:
            name = "place" if self.kind == "move" else self.kind
            new = [dataclasses.replace(things[0], **{name: self.value})]
        return self.source.change(self.places, new)


def possible_edits(scene: Scene, kind: str) -> list[SceneEdit]:
    """Every edit of one kind that a scene allows, in a fixed order."""
    things = scene.things
    if kind in LOOKS:
        found = [((t.place,), value) for t in things for value in LOOKS[kind] if value != getattr(t, kind)]
    elif kind == "move":
        found = [((t.place,), place) for t in things for place in scene.empty]
    elif kind == "add":
        looks = itertools.product(scene.empty, SHAPES, COLOURS, SIZES) if len(things) < MOST else ()
        found = [((place,), Thing(shape, colour, size, place)) for place, shape, colour, size in looks]
    elif kind == "remove":
        found = [((t.place,), None) for t in things if len(things) > FEWEST]
    else:
        found = [((a.place, b.place), None) for a, b in itertools.combinations(things, 2) if a.look != b.look]
    return [SceneEdit(scene, kind, places, value) for places, value in found]


def sample_edit(
    rng: random.Random, scene: Scene, kind: str | None = None, fits: Callable[[Scene], bool] = lambda target: True
) -> SceneEdit | None:
    """An edit within the scene's half whose target `fits`, of the given kind or any; None where there is none."""
    for chosen in [kind] if kind else rng.sample(KINDS, len(KINDS)):
        if found := _first_fit(rng, possible_edits(scene, chosen), fits):
            return found
    return None


def sample_twin(
    rng: random.Random, edit: SceneEdit, fits: Callable[[Scene], bool] = lambda target: True
) -> SceneEdit | None:
    """The same change made to another thing of the scene: who does not read which one is meant takes it for the edit.

    For `add` it is the same thing at another place. None where there is none.
    """
    return _first_fit(rng, [e for e in possible_edits(edit.source, edit.kind) if _is_twin(edit, e)], fits)


def _is_twin(one: SceneEdit, other: SceneEdit) -> bool:
    if one.kind == "add":
        return one.value.look == other.value.look and one.places != other.places
    return one.value == other.value and one.places != other.places


def _first_fit(rng, edits, fits):
    rng.shuffle(edits)
    return next((e for e in edits if e.target.pretraining == e.source.pretraining and fits(e.target)), None)


def edit_between(source: Scene, target: Scene) -> SceneEdit | None:
    """The edit that makes one scene of the other; None where that takes more than one. No two edits do the same."""
    gone = [thing for thing in source.things if thing not in target.things]
    new = [thing for thing in target.things if thing not in source.things]
    if (len(gone), len(new)) == (0, 1):
        return SceneEdit(source, "add", (new[0].place,), new[0])
    if (len(gone), len(new)) == (1, 0):
        return SceneEdit(source, "remove", (gone[0].place,), None)
    if len(gone) == len(new) == 1:
        return _change_between(source, gone[0], new[0])
    if len(gone) == len(new) == 2:
        edit = SceneEdit(source, "swap", (gone[0].place, gone[1].place), None)
        return edit if edit.target == target else None
    return None


def _change_between(source: Scene, old: Thing, new: Thing) -> SceneEdit | None:
    changed = [name for name in ("place", *LOOKS) if getattr(old, name) != getattr(new, name)]
    if len(changed) > 1:
        return None
    kind = "move" if changed == ["place"] else changed[0]
    return SceneEdit(source, kind, (old.place,), getattr(new, changed[0]))
