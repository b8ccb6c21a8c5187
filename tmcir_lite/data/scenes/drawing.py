"""From a scene and its backdrop to a 64x64 RGB picture, with Pillow at twice the size."""

import math

from PIL import Image, ImageDraw

from tmcir_lite.data.drawn.photograph import CANVAS, background, photograph
from tmcir_lite.data.scenes.objects import Backdrop, Scene, Thing

_CELL = CANVAS / 3
_RADIUS = {"small": 11.5, "large": 18.0}  # canvas pixels, of a circle with about the area of the other shapes
_JITTER = 5.0  # canvas pixels at most, and never out of the cell

RGB = {
    "red": (205, 25, 40), "orange": (245, 130, 20), "yellow": (250, 222, 45), "green": (20, 145, 50),
    "blue": (35, 75, 205), "purple": (135, 45, 170), "black": (22, 22, 26), "white": (248, 248, 248),
}  # fmt: skip


def draw_scene(scene: Scene, backdrop: Backdrop) -> Image.Image:
    """Draws one picture, (64, 64) RGB. The same arguments give the same pixels."""
    picture = background(backdrop)
    paint = ImageDraw.Draw(picture)
    for thing in scene.things:
        _draw_thing(paint, thing, *backdrop.jitter[thing.place])
    return photograph(picture, backdrop)


def _draw_thing(paint, thing: Thing, right: float, down: float, turn: float) -> None:
    radius = _RADIUS[thing.size]
    room = min(_JITTER, _CELL / 2 - radius)
    x = (thing.place % 3 + 0.5) * _CELL + right * room
    y = (thing.place // 3 + 0.5) * _CELL + down * room
    fill = RGB[thing.colour]
    if thing.shape == "circle":
        paint.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
        return
    paint.polygon([(x + radius * a, y + radius * b) for a, b in _outline(thing.shape, math.radians(turn))], fill=fill)


def _outline(shape: str, turn: float) -> list[tuple[float, float]]:
    """Corners about (0, 0), y down, for a circle of radius 1."""
    if shape == "square":
        radii, first = [1.3] * 4, -0.75
    elif shape == "triangle":
        radii, first = [1.26] * 3, -0.5
    else:
        radii, first = [1.26, 0.56] * 5, -0.5
    angles = [turn + math.pi * (first + 2 * i / len(radii)) for i in range(len(radii))]
    drop = 0.2 if shape == "triangle" else 0.0  # its middle lies low
    return [(r * math.cos(a), r * math.sin(a) + drop) for r, a in zip(radii, angles, strict=True)]
