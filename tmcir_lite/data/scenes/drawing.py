"""From a scene and its backdrop to a 64x64 RGB picture, with Pillow at twice the size."""

import math

from PIL import Image, ImageDraw

from tmcir_lite.data.drawn.photograph import CANVAS, background, photograph
from tmcir_lite.data.scenes.objects import Backdrop, Scene, Thing

_CELL = CANVAS / 3
_RADIUS = {"small": 12.0, "large": 19.0}  # canvas pixels
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
    elif thing.shape == "ring":
        paint.ellipse((x - radius, y - radius, x + radius, y + radius), outline=fill, width=round(0.42 * radius))
    else:
        across = [(1.1, 0.4)] if thing.shape == "bar" else [(1.1, 0.36), (0.36, 1.1)]
        for wide, high in across:
            paint.polygon(_box(x, y, radius * wide, radius * high, math.radians(turn)), fill=fill)


def _box(x: float, y: float, wide: float, high: float, turn: float) -> list[tuple[float, float]]:
    """Corners of an upright box about (x, y), of half these sizes, after a turn."""
    cos, sin = math.cos(turn), math.sin(turn)
    corners = ((wide, high), (-wide, high), (-wide, -high), (wide, -high))
    return [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in corners]
