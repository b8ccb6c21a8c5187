"""The editor on the world of scenes: what it learns from, what its crutch reads, and the command that trains it."""

import random

import pytest
import torch
from safetensors.torch import load_file

from tmcir_lite.config import load_config
from tmcir_lite.data.scenes import KINDS, LOOKS, PLACES, edit_between, sample_scene
from tmcir_lite.data.scenes import sample_edit as sample_scene_edit
from tmcir_lite.io.files import check_hashes, resolve
from tmcir_lite.pretrain import editor
from tmcir_lite.pretrain.tokenizer import train_tokenizer
from tmcir_lite.pretrain.worlds import scenes
from tmcir_lite.pseudo_targets.editors import edit, load_editor

EXAMPLES = [scenes.sample_edit(random.Random(number)) for number in range(40)]


def parts(labels):
    """What is said, what is seen at each place (with its role) and what will be there."""
    will_be = len(PLACES) * len(LOOKS)
    seen = len(PLACES) * (len(LOOKS) + 1)
    return (
        labels[: -seen - will_be],
        torch.tensor(labels[-seen - will_be : -will_be]).view(len(PLACES), -1),
        torch.tensor(labels[-will_be:]).view(len(PLACES), -1),
    )


def test_examples_are_of_the_pretraining_half_before_one_backdrop():
    for reference, edited, text, _ in EXAMPLES:
        assert reference.scene.pretraining
        assert edited.scene.pretraining
        assert reference.backdrop == edited.backdrop
        assert edit_between(reference.scene, edited.scene)
        assert text
    assert {edit_between(e.reference.scene, e.edited.scene).kind for e in EXAMPLES} == set(KINDS)


def test_labels_tell_what_changes_where():
    for reference, edited, _, labels in EXAMPLES:
        asked = edit_between(reference.scene, edited.scene)
        said, seen, will_be = parts(labels)
        assert said[0] == KINDS.index(asked.kind)
        meant = {place for place, role in enumerate(seen[:, -1].tolist()) if role}
        assert meant == set(asked.places) | ({asked.value} if asked.kind == "move" else set())
        changed = {place for place in range(len(PLACES)) if not seen[place, :-1].equal(will_be[place])}
        assert changed == {p for p in range(len(PLACES)) if reference.scene.at(p) != edited.scene.at(p)}


def test_without_its_text_only_what_is_there_can_be_read():
    labels = EXAMPLES[0].labels
    said, seen, will_be = parts(scenes.without_text(labels))
    assert set(said) == set(seen[:, -1].tolist()) == set(will_be.flatten().tolist()) == {-100}
    assert seen[:, :-1].equal(parts(labels)[1][:, :-1])


def test_no_request_is_cut_off():
    tokenizer = train_tokenizer(scenes.CONTEXT, scenes.corpus())
    rng = random.Random(1)
    texts = [scenes.sample_edit(rng).text for _ in range(500)]
    assert max(len(ids) for ids in tokenizer(texts).input_ids) <= scenes.CONTEXT


def test_the_first_half_of_the_unet_is_what_the_whole_walks():
    unet = editor.build_unet(scenes.CHANNELS)
    made = {}
    unet.mid_block.register_forward_hook(lambda *called: made.update(mid=called[-1]))
    inputs = torch.randn(2, 32, 16, 16), torch.tensor([3, 999]), torch.randn(2, 5, 128)
    with torch.no_grad():
        unet(*inputs)
        whole = made.pop("mid")
        assert editor.first_half(unet, *inputs).equal(whole)


def test_the_reader_counts_what_the_unet_sees_as_well_as_what_the_text_says():
    reader = scenes.READER(8, 12)
    hidden, down, mid = (torch.randn(size, requires_grad=True) for size in ((2, 5, 8), (2, 12, 8, 8), (2, 12, 8, 8)))
    reader(hidden, down, mid, torch.tensor([example.labels for example in EXAMPLES[:2]])).backward()
    assert all(features.grad.abs().sum() > 0 for features in (hidden, down, mid))


@pytest.mark.slow
def test_the_command_leaves_an_editor_of_scenes(tmp_path):
    out, work = tmp_path / "out", tmp_path / "work"
    editor.main(["--world=scenes", f"--out={out}", f"--work={work}", "--reading-epochs=1", "--epochs=1", "--steps=2",
                 "--batch=8", "--measure=12", "--device=cpu"])  # fmt: skip
    check_hashes(out)
    card = (out / "README.md").read_text()
    assert "16 edits, before that 16 that were read and not drawn" in card
    assert all(f"| {kind} " in card for kind in KINDS)
    name = "vae/diffusion_pytorch_model.safetensors"
    ours, garments = load_file(out / name), load_file(resolve(scenes.AUTOENCODER) / name.split("/")[1])
    assert all(ours[key].equal(garments[key]) for key in garments)
    settings = load_config("scenes", [f"editor.model={out}"]).editor
    reference, _, text = scenes.held_out(1, seed=3)[0]
    (picture,) = edit(load_editor(settings, torch.device("cpu")), [reference.draw()], [text], [0], settings)
    assert picture.size == (64, 64)


def test_held_out_edits_are_the_same_each_time():
    assert scenes.held_out(3, 0) == scenes.held_out(3, 0) != scenes.held_out(3, 1)
    rng = random.Random(0)
    scene = sample_scene(rng, pretraining=True)
    assert sample_scene_edit(rng, scene).target.pretraining
