"""Which words name a thing, and whether their best patch lies on it."""

import random

import pytest
import torch

from tmcir_lite.data.scenes import KINDS, SceneQuery, request, sample_edit, sample_scene
from tmcir_lite.evaluation.pointing import naming_words, place_of_patch, pointing

RED_CIRCLE, CROSS = {"colour": "red", "shape": "circle"}, {"shape": "cross"}


def test_words_name_shape_colour_and_size_and_not_the_new_value():
    query = SceneQuery("colour", (4,), ({"size": "large", **RED_CIRCLE},))
    words = ["make", "the", "big", "red", "disc", "blue"]
    assert naming_words(words, query) == [(2, 4), (3, 4), (4, 4)]
    assert naming_words(["turn", "the", "cross", "into", "a", "cross"], SceneQuery("shape", (1,), (CROSS,))) == [(2, 1)]


def test_of_two_things_the_first_is_named_first():
    query = SceneQuery("swap", (7, 2), (RED_CIRCLE, {"colour": "blue", "shape": "circle"}))
    words = ["swap", "the", "red", "circle", "and", "the", "blue", "circle"]
    assert naming_words(words, query) == [(2, 7), (3, 7), (6, 2), (7, 2)]


def test_a_thing_that_is_to_be_added_is_nowhere_yet():
    assert (
        naming_words(["add", "a", "red", "circle", "at", "the", "top", "left"], SceneQuery("add", (0,), (RED_CIRCLE,)))
        == []
    )


def test_every_naming_word_of_the_world_is_found():
    rng = random.Random(0)
    for kind in [kind for kind in KINDS if kind != "add"] * 30:
        edit = sample_edit(rng, sample_scene(rng, pretraining=True), kind)
        if edit is None:
            continue
        asked = request(rng, edit)
        query = SceneQuery(kind, edit.places, tuple(mention.named for mention in asked.mentions))
        named = [look for mention in asked.mentions for look in mention.named if look != "place"]
        assert len(naming_words(asked.text.replace(",", " ,").split(), query)) == len(named), asked.text


@pytest.mark.parametrize(("patch", "place"), [(0, 0), (7, 2), (3, 1), (27, 4), (36, 4), (56, 6), (63, 8), (31, 5)])
def test_the_place_of_a_patch_among_eight_by_eight(patch, place):
    assert place_of_patch(patch, (8, 8)) == place


def test_pointing_by_hand():
    query = SceneQuery("colour", (0,), (RED_CIRCLE,))
    best = [torch.tensor([63, 0, 9, 63, 63])]  # of make, the, red, circle, blue
    assert pointing(best, [["make", "the", "red", "circle", "blue"]], [query], (8, 8)) == [True, False]
