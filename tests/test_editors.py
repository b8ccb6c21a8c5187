"""Every editor that a profile can name: loaded as the profile does, from tiny models of the same classes."""

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RevisionNotFoundError
from PIL import Image

from tmcir_lite.config import EDITORS, load_config
from tmcir_lite.editors import edit, load_editor
from tmcir_lite.files import InputError
from tmcir_lite.standins import random_editor

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


class Response:
    """As much of a hub's answer as its errors want."""

    headers, request, status_code = {}, None, 403


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (lambda: GatedRepoError("403 Client Error", response=Response()), ["licence", "accept", "huggingface.co/stab"]),
        (lambda: RevisionNotFoundError("404", response=Response()), ["no revision 'ea42f8cef", "commits/main"]),
        (lambda: OfflineModeIsEnabled("offline mode is enabled"), ["cannot be reached", "hf download stabilityai"]),
        (lambda: OSError("We couldn't connect to 'https://huggingface.co' to load"), ["cannot be reached"]),
    ],
)
def test_what_the_hub_refuses_is_one_line_that_says_what_to_do(monkeypatch, error, words):
    from diffusers import StableDiffusion3Img2ImgPipeline

    def refuse(*_, **__):
        raise OSError("cannot load") from error()

    monkeypatch.setattr(StableDiffusion3Img2ImgPipeline, "from_pretrained", refuse)
    with pytest.raises(InputError) as caught:
        load_editor(settings("sd3"), CPU)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
