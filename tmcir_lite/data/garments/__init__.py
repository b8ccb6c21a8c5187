"""The garment world: small drawn pictures whose every attribute is known, in the layouts of real CIR datasets."""

from tmcir_lite.data.garments.attributes import (
    ATTRIBUTES,
    TYPES,
    VALUES,
    Garment,
    Nuisance,
    other_values,
    sample_change,
    sample_garment,
    sample_nuisance,
)
from tmcir_lite.data.garments.captions import describe, relative_caption, relative_captions
from tmcir_lite.data.garments.drawing import SIZE, draw, outside
from tmcir_lite.data.garments.world import CATEGORIES, Picture, World, build_world, read_attributes

__all__ = [
    "ATTRIBUTES", "CATEGORIES", "SIZE", "TYPES", "VALUES", "Garment", "Nuisance", "Picture", "World", "build_world",
    "describe", "draw", "other_values", "outside", "read_attributes", "relative_caption", "relative_captions",
    "sample_change", "sample_garment", "sample_nuisance",
]  # fmt: skip
