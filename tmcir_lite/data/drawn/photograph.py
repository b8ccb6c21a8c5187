"""What every drawn picture shares, whatever it shows: the background before it, light and grain after it."""

import math

import numpy as np
from PIL import Image

SIZE = 64
CANVAS = 2 * SIZE
"""Pictures are drawn at twice the size."""

_GRID = np.stack(np.meshgrid(np.linspace(-0.5, 0.5, SIZE), np.linspace(-0.5, 0.5, SIZE))).astype(np.float32)


def background(nuisance) -> Image.Image:
    """A canvas to draw on, by the `background`, `gradient` and `direction` of a nuisance."""
    angle = math.radians(nuisance.direction)
    ramp = _GRID[0] * math.cos(angle) + _GRID[1] * math.sin(angle)
    colours = np.asarray(nuisance.background, np.float32) + ramp[..., None] * np.asarray(nuisance.gradient, np.float32)
    return Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8)).resize((CANVAS, CANVAS), Image.Resampling.NEAREST)


def photograph(picture: Image.Image, nuisance) -> Image.Image:
    """Halves the size of a canvas, then applies the `light` and `grain` of a nuisance."""
    pixels = np.asarray(picture.reduce(2), dtype=np.float32) * np.asarray(nuisance.light, dtype=np.float32)
    if nuisance.grain > 0:
        noise = np.random.Generator(np.random.PCG64(nuisance.seed)).standard_normal((SIZE, SIZE, 1), dtype=np.float32)
        pixels = pixels + nuisance.grain * noise
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
