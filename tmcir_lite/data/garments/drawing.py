"""From attributes and nuisance to a 64x64 RGB picture, with Pillow at twice the size."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tmcir_lite.data.drawn.photograph import CANVAS, SIZE, background, photograph
from tmcir_lite.data.garments.attributes import Garment, Nuisance

_UNIT = 31.0  # pixels (of the final picture) from the garment's centre to the edge of its own [-1, 1] square

RGB = {
    "red": (205, 30, 40), "orange": (245, 130, 25), "yellow": (248, 218, 50), "green": (40, 145, 65),
    "blue": (35, 70, 190), "sky": (125, 195, 240), "purple": (120, 50, 165), "pink": (245, 140, 185),
    "brown": (115, 70, 40), "black": (28, 28, 32), "white": (243, 243, 243), "grey": (140, 140, 146),
}  # fmt: skip

_SHOULDER = -0.72  # height of the shoulders; y points down
_HALF = 0.44  # half the width of the body
_HEM = {"dress": {"short": 0.3, "medium": 0.62, "long": 0.96}, "top": {"short": 0.22, "medium": 0.56, "long": 0.9}}
_CHEST = (0.0, -0.02)  # where the graphic sits


def draw(garment: Garment, nuisance: Nuisance) -> Image.Image:
    """Draws one picture, (64, 64) RGB. The same arguments give the same pixels."""
    place = _Placement(nuisance)
    picture = background(nuisance)
    picture.paste(_cloth(garment, place), mask=_silhouette(garment, place))
    return photograph(picture, nuisance)


def outside(garment: Garment, nuisance: Nuisance) -> np.ndarray:
    """Where the picture of a garment shows background only, bool (64, 64); pixels on the edge are left out."""
    silhouette = _silhouette(garment, _Placement(nuisance)).filter(ImageFilter.MaxFilter(5)).reduce(2)
    return np.asarray(silhouette) == 0


def _outlines(garment: Garment):
    return [_body(garment), *_sleeves(garment)]


def _silhouette(garment: Garment, place: "_Placement") -> Image.Image:
    mask = Image.new("L", (CANVAS, CANVAS), 0)
    paint = ImageDraw.Draw(mask)
    for outline in _outlines(garment):
        paint.polygon(place(outline), fill=255)
    paint.polygon(place(_neck(garment)), fill=255 if garment.neckline == "turtle" else 0)
    return mask


class _Placement:
    """Garment coordinates, [-1, 1] with y down, to canvas pixels."""

    def __init__(self, nuisance: Nuisance):
        angle = math.radians(nuisance.rotation)
        unit = 2 * _UNIT * nuisance.scale
        self._cos, self._sin = unit * math.cos(angle), unit * math.sin(angle)
        self._x, self._y = SIZE + 2 * nuisance.x, SIZE + 2 * nuisance.y
        self.unit = unit

    def __call__(self, points):
        return [(self._x + x * self._cos - y * self._sin, self._y + x * self._sin + y * self._cos) for x, y in points]

    def disc(self, paint, centre, radius, fill):
        (x, y), r = self([centre])[0], radius * self.unit
        paint.ellipse((x - r, y - r, x + r, y + r), fill=fill)


def _hem(garment: Garment) -> float:
    return _HEM["dress" if garment.category == "dress" else "top"][garment.length]


def _body(garment: Garment):
    hem = _hem(garment)
    waist, flare = 0.0, _HALF
    if garment.type == "sheath":
        flare = 0.36
    elif garment.type == "flared":
        flare = 0.5 + 0.36 * (hem + 0.1)
    elif garment.type == "peplum":
        waist, flare = -0.02, 0.72
    pinch = 0.33 if garment.category == "dress" or garment.type == "peplum" else _HALF
    right = [(0.26, _SHOULDER - 0.05), (_HALF, _SHOULDER), (_HALF, _SHOULDER + 0.3), (pinch, waist), (flare, hem)]
    return right + [(-x, y) for x, y in reversed(right)]


def _band(body):
    """The strip along the hem, painted in the accent colour."""
    (waist_x, waist_y), (hem_x, hem_y) = body[3], body[4]
    top = hem_y - 0.11
    x = waist_x + (hem_x - waist_x) * (top - waist_y) / (hem_y - waist_y)
    return [(x, top), (hem_x, hem_y), (-hem_x, hem_y), (-x, top)]


def _sleeves(garment: Garment):
    if garment.sleeves == "none":
        return []
    right = (
        [(_HALF - 0.04, _SHOULDER), (0.62, _SHOULDER + 0.1), (0.88, -0.2), (0.66, -0.06), (_HALF - 0.04, -0.34)]
        if garment.sleeves == "short"
        else [(_HALF - 0.04, _SHOULDER), (0.62, _SHOULDER + 0.08), (0.95, 0.52), (0.73, 0.58), (_HALF - 0.04, -0.34)]
    )
    return [right, [(-x, y) for x, y in right]]


def _cuffs(garment: Garment):
    """The lower end of each sleeve, painted in the accent colour."""
    if garment.sleeves == "none":
        return []
    right = (
        [(0.88, -0.2), (0.66, -0.06), (0.62, -0.15), (0.83, -0.3)]
        if garment.sleeves == "short"
        else [(0.95, 0.52), (0.73, 0.58), (0.7, 0.45), (0.915, 0.39)]
    )
    return [right, [(-x, y) for x, y in right]]


def _neck(garment: Garment):
    top = _SHOULDER - 0.1
    if garment.neckline == "v":
        return [(-0.27, top), (0.27, top), (0.0, -0.26)]
    if garment.neckline == "square":
        return [(-0.27, top), (0.27, top), (0.25, -0.42), (-0.25, -0.42)]
    if garment.neckline == "turtle":
        return [(-0.2, -0.98), (0.2, -0.98), (0.24, _SHOULDER + 0.06), (-0.24, _SHOULDER + 0.06)]
    return [(0.27 * math.cos(a), top + 0.08 + 0.26 * math.sin(a)) for a in np.linspace(-0.3, math.pi + 0.3, 14)]


def _shade(colour, factor):
    return tuple(max(0, min(255, round(channel * factor))) for channel in colour)


def _cloth(garment: Garment, place: _Placement) -> Image.Image:
    """The painted fabric, to be cut out by the garment's silhouette."""
    outlines, neck = _outlines(garment), _neck(garment)
    main, accent = RGB[garment.colour], RGB[garment.accent]
    edge = _shade(main, 0.55) if sum(main) > 200 else (95, 95, 100)
    cloth = Image.new("RGB", (CANVAS, CANVAS), main)
    paint = ImageDraw.Draw(cloth)
    _PATTERNS[garment.pattern](paint, place, accent)
    hem = _hem(garment)
    paint.polygon(place(_band(outlines[0])), fill=accent)
    for cuff in _cuffs(garment):
        paint.polygon(place(cuff), fill=accent)
    for outline in outlines:
        paint.line([*place(outline), place(outline[:1])[0]], fill=edge, width=3)
    if garment.neckline == "turtle":
        paint.polygon(place(neck), fill=accent, outline=edge, width=2)
    else:
        paint.line([*place(neck), place(neck[:1])[0]], fill=accent, width=9)
    _graphic(garment, paint, place, main, accent)
    _front(garment, paint, place, hem, edge)
    return cloth


def _stripes(paint, place, accent):
    for y in np.arange(-0.95, 1.0, 0.26):
        paint.polygon(place([(-1, y), (1, y), (1, y + 0.11), (-1, y + 0.11)]), fill=accent)


def _pinstripes(paint, place, accent):
    for x in np.arange(-0.965, 1.0, 0.22):
        paint.polygon(place([(x, -1), (x + 0.09, -1), (x + 0.09, 1), (x, 1)]), fill=accent)


def _dots(paint, place, accent):
    for row, y in enumerate(np.arange(-0.85, 1.0, 0.24)):
        for x in np.arange(-0.98 + 0.14 * (row % 2), 1.0, 0.28):
            place.disc(paint, (x, y), 0.075, accent)


def _checks(paint, place, accent):
    side = 0.2
    for row, y in enumerate(np.arange(-1.0, 1.0, side)):
        for x in np.arange(-1.0 + side * (row % 2), 1.0, 2 * side):
            paint.polygon(place([(x, y), (x + side, y), (x + side, y + side), (x, y + side)]), fill=accent)


_PATTERNS = {
    "solid": lambda paint, place, accent: None,
    "stripes": _stripes,
    "pinstripes": _pinstripes,
    "dots": _dots,
    "checks": _checks,
}


def _front(garment, paint, place, hem, edge):
    """The button placket: the whole front of a buttoned shirt, or the upper front of a polo; painted last, to show."""
    if garment.category != "shirt":
        return
    top, bottom = _SHOULDER, hem if garment.type == "buttoned" else 0.02
    paint.polygon(place([(-0.06, top), (0.06, top), (0.06, bottom), (-0.06, bottom)]), fill=(250, 250, 245),
                  outline=edge, width=2)  # fmt: skip
    for y in np.arange(top + 0.36, bottom - 0.02, 0.19):
        place.disc(paint, (0, y), 0.04, (40, 40, 45))


def _graphic(garment, paint, place, main, accent):
    if garment.graphic == "none":
        return
    place.disc(paint, _CHEST, 0.31, main)
    if garment.graphic == "disc":
        place.disc(paint, _CHEST, 0.2, accent)
        return
    if garment.graphic == "star":
        radii = [0.27 if i % 2 == 0 else 0.11 for i in range(10)]
        angles = [math.pi * (i / 5 - 0.5) for i in range(10)]
        points = [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]
    else:
        turns = np.linspace(0, 2 * math.pi, 24)
        points = [
            (0.0155 * 16 * math.sin(t) ** 3, -0.0155 * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t)))
            for t in turns
        ]
    paint.polygon(place([(_CHEST[0] + x, _CHEST[1] + y) for x, y in points]), fill=accent)
