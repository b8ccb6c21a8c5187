"""Writing says in one line what stands in the way, and leaves nothing half written."""

import os

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tmcir_lite.io.files import InputError, atomic, new_array, write_text

resource = pytest.importorskip("resource")


@pytest.fixture
def little_room():
    """No file may be larger than 100 KB, which fails as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


NOISE = np.random.default_rng(0).integers(0, 255, (400, 400, 3), dtype=np.uint8)
WRITERS = {
    "a.txt": lambda path: path.write_text("x" * 1_000_000),
    "a.csv": lambda path: pd.DataFrame(NOISE.reshape(-1, 3)).to_csv(path),
    "a.png": lambda path: Image.fromarray(NOISE).save(path),
    "a.safetensors": lambda path: save_file({"a": torch.zeros(1_000_000)}, path),
    "a.npy": lambda path: new_array(path, np.float32, (1000, 1000)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_and_leaves_nothing(name, tmp_path, little_room):
    write_text(tmp_path / name, "former")
    with pytest.raises(InputError, match="MB are free") as caught, atomic(tmp_path / name) as path:
        WRITERS[name](path)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "former"


@pytest.mark.parametrize("fallocate", [True, False])
def test_a_new_array_has_its_room_before_it_is_used(tmp_path, fallocate, monkeypatch):
    if not fallocate:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    array = new_array(tmp_path / "a.npy", np.float32, (1000, 500))
    assert os.stat(tmp_path / "a.npy").st_blocks * 512 >= 2_000_000
    array[:] = 3
    array.flush()
    assert (np.load(tmp_path / "a.npy") == 3).all()


def test_the_missing_room_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1_000_000}))
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(InputError, match="no room for 4 MB: 1 MB are free, 3 MB are missing"):
        new_array(tmp_path / "a.npy", np.float32, (1000, 1000))


def full(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("place", ["file/a.txt", "folder", "n" * 300])
def test_a_place_that_cannot_be_written_is_named(place, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=f"{place}: cannot be written: .*; give another place"):
        write_text(tmp_path / place, "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "a.txt"):
        (tmp_path / "absent").read_text()
    with pytest.raises(KeyError), atomic(tmp_path / "a.txt"):
        {}["key"]
