"""The cache of decoded pictures gives the same pixels, whoever reads them and from how many processes."""

import errno
import os
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from tmcir_lite.data import picture_cache
from tmcir_lite.data.batches import train_loader
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.data.picture_cache import picture_reader
from tmcir_lite.data.pictures import preprocess
from tmcir_lite.io.files import InputError

TRANSFORM = preprocess(32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))


@pytest.fixture
def paths(tmp_path):
    numbers, paths = np.random.default_rng(0), []
    for number, shape in enumerate([(40, 40), (90, 30), (30, 70), (64, 50)]):
        path = tmp_path / f"{number}.png"
        Image.fromarray(numbers.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    return paths


def test_gives_the_same_pixels_to_the_bit(paths, tmp_path):
    plain, cached = picture_reader(paths, TRANSFORM, None), picture_reader(paths, TRANSFORM, tmp_path / "cache")
    for path in paths:
        assert torch.equal(plain(path), cached(path))


def test_is_made_once_and_again_when_a_picture_changes(paths, tmp_path, monkeypatch):
    first = picture_reader(paths, TRANSFORM, tmp_path / "cache")(paths[0])
    with monkeypatch.context() as patch:
        patch.setattr(picture_cache, "load_image", lambda path: pytest.fail("decoded again"))
        assert torch.equal(picture_reader(paths, TRANSFORM, tmp_path / "cache")(paths[0]), first)
    Image.new("RGB", (40, 41), "red").save(paths[0])
    assert not torch.equal(picture_reader(paths, TRANSFORM, tmp_path / "cache")(paths[0]), first)


@pytest.mark.parametrize("cached", [False, True])
def test_batches_do_not_depend_on_the_number_of_reading_processes(paths, tmp_path, cached):
    triplets = [Triplet(str(n), f"r{n}", f"t{n}", ("is red", "is long"), "dress") for n in range(4)]

    def batches(workers):
        read = picture_reader(paths, TRANSFORM, tmp_path / "cache" if cached else None)
        loader = train_loader(
            {"targets": paths}, triplets, "random", read, tokenize, 2, seed=1, epoch=3, workers=workers
        )
        return list(loader)

    for one, other in zip(batches(0), batches(2), strict=True):
        assert torch.equal(one["targets"], other["targets"])
        assert torch.equal(one["texts"], other["texts"])


def test_reading_processes_may_be_started_anew(paths):
    """As macOS and Windows start them: what they are given is pickled, and the model is no part of it."""
    triplets = [Triplet(str(n), f"r{n}", f"t{n}", ("is red",), "dress") for n in range(4)]
    read, model = picture_reader(paths, TRANSFORM, None), threading.Lock()  # no lock can be pickled

    def of_a_model(texts):
        with model:
            return tokenize(texts)

    loader = train_loader({"targets": paths}, triplets, "and", read, of_a_model, 2, seed=1, epoch=3, workers=1)
    loader.multiprocessing_context = "spawn"
    assert [tuple(batch["targets"].shape) for batch in loader] == [(2, 3, 32, 32)] * 2


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room is made in another way")
def test_without_room_for_it_there_is_one_line_and_no_file(paths, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match=f"{tmp_path}/cache: no room for"):
        picture_reader(paths, TRANSFORM, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def tokenize(texts):
    return torch.tensor([[len(text), sum(map(ord, text))] for text in texts])
