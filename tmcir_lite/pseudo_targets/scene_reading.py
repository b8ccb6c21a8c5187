"""What is at each place of an edited scene, read by drawing what could be there: no network judges."""

import dataclasses
import functools
import itertools
from typing import NamedTuple

import numpy as np
from PIL import Image

from tmcir_lite.data.drawn.photograph import SIZE, background, photograph
from tmcir_lite.data.scenes import COLOURS, PLACES, SHAPES, SIZES, Backdrop, Scene, Shot, Thing, draw_scene
from tmcir_lite.data.scenes.drawing import RGB

_OUTLINES = list(itertools.product(SHAPES, SIZES))
_LOOKS = [None, *((shape, colour, size) for shape, size in _OUTLINES for colour in COLOURS)]
_TOGETHER = ((0, 2, 6, 8), (1, 3, 5, 7), (4, 0))
"""Places that are drawn at once: no two side by side, where a large star's points may reach over."""
_ELSEWHERE = tuple((right, down, 0.0) for right in (-0.7, 0.0, 0.7) for down in (-0.7, 0.0, 0.7))
"""Where in its cell a new thing may lie as well: an editor cannot know where the world would have put it."""
_EDGES = np.rint(np.linspace(0, SIZE, 4)).astype(int)


class SceneReading(NamedTuple):
    """What a picture shows at each of the nine places: (shape, colour, size), or None; and whether that is sure.

    Let A be the drawing that comes nearest to the picture at a place, and B the nearest of another look. The reading is
    sure if the picture lies less than the share `unsure` of the way from A to B: blends and blurs are not.
    """

    looks: tuple[tuple[str, str, str] | None, ...]
    sure: tuple[bool, ...]


def read_scene(picture: Image.Image, reference: Shot, unsure: float) -> SceneReading:
    """Reads an edit of `reference`, place by place, by squared error against drawings before the known backdrop.

    A thing that is where the reference has nothing may lie anywhere in its cell.
    """
    pixels = np.asarray(picture, dtype=np.float32)
    backdrop, light = reference.backdrop, np.asarray(reference.backdrop.light, dtype=np.float32)
    empty, plain = (_empty(dataclasses.replace(backdrop, grain=grain)) for grain in (backdrop.grain, 0.0))
    paint = np.stack([np.minimum(np.asarray(RGB[colour], dtype=np.float32) * light, 255) for colour in COLOURS])
    own = _coverage(backdrop.jitter)
    looks, sure = [], []
    for place in range(len(PLACES)):
        cell = _cell(place)
        kinds = [own] if reference.scene.at(place) else [own, *(_coverage((j,) * len(PLACES)) for j in _ELSEWHERE)]
        cover = np.stack([kind[:, *cell] for kind in kinds]).reshape(len(kinds), len(_OUTLINES), 1, -1, 1)
        change = cover * (paint[:, None] - plain[cell].reshape(1, -1, 3))  # positions, outlines, colours, pixels, RGB
        change = change.reshape(len(kinds), len(_LOOKS) - 1, -1)
        change = np.concatenate([np.zeros_like(change[:, :1]), change], axis=1)
        off = (pixels[cell] - empty[cell]).ravel()
        errors = np.square(change - off).sum(-1)
        nearest = errors.min(0)
        best, second = np.argsort(nearest, kind="stable")[:2]
        one, other = (change[errors[:, look].argmin(), look] for look in (best, second))
        looks.append(_LOOKS[best])
        sure.append(bool(nearest[second] - nearest[best] > (1 - 2 * unsure) * np.square(one - other).sum()))
    return SceneReading(tuple(looks), tuple(sure))


def scene_backdrop_error(picture: Image.Image, reference: Shot, asked: Scene) -> float:
    """Root mean square error against the perfect edit in the cells that are empty before and after, in grey levels."""
    error = np.asarray(picture, np.float32) - np.asarray(Shot(asked, reference.backdrop).draw(), np.float32)
    cells = [error[_cell(p)].ravel() for p in range(len(PLACES)) if not (reference.scene.at(p) or asked.at(p))]
    return float(np.sqrt(np.square(np.concatenate(cells)).mean()))


def _cell(place: int) -> tuple[slice, slice]:
    row, column = divmod(place, 3)
    return slice(_EDGES[row], _EDGES[row + 1]), slice(_EDGES[column], _EDGES[column + 1])


def _empty(backdrop: Backdrop) -> np.ndarray:
    return np.asarray(photograph(background(backdrop), backdrop), dtype=np.float32)


@functools.lru_cache(maxsize=16)
def _coverage(jitter: tuple) -> np.ndarray:
    """For each shape and size how much of each pixel it covers (0 to 1), (8, 64, 64), the nine places side by side."""
    dark = Backdrop((0, 0, 0), (0, 0, 0), 0.0, jitter, (1.0, 1.0, 1.0), 0.0, 0)
    covered = np.zeros((len(_OUTLINES), SIZE, SIZE), dtype=np.float32)
    for number, (shape, size) in enumerate(_OUTLINES):
        for places in _TOGETHER:
            drawn = draw_scene(Scene(tuple(Thing(shape, "white", size, place) for place in places)), dark)
            for place in places:
                covered[number][_cell(place)] = np.asarray(drawn, dtype=np.float32)[_cell(place)][..., 0]
    return covered / RGB["white"][0]
