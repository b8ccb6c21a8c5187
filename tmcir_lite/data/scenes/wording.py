"""What people say of a scene: texts that ask for an edit, and captions, in varied wording."""

import random
from itertools import combinations
from typing import Any, NamedTuple

from tmcir_lite.data.drawn.words import listed
from tmcir_lite.data.scenes.edits import SceneEdit
from tmcir_lite.data.scenes.objects import LOOKS, Scene, Thing

WORDS = {
    "red": ("red",), "orange": ("orange",), "yellow": ("yellow",), "green": ("green",), "blue": ("blue",),
    "purple": ("purple", "violet"), "black": ("black",), "white": ("white",),
    "small": ("small", "little"), "large": ("large", "big"),
    "circle": ("circle", "disc"), "ring": ("ring",), "bar": ("bar", "beam"), "cross": ("cross", "plus"),
}  # fmt: skip
"""Value -> its words. No word stands for two values."""

PLACE_WORDS = (
    ("top left", "top left corner", "upper left"),
    ("top middle", "top centre", "middle of the top row"),
    ("top right", "top right corner", "upper right"),
    ("middle left", "centre left", "middle of the left side"),
    ("centre", "center", "middle of the picture"),
    ("middle right", "centre right", "middle of the right side"),
    ("bottom left", "bottom left corner", "lower left"),
    ("bottom middle", "bottom centre", "middle of the bottom row"),
    ("bottom right", "bottom right corner", "lower right"),
)
"""Place -> what it is called, after "at the", "in the" or "to the". ("At the top" alone could be the whole row.)"""

_ANYTHING = ("object", "thing", "shape")  # where the shape is not said

_TEMPLATES = {
    "colour": (
        "make {x} {v}", "{x} is {v} now", "change the colour of {x} to {v}", "change the color of {x} to {v}",
        "paint {x} {v}", "{x} should be {v}", "{x} turns {v}", "give {x} a {v} colour", "i want {x} in {v}",
    ),
    "small": (
        "make {x} {v}", "{x} is {v} now", "make {x} smaller", "shrink {x}", "{x} should be {v}", "{x} gets smaller",
        "a smaller version of {x}",
    ),
    "large": (
        "make {x} {v}", "{x} is {v} now", "make {x} bigger", "enlarge {x}", "{x} should be {v}", "{x} grows",
        "a larger version of {x}",
    ),
    "shape": (
        "turn {x} into a {v}", "{x} becomes a {v}", "{x} is a {v} now", "change the shape of {x} to a {v}",
        "make {x} a {v}", "replace {x} with a {v} of the same colour and size", "{x} should be a {v}",
    ),
    "move": (
        "move {x} to the {v}", "{x} goes to the {v}", "{x} is at the {v} now", "shift {x} to the {v}",
        "{x} has moved to the {v}", "bring {x} to the {v}", "{x} should be in the {v}",
    ),
    "add": (
        "add {x} at the {v}", "put {x} in the {v}", "there is also {x} at the {v}", "with {x} in the {v}",
        "place {x} at the {v}", "{x} appears in the {v}", "{x} has been added at the {v}",
    ),
    "remove": (
        "remove {x}", "take {x} away", "without {x}", "{x} is gone", "delete {x}", "get rid of {x}", "take away {x}",
    ),
    "swap": (
        "swap {x} and {y}", "{x} and {y} trade places", "exchange {x} and {y}", "{x} and {y} have changed places",
        "switch {x} with {y}", "let {x} and {y} swap positions", "put {x} where {y} is and the other way round",
    ),
}  # fmt: skip
"""Kind of edit (a size: its new value) -> sentences: x and y are things, v is the new value."""

_BEFORE = ("",) * 7 + ("same but ", "the same picture but ", "the same scene, but ")


class Mention(NamedTuple):
    """How a text names one thing."""

    text: str
    named: dict[str, Any]
    """What is said of it: some of shape, colour, size and place."""


class Request(NamedTuple):
    """A text that asks for an edit, and how it names the things that the edit concerns, in the order of its places."""

    text: str
    mentions: tuple[Mention, ...]


def refers(scene: Scene, **named) -> tuple[Thing, ...]:
    """The things of a scene of which all that is named holds: some of `shape`, `colour`, `size` and `place`."""
    return tuple(t for t in scene.things if all(getattr(t, name) == value for name, value in named.items()))


def request(rng: random.Random, edit: SceneEdit) -> Request:
    """A text that asks for the edit and for no other: it singles out each thing, and says what becomes of it."""
    if edit.kind == "add":
        look = {name: getattr(edit.value, name) for name in LOOKS}
        mentions = (Mention(_indefinite(_noun_phrase(rng, look)), {**look, "place": edit.value.place}),)
    else:
        mentions = tuple(mention(rng, edit.source, edit.source.at(place)) for place in edit.places)
    words = {"x": mentions[0].text, "y": mentions[-1].text, "v": _value_word(rng, edit)}
    template = rng.choice(_TEMPLATES[edit.value if edit.kind == "size" else edit.kind])
    text = template.format(**words).replace(" a orange", " an orange")
    return Request(rng.choice(_BEFORE) + text, mentions)


def _value_word(rng: random.Random, edit: SceneEdit) -> str:
    if edit.kind in ("move", "add"):
        return rng.choice(PLACE_WORDS[edit.value if edit.kind == "move" else edit.value.place])
    return rng.choice(WORDS[edit.value]) if edit.kind in LOOKS else ""


def mention(rng: random.Random, scene: Scene, thing: Thing) -> Mention:
    """Names a thing so that no other of the scene can be meant: mostly by no more than it takes, or by its place."""
    enough = sufficient(scene, thing)
    if not enough or rng.random() < 0.25:
        named = {look: getattr(thing, look) for look in rng.choice(((), ("shape",), ("shape",), ("colour", "shape")))}
        text = f"the {_noun_phrase(rng, named)} {rng.choice(('at', 'in'))} the {rng.choice(PLACE_WORDS[thing.place])}"
        return Mention(text, {**named, "place": thing.place})
    least = [looks for looks in enough if not any(set(other) < set(looks) for other in enough)]
    looks = rng.choice(least if rng.random() < 0.7 else enough)
    named = {look: getattr(thing, look) for look in looks}
    return Mention(f"the {_noun_phrase(rng, named)}", named)


def sufficient(scene: Scene, thing: Thing) -> list[tuple[str, ...]]:
    """The sets of attributes, the place not among them, that single a thing out; none if another looks the same."""
    sets = [looks for count in range(1, len(LOOKS) + 1) for looks in combinations(LOOKS, count)]
    return [looks for looks in sets if len(refers(scene, **{look: getattr(thing, look) for look in looks})) == 1]


def describe_scene(rng: random.Random, scene: Scene, share: float = 1.0, detail: float = 1.0) -> str:
    """A caption: things in random order, such as "a large red circle at the top left and a cross below it".

    Args:
        share: the chance that a thing is mentioned; one always is.
        detail: the chance that each attribute of a mentioned thing is said, and that its place is; else it may be said
            where another thing lies from it. With 1 for both the caption fits no other scene.
    """
    things = [thing for thing in scene.things if rng.random() < share] or [rng.choice(scene.things)]
    rng.shuffle(things)
    parts = [_indefinite(_described(rng, scene, thing, detail)) for thing in things]
    text = listed(parts)
    return rng.choice(("", "", "", "there is ", "a picture of ", "i see ")) + text


def _described(rng: random.Random, scene: Scene, thing: Thing, detail: float) -> str:
    said = {look: getattr(thing, look) for look in LOOKS if rng.random() < detail}
    said = said or {look: getattr(thing, look) for look in ("colour", "shape")}
    noun = _noun_phrase(rng, said)
    if rng.random() < detail:
        return f"{noun} {rng.choice(('at', 'in'))} the {rng.choice(PLACE_WORDS[thing.place])}"
    others = [other for other in scene.things if other != thing and sufficient(scene, other)]
    if not others or rng.random() < 0.5:
        return noun
    other = rng.choice(others)
    look = rng.choice(sufficient(scene, other))
    return f"{noun} {relation(thing, other)} the {_noun_phrase(rng, {name: getattr(other, name) for name in look})}"


def relation(one: Thing, other: Thing) -> str:
    """Where the first lies, seen from the second: "left of", "above", "below and to the right of"."""
    (row, column), (other_row, other_column) = divmod(one.place, 3), divmod(other.place, 3)
    upright = "" if row == other_row else "above" if row < other_row else "below"
    sideways = "" if column == other_column else "left of" if column < other_column else "right of"
    return f"{upright} and to the {sideways}" if upright and sideways else upright or sideways


def _noun_phrase(rng: random.Random, named: dict[str, str]) -> str:
    """Words such as "large red circle", or "red object" where the shape is not named."""
    words = [rng.choice(WORDS[named[look]]) for look in ("size", "colour", "shape") if look in named]
    return " ".join(words if "shape" in named else [*words, rng.choice(_ANYTHING)])


def _indefinite(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
