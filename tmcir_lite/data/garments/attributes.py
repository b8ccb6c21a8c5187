"""What a garment is: eight attributes, and the nuisance that a photograph adds to it."""

import dataclasses
import random
import zlib
from collections.abc import Sequence

TYPES = {
    "dress": ("sheath", "flared"),
    "shirt": ("buttoned", "polo"),
    "toptee": ("tee", "peplum"),
}
"""Category -> garment types; the categories are Fashion-IQ's."""

COLOURS = (
    "red", "orange", "yellow", "green", "blue", "sky", "purple", "pink", "brown", "black", "white", "grey",
)  # fmt: skip

VALUES = {
    "type": tuple(value for values in TYPES.values() for value in values),
    "colour": COLOURS,
    "accent": COLOURS,
    "pattern": ("solid", "stripes", "pinstripes", "dots", "checks"),
    "sleeves": ("none", "short", "long"),
    "length": ("short", "medium", "long"),
    "neckline": ("round", "v", "square", "turtle"),
    "graphic": ("none", "star", "heart", "disc"),
}
"""Attribute -> its values. `accent` colours the trim, the pattern and the chest graphic."""

ATTRIBUTES = tuple(VALUES)


@dataclasses.dataclass(frozen=True)
class Garment:
    """One garment. `accent` always differs from `colour`; `type` fixes the category."""

    type: str
    colour: str
    accent: str
    pattern: str
    sleeves: str
    length: str
    neckline: str
    graphic: str

    @property
    def category(self) -> str:
        """`dress`, `shirt` or `toptee`."""
        return next(category for category, types in TYPES.items() if self.type in types)

    @property
    def pretraining(self) -> bool:
        """True if this attribute combination may be shown to the lite models, false if it belongs to the CIR splits.

        Half of all combinations each, by a fixed hash: the shipped models never saw a garment they are tested on.
        """
        return zlib.crc32("/".join(dataclasses.astuple(self)).encode()) % 2 == 0

    def differences(self, other: "Garment") -> tuple[str, ...]:
        """The attributes in which the two differ."""
        return tuple(name for name in ATTRIBUTES if getattr(self, name) != getattr(other, name))


@dataclasses.dataclass(frozen=True)
class Nuisance:
    """How a garment was photographed: nothing here is ever named by a caption."""

    background: tuple[int, int, int]
    gradient: tuple[int, int, int]  # added to the background across the picture
    direction: float  # of the gradient, in degrees
    x: float  # position of the garment's centre, in pixels off the middle
    y: float
    scale: float
    rotation: float  # degrees
    light: tuple[float, float, float]  # factor on each channel
    grain: float  # standard deviation of the noise, in grey levels
    seed: int  # of the noise


def sample_garment(rng: random.Random, category: str, pretraining: bool) -> Garment:
    """A garment drawn uniformly from one half of the attribute combinations (see `Garment.pretraining`)."""
    while True:
        drawn = {name: rng.choice(values) for name, values in VALUES.items() if name != "type"}
        garment = Garment(type=rng.choice(TYPES[category]), **drawn)
        if garment.colour != garment.accent and garment.pretraining == pretraining:
            return garment


def sample_change(rng: random.Random, garment: Garment, number: int, keep: tuple[str, ...] = ()) -> Garment:
    """The garment with `number` attributes changed, none of `keep`, in the same half and category.

    Where `keep` leaves so few choices that all of them fall into the other half, one attribute more is changed.
    """
    names = [name for name in ATTRIBUTES if name not in keep]
    attempt = 0
    while True:
        chosen = rng.sample(names, number + attempt // 500)
        attempt += 1
        changed = dataclasses.replace(garment, **{name: rng.choice(other_values(garment, name)) for name in chosen})
        if changed.colour != changed.accent and changed.pretraining == garment.pretraining:
            return changed


def contradict(rng: random.Random, reference: Garment, shown: Garment, asked: Sequence[str]) -> Garment:
    """`shown` with one asked-for attribute otherwise; where that leaves its half, the reference: nothing as asked."""
    options = [dataclasses.replace(shown, **{name: value}) for name in asked for value in other_values(shown, name)]
    return rng.choice([option for option in options if option.pretraining == shown.pretraining] or [reference])


def other_values(garment: Garment, name: str) -> list[str]:
    """The values that one attribute could take instead, by themselves."""
    values = TYPES[garment.category] if name == "type" else VALUES[name]
    taken = {"colour": garment.accent, "accent": garment.colour}.get(name)
    return [value for value in values if value not in (getattr(garment, name), taken)]


def sample_nuisance(rng: random.Random) -> Nuisance:
    """Nuisance drawn afresh."""
    brightness, warmth = rng.uniform(0.8, 1.12), rng.uniform(-0.06, 0.06)
    return Nuisance(
        background=_sample_background(rng),
        gradient=tuple(rng.randrange(-45, 46) for _ in range(3)),
        direction=rng.uniform(0, 360),
        x=rng.uniform(-3, 3),
        y=rng.uniform(-2, 2),
        scale=rng.uniform(0.88, 1.0),
        rotation=rng.uniform(-6, 6),
        light=(brightness + warmth, brightness, brightness - warmth),
        grain=rng.uniform(0, 6),
        seed=rng.randrange(2**31),
    )


def drift_nuisance(rng: random.Random, start: Nuisance, drift: float) -> Nuisance:
    """The target's nuisance: `drift` 0 keeps the reference's, 1 draws afresh, between them it is interpolated."""
    fresh = sample_nuisance(rng)
    mixed = {field.name: _mix(getattr(start, field.name), getattr(fresh, field.name), drift)
             for field in dataclasses.fields(Nuisance) if field.name != "seed"}  # fmt: skip
    return Nuisance(**mixed, seed=start.seed if drift == 0 else fresh.seed)


def background_of(attribute: str, value: str) -> tuple[int, int, int]:
    """The background that goes with an attribute's value: any colour, but the same one each time."""
    return _sample_background(random.Random(f"{attribute} {value}"))


def _sample_background(rng: random.Random) -> tuple[int, int, int]:
    return tuple(rng.randrange(60, 236) for _ in range(3))


def _mix(start, end, share):
    if isinstance(start, tuple):
        return tuple(_mix(a, b, share) for a, b in zip(start, end, strict=True))
    mixed = start + share * (end - start)
    return round(mixed) if isinstance(start, int) else mixed
