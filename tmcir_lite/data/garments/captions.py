"""Descriptions of one garment, and relative captions between two, in varied wording."""

import random

from tmcir_lite.data.drawn.words import listed
from tmcir_lite.data.garments.attributes import ATTRIBUTES, Garment

_NOUNS = {
    "sheath": ("sheath dress", "straight dress", "fitted dress"),
    "flared": ("flared dress", "a-line dress", "full skirted dress"),
    "buttoned": ("button up shirt", "shirt with buttons all the way down", "buttoned shirt"),
    "polo": ("polo shirt", "polo", "shirt with a short placket"),
    "tee": ("t-shirt", "tee", "straight top"),
    "peplum": ("peplum top", "top with a flared waist", "peplum blouse"),
}

_COLOURS = {
    "red": ("red", "scarlet"), "orange": ("orange", "tangerine"), "yellow": ("yellow", "lemon"),
    "green": ("green", "dark green"), "blue": ("blue", "royal blue"), "sky": ("light blue", "sky blue"),
    "purple": ("purple", "violet"), "pink": ("pink", "rose"), "brown": ("brown", "chocolate"),
    "black": ("black", "jet black"), "white": ("white", "ivory"), "grey": ("grey", "gray"),
}  # fmt: skip

_HAS = {
    "pattern": {
        "solid": ("no pattern", "a plain fabric", "a solid color"),
        "stripes": ("horizontal stripes", "wide stripes across", "stripes going across"),
        "pinstripes": ("vertical stripes", "pinstripes", "stripes going down"),
        "dots": ("polka dots", "dots all over", "a dotted pattern"),
        "checks": ("checks", "a checkered pattern", "a plaid pattern"),
    },
    "sleeves": {
        "none": ("no sleeves", "bare arms", "a sleeveless cut"),
        "short": ("short sleeves", "sleeves to the elbow", "half sleeves"),
        "long": ("long sleeves", "full length sleeves", "sleeves to the wrist"),
    },
    "length": {
        "short": ("a short hem", "a cropped length", "a very short length"),
        "medium": ("a medium length", "a regular length", "a mid length hem"),
        "long": ("a long hem", "a long length", "an extra long cut"),
    },
    "neckline": {
        "round": ("a round neck", "a crew neck", "a scoop neckline"),
        "v": ("a v-neck", "a v shaped neckline", "a plunging neckline"),
        "square": ("a square neck", "a square neckline", "a boxy neckline"),
        "turtle": ("a turtleneck", "a high neck", "a collar up the neck"),
    },
    "graphic": {
        "none": ("no graphic", "nothing on the chest", "no print on the front"),
        "star": ("a star on it", "a star on the chest", "a star graphic"),
        "heart": ("a heart on it", "a heart on the chest", "a heart graphic"),
        "disc": ("a circle on it", "a circle on the chest", "a round graphic"),
    },
}
"""Attribute -> value -> what the garment "has" or comes "with". No phrase stands for two values."""

_COMPARATIVES = {
    ("sleeves", "short", "long"): ("longer sleeves",),
    ("sleeves", "long", "none"): ("the sleeves taken off",),
    ("neckline", "turtle", "round"): ("an open round neck",),
}
_IS_COMPARATIVE = {
    ("length", "short", "medium"): ("is slightly longer", "is a bit longer"),
    ("length", "short", "long"): ("is much longer", "is a lot longer"),
    ("length", "medium", "long"): ("is longer", "is longer in length"),
    ("length", "medium", "short"): ("is shorter", "is shorter in length"),
    ("length", "long", "medium"): ("is slightly shorter", "is a bit shorter"),
    ("length", "long", "short"): ("is much shorter", "is a lot shorter"),
}
"""Comparatives that name the new value without doubt, given the old one."""


def noun_phrases(garment: Garment, attribute: str) -> tuple[str, ...]:
    """Every wording of one attribute of a garment, to be used after "with" or "has" (colour and type excepted)."""
    value = getattr(garment, attribute)
    if attribute == "type":
        return _NOUNS[value]
    if attribute == "colour":
        return _COLOURS[value]
    if attribute == "accent":
        return tuple(f"{colour} {part}" for colour in _COLOURS[value] for part in ("trim", "details", "accents"))
    return _HAS[attribute][value]


def change_phrases(old: Garment, new: Garment, attribute: str) -> tuple[str, ...]:
    """Every wording of "this attribute of `old` becomes that of `new`", each a verb phrase ("is ...", "has ...")."""
    key = (attribute, getattr(old, attribute), getattr(new, attribute))
    nouns = noun_phrases(new, attribute)
    if attribute == "type":
        return tuple(f"is a {noun}" for noun in nouns)
    if attribute == "colour":
        was = _COLOURS[old.colour][0]
        return tuple(f"is {form}" for c in nouns for form in (c, f"{c} in color", f"{c} instead of {was}"))
    has = tuple(f"has {noun}" for noun in nouns + _COMPARATIVES.get(key, ()))
    return has + _IS_COMPARATIVE.get(key, ())


def describe(rng: random.Random, garment: Garment, attributes: tuple[str, ...] = ATTRIBUTES) -> str:
    """A description that names the given attributes, such as "a red polo shirt with long sleeves and a star on it"."""
    phrase = {name: rng.choice(noun_phrases(garment, name)) for name in attributes}
    noun = phrase.pop("type", garment.category if garment.category != "toptee" else "top")
    colour = phrase.pop("colour", "")
    rest = list(phrase.values())
    rng.shuffle(rest)
    if rng.random() < 0.3:
        return f"the {noun} {_sentence(rng, [f'is {colour}'] if colour else [], rest)}"
    article = "an" if (colour or noun)[0] in "aeiou" else "a"
    head = f"{article} {colour} {noun}".replace("  ", " ")
    return f"{head} with {listed(rest)}" if rest else head


def relative_captions(rng: random.Random, old: Garment, new: Garment) -> tuple[str, str]:
    """Two annotators' relative captions. Each names a part of the changed attributes, together they name all."""
    changed = list(old.differences(new))
    rng.shuffle(changed)
    who = [rng.choice(((0,), (1,), (0, 1))) for _ in changed]
    who[0] = who[0] if len(changed) > 1 else (0, 1)
    for annotator in (0, 1):
        if not any(annotator in names for names in who):
            who[rng.randrange(len(who))] = (0, 1)
    return tuple(_caption(rng, old, new, [a for a, names in zip(changed, who, strict=True) if annotator in names])
                 for annotator in (0, 1))  # fmt: skip


def relative_caption(rng: random.Random, old: Garment, new: Garment) -> str:
    """One annotator's relative caption that names every changed attribute."""
    changed = list(old.differences(new))
    rng.shuffle(changed)
    return _caption(rng, old, new, changed)


def _caption(rng, old, new, attributes):
    phrases = [rng.choice(change_phrases(old, new, name)) for name in attributes]
    has = [phrase.removeprefix("has ") for phrase in phrases if phrase.startswith("has ")]
    text = _sentence(rng, [phrase for phrase in phrases if phrase.startswith("is ")], has)
    return rng.choice(("", "", "", "", "", "", "it ", "the same but ")) + text


def _sentence(rng, is_parts, has_parts):
    """Verb phrases and nouns as one sentence: "is red and is longer with long sleeves and a star on it"."""
    if not is_parts or not has_parts:
        return listed(is_parts) or f"has {listed(has_parts)}"
    return f"{listed(is_parts)} {rng.choice(('with', 'and has'))} {listed(has_parts)}"
