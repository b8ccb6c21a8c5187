"""The world of scenes: several things in a picture, and texts that say which of them changes; in CIRR's layout."""

from tmcir_lite.data.scenes.drawing import draw_scene
from tmcir_lite.data.scenes.edits import KINDS, SceneEdit, edit_between, possible_edits, sample_edit, sample_twin
from tmcir_lite.data.scenes.objects import (
    COLOURS,
    HELD_OUT,
    LOOKS,
    PLACES,
    SHAPES,
    SIZES,
    SLOTS,
    Backdrop,
    Scene,
    Thing,
    sample_backdrop,
    sample_scene,
)
from tmcir_lite.data.scenes.wording import WORDS, Mention, Request, describe_scene, mention, refers, request
from tmcir_lite.data.scenes.world import SceneQuery, SceneWorld, Shot, build_scenes, read_edits, read_scenes

__all__ = [
    "COLOURS", "HELD_OUT", "KINDS", "LOOKS", "PLACES", "SHAPES", "SIZES", "SLOTS", "WORDS", "Backdrop", "Mention", "Request",
    "Scene", "SceneEdit", "SceneQuery", "SceneWorld", "Shot", "Thing", "build_scenes", "describe_scene", "draw_scene",
    "edit_between", "mention", "possible_edits", "read_edits", "read_scenes", "refers", "request", "sample_backdrop",
    "sample_edit", "sample_scene", "sample_twin",
]  # fmt: skip
