"""A triplet's captions as one text."""

import itertools
import random
import unicodedata
from collections.abc import Sequence
from typing import get_args

from tmcir_lite.config import CaptionJoin
from tmcir_lite.io.files import InputError


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
