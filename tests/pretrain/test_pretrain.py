"""The commands that make the lite weights, shortened: a folder that the run can use, resumable, the same again."""

import json
import random

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tmcir_lite.config import load_config
from tmcir_lite.data.garments import ATTRIBUTES, VALUES
from tmcir_lite.io.files import check_hashes
from tmcir_lite.method.checkpoint import read_history
from tmcir_lite.pretrain import clip, editor
from tmcir_lite.pretrain.worlds import garments
from tmcir_lite.pseudo_targets.editors import edit, load_editor
from tmcir_lite.pseudo_targets.quality import sample_edits
from tmcir_lite.run.backbones import load_backbone

pytestmark = pytest.mark.slow

SHORT = ["--steps=2", "--batch=8", "--measure=12", "--device=cpu"]


def run(module, folder, *more):
    module.main([f"--out={folder / 'out'}", f"--work={folder / 'work'}", *SHORT, *more])
    return folder / "out"


@pytest.fixture(scope="module")
def clip_out(tmp_path_factory):
    return run(clip, tmp_path_factory.mktemp("clip"), "--epochs=2")


def test_clip_command_leaves_a_model_with_a_card(clip_out):
    check_hashes(clip_out)
    card = (clip_out / "README.md").read_text()
    assert "32 pairs" in card
    assert all(f"swap {name}" in card for name in ("type", "sleeves", "neckline"))
    backbone = load_backbone(f"local-dir:{clip_out}")
    assert backbone.tokenize(["a red polo shirt"]).shape == (1, 6)


def test_clip_command_ends_the_same_when_it_is_interrupted(clip_out, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tmcir_lite.method.training._log", stop)
        with pytest.raises(KeyboardInterrupt):
            run(clip, tmp_path, "--epochs=2")
    assert len(read_history(tmp_path / "work")) == 2  # before training, and the first epoch
    again = load_file(run(clip, tmp_path, "--epochs=2") / "open_clip_model.safetensors")
    whole = load_file(clip_out / "open_clip_model.safetensors")
    assert all(again[name].equal(whole[name]) for name in whole)


def test_clip_batches_hold_near_duplicates_and_label_what_is_said(clip_out):
    tokenizer = clip.build(clip_out.parent / "again")[1]
    batch = clip.PairBatches(tokenizer, seed=0, epoch=1, steps=1, batch=8)[0]
    groups = batch["shown"].view(2, 4, -1)
    assert ((groups[:, 1:] != groups[:, :1]).sum(-1) == 1).all()
    said = batch["said"]
    assert ((said == batch["shown"]) | (said == -100)).all()


def test_free_wording_describes_distinct_garments_of_the_pretraining_half():
    pairs = clip.free_wording(1000)
    assert len({garment for garment, _ in pairs}) == len({text for _, text in pairs}) == 100
    assert all(garment.pretraining for garment, _ in pairs)
    assert all(value in VALUES[name] for garment, _ in pairs for name, value in vars(garment).items())


def test_editor_command_leaves_a_pipeline_that_edits(tmp_path, monkeypatch):
    monkeypatch.setattr(editor, "DECODER_STEPS", 2)
    out = run(editor, tmp_path, "--epochs=1", "--decoder-epochs=1")
    check_hashes(out)
    card = (out / "README.md").read_text()
    assert "tokenizer/vocab.json" in card  # what transformers 4 needs, also where 5 trained
    assert "tokenizer/merges.txt" in card
    assert "16 edits; decoder 64 pictures" in card
    assert card.count("| all ") == 3  # the editor's edits with 1 and 3 steps, and perfect ones through the autoencoder
    assert "grey levels" in card
    with safe_open(out / "text_encoder" / "model.safetensors", "pt") as file:
        assert all(name.startswith("text_model.") for name in file.keys())  # noqa: SIM118
    assert json.loads((out / "model_index.json").read_text())["_class_name"] == "StableDiffusionInstructPix2PixPipeline"
    settings = load_config("lite", [f"editor.model={out}", "device=cpu"]).editor
    reference, _, text = sample_edits(1, seed=3)[0]
    pipeline = load_editor(settings, torch.device("cpu"))
    (picture,) = edit(pipeline, [reference.draw()], [text], [0], settings)
    assert picture.size == (64, 64)


def test_editor_batches_label_what_the_caption_asks_for():
    reference, (edited, _), _, labels = garments.sample_edit(random.Random(0))
    changed = reference.garment.differences(edited)
    assert [name for name, value in zip(ATTRIBUTES, labels, strict=True) if value] == list(changed)
    assert set(garments.without_text(labels)) == {-100}


def test_training_goes_on_with_the_tokenizer_it_began_with(tmp_path, monkeypatch):
    from tmcir_lite.pretrain import tokenizer

    first = tokenizer.kept_tokenizer(tmp_path, 16)
    monkeypatch.setattr(tokenizer, "train_tokenizer", lambda context: pytest.fail("trained again"))
    again = tokenizer.kept_tokenizer(tmp_path, 16)
    assert again.get_vocab() == first.get_vocab()
    assert again("has a dotted pattern").input_ids == first("has a dotted pattern").input_ids
    assert again.model_max_length == 16


def test_editor_goes_on_from_a_published_one(tmp_path, monkeypatch):
    monkeypatch.setattr(editor, "DECODER_STEPS", 1)
    first = run(editor, tmp_path / "first", "--epochs=1", "--decoder-epochs=1")
    second = run(editor, tmp_path / "second", "--epochs=1", f"--start={first}")
    card = (second / "README.md").read_text()
    assert "**training 1 (samples seen)**: 16 edits; decoder" in card
    assert (second / "training_log_1.csv").read_text() == (first / "training_log.csv").read_text()
    for name in ("tokenizer/vocab.json", "vae/diffusion_pytorch_model.safetensors"):
        assert (second / name).read_bytes() == (first / name).read_bytes()
