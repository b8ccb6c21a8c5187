"""Edited scenes read back by drawing: perfect edits of every kind are right, what is not edited achieves nothing."""

import dataclasses
import random

import numpy as np
import pytest
from PIL import Image

from tmcir_lite.data.scenes import KINDS, Shot, sample_backdrop, sample_edit, sample_scene
from tmcir_lite.pseudo_targets.quality import backdrop_error, quality_table, read_edits


def sample_edits(each):
    """(source shot, edit) of every kind."""
    rng, edits = random.Random(0), []
    for kind in KINDS * each:
        edit = None
        while edit is None:
            edit = sample_edit(rng, sample_scene(rng, pretraining=False), kind)
        edits.append((Shot(edit.source, sample_backdrop(rng)), edit))
    return edits


EDITS = sample_edits(6)
PERFECT = [Shot(edit.target, source.backdrop).draw() for source, edit in EDITS]


def rows_of(pictures):
    return read_edits((s, edit.target, made) for (s, edit), made in zip(EDITS, pictures, strict=True))


def shares(pictures):
    table = quality_table(rows_of(pictures)).set_index("which")
    assert list(table.index) == [*KINDS, "all"]
    return table.map(lambda text: float(text.split()[0]))


def test_perfect_edits_of_every_kind_are_all_right():
    table = shares(PERFECT)
    assert (table.drop(columns="unsure %") == 100).all(axis=None)
    assert (table["unsure %"] == 0).all()
    assert (rows_of(PERFECT)["backdrop"] == 0).all()


def test_the_source_itself_keeps_everything_and_achieves_nothing():
    table = shares([source.draw() for source, _ in EDITS])
    assert (table[["achieved %", "all right %"]] == 0).all(axis=None)
    assert (table["kept %"] == 100).all()


def test_half_way_is_unsure_and_counts_as_not_achieved():
    table = shares([Image.blend(s.draw(), made, 0.5) for (s, _), made in zip(EDITS, PERFECT, strict=True)])
    assert table.loc["colour", "achieved %"] == 0
    assert table.loc["all", "unsure %"] > 2


def test_a_new_thing_may_lie_anywhere_in_its_cell():
    pictures = []
    for source, edit in EDITS:
        moved = [(0.5, -0.4, turn) if source.scene.at(place) is None else (right, down, turn)
                 for place, (right, down, turn) in enumerate(source.backdrop.jitter)]  # fmt: skip
        pictures.append(Shot(edit.target, dataclasses.replace(source.backdrop, jitter=tuple(moved))).draw())
    assert shares(pictures).loc["all", "achieved %"] > 95


def test_noise_does_not_disturb_the_reading():
    rng = np.random.default_rng(0)
    noisy = [np.clip(np.asarray(made) + rng.normal(0, 12, (64, 64, 3)), 0, 255).astype(np.uint8) for made in PERFECT]
    assert shares([Image.fromarray(pixels) for pixels in noisy]).loc["all", "all right %"] > 95


def test_what_else_changes_is_not_kept():
    rng = random.Random(1)
    number, (source, edit) = next((n, pair) for n, pair in enumerate(EDITS) if pair[1].kind == "add")
    other = sample_edit(rng, source.scene, "colour").target
    rows = read_edits([(source, edit.target, Shot(other, source.backdrop).draw())])
    lost = rows[~rows["asked"] & ~rows["right"]]
    assert list(lost["attribute"]) == list(source.scene.differences(other))


def test_backdrop_error_is_in_grey_levels():
    source, edit = EDITS[0]
    lighter = np.clip(np.asarray(PERFECT[0]).astype(int) + 3, 0, 255).astype(np.uint8)
    assert backdrop_error(Image.fromarray(lighter), source, edit.target) == pytest.approx(3, abs=0.2)
