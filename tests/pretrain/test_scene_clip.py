"""The CLIP for scenes: batches as they are meant, and the command, shortened."""

import random

import pytest
import torch

from tmcir_lite.data.scenes import SLOTS, describe_scene, sample_scene
from tmcir_lite.io.files import check_hashes
from tmcir_lite.method.checkpoint import read_history
from tmcir_lite.pretrain import scene_clip
from tmcir_lite.run.backbones import load_backbone

SHORT = ["--epochs=1", "--steps=2", "--batch=8", "--measure=12", "--device=cpu", "--workers=0"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return scene_clip.build(tmp_path_factory.mktemp("scene"))


def test_batches_hold_a_scene_and_an_edit_of_each_kind(built):
    data = scene_clip.SceneBatches(built[1], seed=0, epoch=1, steps=2, batch=16)
    batch, again = data[1], data[1]
    assert all(batch[name].equal(again[name]) for name in batch)
    assert batch["images"].shape == (16, 3, 64, 64)
    groups = batch["shown"].reshape(2, 8, len(SLOTS))
    changed = (groups[:, 1:] != groups[:, :1]).sum(-1)
    assert ((changed >= 1) & (changed <= 6)).all()


def test_the_model_is_small_and_every_place_is_read(built):
    model, tokenizer = built
    assert 1.5e6 < sum(p.numel() for p in model.clip.parameters()) < 2e6
    model(**scene_clip.SceneBatches(tokenizer, seed=0, epoch=1, steps=1, batch=16)[0]).backward()
    assert all(head.weight.grad.abs().sum(1).gt(0).all() for head in model.heads.values())


def test_patches_belong_to_the_place_that_holds_their_middle(built):
    places = built[0]._places
    assert places.shape == (9, 64)
    torch.testing.assert_close(places.sum(1), torch.ones(9))
    assert places[0].view(8, 8)[:3, :3].eq(1 / 9).all()  # patches of 8 pixels, places of 21
    assert places[4].view(8, 8)[3:5, 3:5].eq(1 / 4).all()


def test_no_description_is_cut_short(built):
    rng = random.Random(0)
    texts = [describe_scene(rng, sample_scene(rng, pretraining=True)) for _ in range(2000)]
    tokens = built[1](texts)
    assert (tokens[:, -2] == tokens.max()).all()  # the end token, which also fills up


def test_untrained_accuracies_are_of_the_scenes_that_allow_the_edit(built):
    measured = scene_clip.measure(built[0].eval(), built[1], 30, seed=2)
    assert len(measured["R@1"]) == len(measured["edit colour"]) == 30
    assert len(measured["edit add"]) < 30
    assert (measured["R@10"] >= measured["R@1"]).all()


@pytest.mark.slow
def test_the_command_leaves_a_model_with_a_card(tmp_path):
    scene_clip.main([f"--out={tmp_path / 'out'}", f"--work={tmp_path / 'work'}", *SHORT])
    check_hashes(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "16 pairs" in card
    assert all(f"edit {kind}" in card for kind in ("swap", "colour"))
    assert len(read_history(tmp_path / "work")) == 2
    backbone = load_backbone(f"local-dir:{tmp_path / 'out'}")
    assert backbone.tokenize(["swap the cross and the red circle"]).shape[0] == 1
