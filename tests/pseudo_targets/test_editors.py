"""Every editor that a profile can name: loaded as the profile does, from tiny models of the same classes."""

import shutil
import sys
import types

import diffusers
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import CLIPTokenizer

from tmcir_lite.config import EDITORS, load_config
from tmcir_lite.io.files import ROOT, InputError
from tmcir_lite.pseudo_targets.editors import edit, load_editor
from tmcir_lite.scale.standins import random_editor

CPU = torch.device("cpu")
NAMES = list(yaml.safe_load(EDITORS.read_text()))
PICTURES = [Image.new("RGB", (48, 70), colour) for colour in ((200, 30, 40), (20, 150, 60), (30, 60, 200))]
PROMPTS = ["is green", "is longer and has a star", "is plain"]


def settings(name, **changes):
    chosen = load_config("fashioniq", [f"editor={name}", "editor.size=64", "editor.steps=5"]).editor
    return chosen.model_copy(update=changes)


@pytest.fixture(scope="module", params=NAMES)
def loaded(request, tmp_path_factory):
    chosen = settings(request.param)
    if not hasattr(diffusers, chosen.pipeline):
        pytest.skip("older diffusers have no such editor")
    folder = tmp_path_factory.mktemp(request.param)
    random_editor(chosen.pipeline, "tiny").save_pretrained(folder, safe_serialization=True)
    chosen = chosen.model_copy(update={"model": str(folder), "revision": None})
    return load_editor(chosen, CPU), chosen


def test_gives_a_picture_for_each_whatever_its_shape(loaded):
    pictures = edit(loaded[0], PICTURES, PROMPTS, [1, 2, 3], loaded[1])
    assert [picture.size for picture in pictures] == [(64, 64)] * 3


def test_neighbours_do_not_change_a_picture(loaded):
    """A class that takes several pictures as references of one prompt would mix the queries."""
    pipeline, chosen = loaded
    together = edit(pipeline, PICTURES, PROMPTS, [1, 2, 3], chosen)[1]
    alone = edit(pipeline, PICTURES[1:2], PROMPTS[1:2], [2], chosen)[0]
    assert np.abs(np.asarray(together, int) - np.asarray(alone, int)).max() <= 2  # rounding of other batch sizes


def test_the_picture_counts(loaded):
    pipeline, chosen = loaded
    one, other = (edit(pipeline, [picture], ["is plain"], [1], chosen)[0] for picture in PICTURES[:2])
    assert np.asarray(one).tobytes() != np.asarray(other).tobytes()


def test_a_class_that_draws_from_text_alone_is_refused(loaded, tmp_path):
    if loaded[1].pipeline != "StableDiffusion3Img2ImgPipeline":
        pytest.skip("Stable Diffusion 3's own folder names a class that draws from text")
    with pytest.raises(InputError, match="draws from text alone"):
        load_editor(loaded[1].model_copy(update={"pipeline": "StableDiffusion3Pipeline"}), CPU)
    with pytest.raises(InputError, match="editor.strength: None.*needs a number"):
        load_editor(loaded[1].model_copy(update={"strength": None}), CPU)
    with pytest.raises(InputError, match="the reference is not seen"):
        load_editor(loaded[1].model_copy(update={"steps": 4}), CPU)


def test_unknown_classes_are_named():
    with pytest.raises(InputError, match="no pipeline 'StableDiffusion9'"):
        load_editor(settings("sd3", pipeline="StableDiffusion9"), CPU)


def test_what_the_hub_refuses_is_one_line_that_says_what_to_do(monkeypatch):
    from diffusers import StableDiffusion3Img2ImgPipeline

    def refuse(*_, **__):
        raise OSError("cannot load\nthe configuration") from TimeoutError("read")

    monkeypatch.setattr(StableDiffusion3Img2ImgPipeline, "from_pretrained", refuse)
    with pytest.raises(InputError, match=r"^editor.model: stabilityai/.* cannot be loaded: the hub did not answer"):
        load_editor(settings("sd3"), CPU)


def test_a_model_that_is_not_here_and_offline_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="the hub cannot be reached.*hf download stabilityai/"):
        load_editor(settings("sd3"), CPU)


def test_an_editor_of_newer_libraries_says_which(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", types.ModuleType("diffusers"))
    with pytest.raises(InputError, match=r"needs diffusers 0\.37"):
        random_editor("Flux2KleinPipeline", "tiny")


def test_an_editor_whose_files_lack_weights_is_refused(tmp_path):
    """The libraries would start them at random; as with the text encoder of transformers 5 under 4."""
    chosen = settings("instruct-pix2pix", model=str(tmp_path), revision=None)
    random_editor(chosen.pipeline, "tiny").save_pretrained(tmp_path, safe_serialization=True)
    load_editor(chosen, CPU)
    path = tmp_path / "text_encoder" / "model.safetensors"
    save_file({f"other.{name}": weight for name, weight in load_file(path).items()}, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match="its files lack weights.*at random") as caught:
        load_editor(chosen, CPU)
    assert "\n" not in str(caught.value)


def test_the_shipped_text_encoder_has_the_names_that_every_version_reads():
    with safe_open(ROOT / "data" / "models" / "editor" / "text_encoder" / "model.safetensors", "pt") as file:
        assert all(name.startswith("text_model.") for name in file.keys())  # noqa: SIM118


def test_both_forms_of_the_shipped_tokenizer_give_the_same_ids(tmp_path):
    """transformers 5 reads tokenizer.json, 4 reads vocab.json and merges.txt."""
    folder = ROOT / "data" / "models" / "editor" / "tokenizer"
    assert {path.name for path in folder.iterdir()} >= {"tokenizer.json", "vocab.json", "merges.txt"}
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path)
    whole, words = Tokenizer.from_file(str(folder / "tokenizer.json")), CLIPTokenizer.from_pretrained(tmp_path)
    for text in (*PROMPTS, "", "It's  LONGER,\nand NOT plain!", "Ærø 42 naïve", "word " * 60):
        ids = words(text, padding="max_length", truncation=True, max_length=40).input_ids
        assert ids == whole.encode(text).ids
