"""What notebook 2 shows of pseudo-targets, on the world of scenes as on garments (tests/figures), and its profile."""

import random

import pytest
import torch

from tmcir_lite.config import load_config
from tmcir_lite.data.pictures import load_image
from tmcir_lite.io.files import InputError
from tmcir_lite.pseudo_targets import compare, quality
from tmcir_lite.pseudo_targets.editors import load_editor
from tmcir_lite.run.data import known_attributes, known_contents, prepare_data
from tmcir_lite.study.known_edits import draw_known_edits, known_edit


@pytest.fixture(scope="module")
def settings(tmp_path_factory, editor_folder):
    """A tiny world of scenes with an untrained editor."""
    root = tmp_path_factory.mktemp("scenes")
    return load_config("scenes", [
        f"runs={root}", f"scenes.root={root}/world", f"data.root={root}/world", "data.cache=null", "device=cpu",
        "scenes.train=80", "scenes.val=12", "data.heldout=0.1", f"editor.model={editor_folder}",
    ])  # fmt: skip


@pytest.fixture(scope="module")
def data(settings):
    return prepare_data(settings)


@pytest.fixture(scope="module")
def known(data):
    return known_attributes(data.train)


def test_known_contents_are_the_scenes_of_the_pictures(data, known):
    assert known_contents(data.train) == {name: shot.scene for name, shot in known.items()}


def test_perfect_edits_are_drawn_and_read_back_right(data, known, tmp_path):
    triplets = data.train.triplets[:20]
    for triplet in triplets:
        compare.perfect_edit(known, triplet).save(tmp_path / f"{triplet.id}.png")
    rows = compare.read_pseudo_targets(tmp_path, known, triplets)
    assert rows["right"].all()
    assert quality.quality_table(rows).set_index("which").loc["all", "achieved %"].startswith("100.0")
    table = compare.differences(known, data.train, triplets, rows)
    assert table.loc["pseudo-target"].tolist() == [100, 100, 0]
    assert table.iloc[2, 2] > 1  # the real target was photographed elsewhere
    best, worst = compare.best_and_worst(rows, 3)
    assert len(best) == len(worst) == 3


def test_a_sweep_has_a_row_for_each_setting(settings, data, known):
    pipeline = load_editor(settings.editor, torch.device("cpu"))
    each = [settings.editor.model_copy(update={"steps": steps}) for steps in (1, 2)]
    table = compare.sweep(pipeline, each, known, data.train, data.train.triplets[:3])
    assert table["steps"].tolist() == [1, 2]
    assert table[["made %", "kept %"]].apply(lambda column: column.between(0, 100)).all(axis=None)


def test_known_edits_of_scenes_are_perfect_copied_or_wrong(data, known, tmp_path):
    for triplet in data.train.triplets[:20]:
        reference, target = known[triplet.reference_name], known[triplet.target_name]
        perfect, copy, wrong = (known_edit(triplet, known, how, random.Random(0)) for how in (None, "copy", "wrong"))
        assert perfect == (target.scene, reference.backdrop)
        assert copy == reference
        changed = reference.scene.differences(wrong.scene)
        assert changed
        assert not set(changed) & set(reference.scene.differences(target.scene))
    draw_known_edits(data.train.triplets[:3], known, tmp_path, "copy", 1.0, seed=0)
    triplet = data.train.triplets[0]
    assert load_image(tmp_path / f"{triplet.id}.png").tobytes() == known[triplet.reference_name].draw().tobytes()


@pytest.mark.parametrize(
    ("change", "says"),
    [("scenes.train_pairs=9", "scenes.train_pairs is 9; give 1 to 6"), ("scenes.train=0", "scenes.train"),
     ("evaluation.protocols=[original]", "cirr has cirr"), ("editor.steps=0", "editor.steps")],
)  # fmt: skip
def test_an_impossible_profile_is_refused_in_one_line(change, says, tmp_path):
    with pytest.raises(InputError) as refused:
        prepare_data(load_config("scenes", [f"runs={tmp_path}", f"scenes.root={tmp_path}/world", change]))
    assert says in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
