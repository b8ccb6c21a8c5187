"""Is the dataset complete? The report says what is missing before hours are spent."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tmcir_lite.__main__ import main
from tmcir_lite.config import load_config
from tmcir_lite.data.check import check_data
from tmcir_lite.data.datasets import load_split
from tmcir_lite.io.files import ROOT, InputError

REAL = ROOT.parent / "shared" / "data"


@pytest.fixture
def folder(tmp_path):
    """A Fashion-IQ of one category: two triplets in each split, no test."""
    for split in ("train", "val"):
        names = [f"{split}{number}" for number in range(4)]
        records = [{"candidate": names[0], "target": names[1], "captions": ["is red", ""]},
                   {"candidate": names[2], "target": names[3], "captions": ["", " "]}]  # fmt: skip
        for kind, content in (("captions/cap", records), ("image_splits/split", names)):
            path = tmp_path / f"{kind}.dress.{split}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content))
        (tmp_path / "images").mkdir(exist_ok=True)
        for name, suffix in zip(names, ("jpg", "jpg", "png", "jpg"), strict=True):
            Image.new("RGB", (30, 40), "red").save(tmp_path / "images" / f"{name}.{suffix}")
    return tmp_path


def report(folder, **changes):
    return check_data(load_config("fashioniq", [f"data.root={folder}", f"runs={folder}/runs"]))


def test_a_complete_folder_can_be_used_and_is_described(folder):
    text, usable = report(folder)
    assert usable
    assert "train: 2 triplets, 4 images in the split files; published: 18000 and 46609" in text
    assert "4 pictures can be decoded (3 .jpg, 1 .png), 0 are missing" in text
    assert "1 queries have no words at all: dress-train-1" in text
    assert "test: not there, and only needed for a submission" in text


def test_missing_and_broken_pictures_are_counted_by_split(folder, capsys):
    (folder / "images" / "val1.jpg").unlink()
    (folder / "images" / "val3.jpg").write_bytes(b"not a picture")
    text, usable = report(folder)
    assert not usable
    assert "no triplet of val has all its pictures" in text
    (folder / "images" / "val3.jpg").unlink()
    Image.new("RGB", (9, 9)).save(folder / "images" / "val3.jpg")
    text, usable = report(folder)
    assert not usable
    assert "1 are missing or broken, which takes 1 triplets along" in text
    assert "image val1: no such file" in text
    assert main(["data", "check", "--config", "fashioniq", "--set", f"data.root={folder}"]) == 2
    assert "data.skip_missing" in capsys.readouterr().out


def test_a_wrong_tree_is_shown_and_skipping_advised_only_where_it_helps(folder):
    for path in (folder / "images").iterdir():
        path.rename(folder / "images" / f"x{path.name}")
    text, usable = report(folder)
    assert not usable
    assert f"looked for such as {folder / 'images' / 'val0.jpg'}" in text
    assert f"holds 8 pictures, such as {folder / 'images' / 'xtrain0.jpg'}" in text
    assert "skip_missing" not in text
    for path in (folder / "images").iterdir():
        path.rename(folder / "images" / path.name[1:])
    (folder / "images" / "val1.jpg").unlink()
    assert "data.skip_missing: true goes on without" in report(folder)[0]
    (folder / "captions" / "cap.dress.val.json").write_text("<html>")
    text, usable = report(folder)
    assert not usable
    assert "HTML" in text
    assert "skip_missing" not in text


def test_specks_and_copies_are_counted(folder):
    text, usable = report(folder)
    assert "1x1" not in text
    for name in ("val0", "val1"):
        Image.new("RGB", (1, 1)).save(folder / "images" / f"{name}.jpg")
    Image.new("RGB", (30, 40), "blue").save(folder / "images" / "val3.jpg")
    text, usable = report(folder)
    assert usable
    assert "2 pictures are 1x1, such as" in text
    val = text[text.index("  val:") :]
    assert "2 pictures are identical to another, byte for byte, such as" in val
    assert "val0.jpg and" in val


def test_pictures_of_any_suffix_are_counted(folder):
    for path in (folder / "images").glob("*.jpg"):
        path.rename(path.with_suffix(".JPG"))
    text, usable = report(folder)
    assert usable
    assert "4 pictures can be decoded (3 .JPG, 1 .png)" in text


def test_one_name_with_two_suffixes_is_named(folder):
    shutil.copy(folder / "images" / "val1.jpg", folder / "images" / "val1.png")
    with pytest.raises(InputError, match="val1.jpg and .*val1.png are both there"):
        load_split(folder, "fashioniq", "val")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="none: no such folder; data/README.md"):
        report(tmp_path / "none")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real annotation is not there")
@pytest.mark.parametrize(("layout", "folder"), [("fashioniq", "fashion-iq"), ("cirr", "cirr")])
def test_the_real_annotation_has_the_published_counts(layout, folder, tmp_path):
    text, usable = check_data(load_config(layout, [f"data.root={REAL / folder}", f"runs={tmp_path}"]))
    assert not usable  # no pictures
    found = [line for line in text.splitlines() if line.startswith("  ") and "triplets" in line]
    assert found
    assert all(line.endswith("(as published)") for line in found)


def test_a_world_that_is_not_drawn_says_what_draws_it(tmp_path):
    cfg = load_config("scenes", [f"data.root={tmp_path}/none", f"scenes.root={tmp_path}/none", f"runs={tmp_path}"])
    with pytest.raises(InputError, match="none: not drawn yet; `python -m tmcir_lite data` with this profile draws it"):
        check_data(cfg)


def test_the_garment_world_is_complete(cfg):
    text, usable = check_data(cfg)
    assert usable, text
    assert Path(cfg.data.root).name in text
