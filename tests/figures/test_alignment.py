"""What the notebooks look at, on the tiny run."""

import pandas as pd
import pytest
import torch

from tmcir_lite.data.garments import ATTRIBUTES, VALUES
from tmcir_lite.figures import alignment, plots
from tmcir_lite.io.processes import pick_device
from tmcir_lite.pseudo_targets import compare
from tmcir_lite.pseudo_targets.editors import load_editor
from tmcir_lite.run.data import known_attributes, prepare_data
from tmcir_lite.run.models import load_start


@pytest.fixture(scope="module")
def data(cfg):
    return prepare_data(cfg)


@pytest.fixture(scope="module")
def known(data):
    return known_attributes(data.train)


def test_confusions_count_every_picture_once_for_each_attribute(cfg, data):
    tables = alignment.attribute_confusions(load_start(cfg), data.val, count=10)
    assert list(tables) == list(ATTRIBUTES)
    for name, table in tables.items():
        assert tuple(table.index) == tuple(table.columns) == VALUES[name]
        assert table.to_numpy().sum() == 10
    assert plots.confusions(tables).axes[0].get_title().startswith("type: ")


def test_a_backbone_that_knows_all_has_only_a_diagonal(cfg, data, monkeypatch):
    """Features that are one-hot in the description: the picture's own description is the nearest."""
    words = {}

    def code(texts):
        rows = [words.setdefault(text, len(words)) for text in texts]
        return torch.nn.functional.one_hot(torch.tensor(rows), 5000).float()

    def describe(_, garment):
        return repr(garment)

    known = known_attributes(data.val)
    name_of = {path: name for name, path in data.val.images.items()}
    monkeypatch.setattr(alignment, "describe", describe)
    monkeypatch.setattr(alignment, "encode_texts", lambda _, texts: code(texts))
    monkeypatch.setattr(alignment, "encode_images",
                        lambda _, paths: code([repr(known[name_of[p]].garment) for p in paths]))  # fmt: skip
    for table in alignment.attribute_confusions(None, data.val, count=10).values():
        assert table.to_numpy().diagonal().sum() == 10


def test_best_and_worst_are_by_number_of_right_attributes():
    rows = pd.DataFrame({"edit": [0, 0, 1, 1, 2, 2], "right": [True, False, True, True, True, False]})
    assert compare.best_and_worst(rows, 2) == ([1, 0], [0, 2])


def test_differences_tell_pseudo_target_from_real_target(cfg, data, known):
    triplets = data.train.triplets[:5]
    rows = compare.read_pseudo_targets(cfg.run_dir / "pseudo_targets", known, triplets)
    table = compare.differences(known, data.train, triplets, rows)
    assert list(table.index) == ["pseudo-target", "perfect edit", "real target"]
    backdrop = table["change of backdrop (grey levels)"]
    assert backdrop["perfect edit"] == 0
    assert backdrop["real target"] > 10  # nuisance_drift 1: a new backdrop


def test_sweep_has_a_row_for_each_setting(cfg, data, known):
    editor = load_editor(cfg.editor, pick_device("cpu"))
    settings = [cfg.editor, cfg.editor.model_copy(update={"steps": 2})]
    table = compare.sweep(editor, settings, known, data.train, data.train.triplets[:3])
    assert table["steps"].tolist() == [1, 2]
    assert table[["made %", "kept %"]].stack().between(0, 100).all()


def test_real_pictures_have_no_perfect_edit(data):
    assert compare.perfect_edit(None, data.train.triplets[0]) is None
