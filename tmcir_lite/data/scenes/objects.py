"""What a scene is: two to four things on a grid of nine places, and the backdrop that a picture adds to them."""

import dataclasses
import hashlib
import random
from collections.abc import Iterable

SHAPES = ("circle", "ring", "bar", "cross")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
SIZES = ("small", "large")
PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
FEWEST, MOST = 2, 4  # things in a scene

LOOKS = {"shape": SHAPES, "colour": COLOURS, "size": SIZES}
"""Attribute of a thing -> its values; the place is kept apart."""

HELD_OUT = (
    ("red", "cross"), ("green", "circle"), ("yellow", "bar"), ("purple", "ring"), ("black", "cross"),
)  # fmt: skip
"""Five of the 32 pairs of colour and shape that no picture of the train split shows: a model has to put them together
from what it knows of each. Every colour and every shape occurs in train with others."""

SLOTS = tuple(f"{place} {look}" for place in PLACES for look in LOOKS)


@dataclasses.dataclass(frozen=True)
class Thing:
    """One object; `place` counts from 0, row by row, see `PLACES`."""

    shape: str
    colour: str
    size: str
    place: int

    @property
    def look(self) -> tuple[str, str, str]:
        """Shape, colour and size: all that moves along when it moves."""
        return self.shape, self.colour, self.size

    @property
    def held_out(self) -> bool:
        """True for a pair of colour and shape that only the val split shows."""
        return (self.colour, self.shape) in HELD_OUT


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a picture shows; the things are in the order of their places, however they are given.

    Raises:
        ValueError: too few or too many things, or two at one place.
    """

    things: tuple[Thing, ...]

    def __post_init__(self):
        things = tuple(sorted(self.things, key=lambda thing: thing.place))
        if not FEWEST <= len(things) <= MOST or len({thing.place for thing in things}) < len(things):
            raise ValueError(f"{things}: a scene has {FEWEST} to {MOST} things, each at a place of its own")
        object.__setattr__(self, "things", things)

    @property
    def pretraining(self) -> bool:
        """True if this scene may be shown in pretraining, false if it belongs to the CIR splits.

        Half of all scenes each, by a fixed hash. (The last bit of a CRC would not do: it is linear, so that one and the
        same edit would change the half always or never.)
        """
        key = "/".join(f"{thing.place} {' '.join(thing.look)}" for thing in self.things)
        return hashlib.blake2b(key.encode(), digest_size=1).digest()[0] % 2 == 0

    @property
    def held_out(self) -> bool:
        """True if a thing in it has a pair of colour and shape that only the val split shows."""
        return any(thing.held_out for thing in self.things)

    @property
    def empty(self) -> list[int]:
        """The places with nothing in them."""
        taken = {thing.place for thing in self.things}
        return [place for place in range(len(PLACES)) if place not in taken]

    def at(self, place: int) -> Thing | None:
        """The thing at a place."""
        return next((thing for thing in self.things if thing.place == place), None)

    def slots(self) -> dict[str, str | None]:
        """Every slot, such as "top left shape", with its value; None where the place is empty."""
        shown = [self.at(place) for place in range(len(PLACES))]
        values = [getattr(thing, look) if thing else None for thing in shown for look in LOOKS]
        return dict(zip(SLOTS, values, strict=True))

    def differences(self, other: "Scene") -> tuple[str, ...]:
        """The slots in which the two differ."""
        mine, others = self.slots(), other.slots()
        return tuple(slot for slot in SLOTS if mine[slot] != others[slot])

    def change(self, without: Iterable[int] = (), new: Iterable[Thing] = ()) -> "Scene":
        """The scene without what is at some places, and with new things."""
        return Scene((*(thing for thing in self.things if thing.place not in without), *new))


@dataclasses.dataclass(frozen=True)
class Backdrop:
    """How a scene was photographed: nothing here is ever named by a text."""

    background: tuple[int, int, int]
    gradient: tuple[int, int, int]  # added to the background across the picture
    direction: float  # of the gradient, in degrees
    jitter: tuple[tuple[float, float, float], ...]  # at each place: right and down within its cell, turn in degrees
    light: tuple[float, float, float]  # factor on each channel
    grain: float  # standard deviation of the noise, in grey levels
    seed: int  # of the noise


def sample_scene(rng: random.Random, pretraining: bool, held_out: bool = True) -> Scene:
    """A scene of one half (see `Scene.pretraining`), any number of things as often.

    Args:
        held_out: False leaves out the scenes with a held-out pair of colour and shape.
    """
    while True:
        places = rng.sample(range(len(PLACES)), rng.randint(FEWEST, MOST))
        scene = Scene(tuple(sample_thing(rng, place) for place in places))
        if scene.pretraining == pretraining and (held_out or not scene.held_out):
            return scene


def sample_thing(rng: random.Random, place: int) -> Thing:
    """A thing at a place."""
    return Thing(**{look: rng.choice(values) for look, values in LOOKS.items()}, place=place)


def sample_backdrop(rng: random.Random) -> Backdrop:
    """A backdrop drawn afresh; dull enough that every colour of a thing stands out from it."""
    grey, brightness, warmth = rng.randrange(112, 178), rng.uniform(0.9, 1.06), rng.uniform(-0.03, 0.03)
    return Backdrop(
        background=tuple(grey + rng.randrange(-15, 16) for _ in range(3)),
        gradient=tuple(rng.randrange(-18, 19) for _ in range(3)),
        direction=rng.uniform(0, 360),
        jitter=tuple((rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(-10, 10)) for _ in PLACES),
        light=(brightness + warmth, brightness, brightness - warmth),
        grain=rng.uniform(0, 5),
        seed=rng.randrange(2**31),
    )
