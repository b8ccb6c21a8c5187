"""Edits read back by drawing: who copies achieves nothing, who edits perfectly achieves all, blends are unsure."""

import numpy as np
import pytest
from PIL import Image

from tmcir_lite.data.garments import draw, outside
from tmcir_lite.pseudo_targets.quality import backdrop_error, quality_table, read_edits, read_garment, sample_edits

EDITS = sample_edits(12, seed=5)


def rows_of(pictures):
    return read_edits((ref, perfect.garment, made) for (ref, perfect, _), made in zip(EDITS, pictures, strict=True))


def blend(share):
    return [Image.blend(reference.draw(), perfect.draw(), share) for reference, perfect, _ in EDITS]


def test_perfect_edits_achieve_and_keep_everything():
    rows = rows_of(perfect.draw() for _, perfect, _ in EDITS)
    assert rows["right"].all()
    assert (rows["backdrop"] == 0).all()


def test_copies_keep_everything_and_achieve_nothing():
    rows = rows_of(reference.draw() for reference, *_ in EDITS)
    assert not rows[rows["asked"]]["right"].any()
    assert rows[~rows["asked"]]["right"].all()


def test_half_way_is_unsure_and_counts_as_not_achieved():
    rows = rows_of(blend(0.5))
    single = rows[(rows["changes"] == 1) & rows["asked"]]
    assert len(single)
    assert not single["right"].any()
    assert single["sure"].mean() < 0.5  # half-way from short to long may well be medium


def test_nine_tenths_of_the_way_is_sure():
    assert rows_of(blend(0.9))["right"].all()


def test_noise_does_not_disturb_the_reading():
    rng = np.random.default_rng(0)
    for reference, perfect, _ in EDITS:
        noisy = np.clip(np.asarray(perfect.draw()) + rng.normal(0, 15, (64, 64, 3)), 0, 255).astype(np.uint8)
        reading = read_garment(Image.fromarray(noisy), [reference.garment], perfect.nuisance)
        assert reading.garment == perfect.garment


def test_outside_is_where_another_garment_colour_changes_nothing():
    picture = EDITS[0][0]
    shown = np.asarray(draw(picture.garment, picture.nuisance))
    where = outside(picture.garment, picture.nuisance)
    assert 0.1 < where.mean() < 0.9
    for _, other, _ in EDITS[1:4]:
        apart = where & outside(other.garment, picture.nuisance)
        assert (np.asarray(draw(other.garment, picture.nuisance))[apart] == shown[apart]).all()


def test_backdrop_error_is_in_grey_levels():
    reference, perfect, _ = EDITS[0]
    lighter = np.clip(np.asarray(reference.draw()).astype(int) + 3, 0, 255).astype(np.uint8)
    assert backdrop_error(Image.fromarray(lighter), reference, perfect.garment) == pytest.approx(3, abs=0.2)


def test_the_table_has_a_row_for_each_attribute_and_in_all():
    table = quality_table(rows_of(blend(0.9))).set_index("which")
    assert table.loc["all", "achieved %"].startswith("100.0 (")
    assert table.loc["all", "unsure %"].startswith("0.0 (")
    assert {"type", "neckline", "1 change", "3 changes"} <= set(table.index)
