"""The loaders give what the files say and stop at what is wrong with them; the counts are the published ones."""

import collections
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tmcir_lite.config import PROTOCOLS, Layout, ProtocolName
from tmcir_lite.data import picture_files
from tmcir_lite.data.captions import join_captions
from tmcir_lite.data.datasets import Split, load_split, union
from tmcir_lite.data.holdout import hold_out
from tmcir_lite.data.layouts import READERS, Triplet
from tmcir_lite.data.pictures import load_image
from tmcir_lite.evaluation.protocols import Protocol, protocol
from tmcir_lite.io.files import ROOT, InputError

REAL = ROOT.parent / "shared" / "data"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real annotation is not here")


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(path)


@pytest.fixture
def fashioniq(tmp_path):
    """Two dress queries over pictures a-d, one shirt query over e, f; d is in the gallery only."""
    root = tmp_path / "fashioniq"
    for split in ("train", "val"):
        records = [
            {"candidate": "a", "target": "b", "captions": ["is red.", "has long sleeves"]},
            {"candidate": "b", "target": "c", "captions": ["is blue", ""]},
        ]
        write(root / "captions" / f"cap.dress.{split}.json", records)
        write(root / "image_splits" / f"split.dress.{split}.json", ["a", "b", "c", "d"])
        write(root / "captions" / f"cap.shirt.{split}.json", [{"candidate": "e", "target": "f", "captions": ["x"]}])
        write(root / "image_splits" / f"split.shirt.{split}.json", ["e", "f"])
    for name in "abcdef":
        picture(root / "images" / f"{name}.{'png' if name in 'bf' else 'jpg'}")
    return root


def cirr_record(pairid, reference, target, members="abcdef"):
    ranks = {"reference_rank": members.index(reference), "target_rank": members.index(target)}
    return {
        "pairid": pairid,
        "reference": reference,
        "target_hard": target,
        "target_soft": {target: 1.0},
        "caption": "show two dogs",
        "img_set": {"id": 1, "members": list(members), **ranks},
    }


@pytest.fixture
def cirr(tmp_path):
    """Two queries in one img_set a-f; g is in the gallery only."""
    root = tmp_path / "cirr"
    for split in ("train", "val"):
        write(root / "captions" / f"cap.rc2.{split}.json", [cirr_record(12, "a", "b"), cirr_record(13, "b", "c")])
        write(root / "image_splits" / f"split.rc2.{split}.json", {name: f"./dev/{name}.png" for name in "abcdefg"})
    for name in "abcdefg":
        picture(root / "images" / "dev" / f"{name}.png")
    return root


def edit(path, change):
    """Applies `change` to the JSON in the file."""
    value = json.loads(path.read_text())
    change(value)
    write(path, value)


# What is read


def test_fashioniq_is_read_as_written(fashioniq):
    split = load_split(fashioniq, "fashioniq", "val")
    assert split.triplets == [
        Triplet("dress-val-0", "a", "b", ("is red.", "has long sleeves"), "dress"),
        Triplet("dress-val-1", "b", "c", ("is blue", ""), "dress"),
        Triplet("shirt-val-0", "e", "f", ("x",), "shirt"),
    ]
    assert split.galleries == {"dress": ["a", "b", "c", "d"], "shirt": ["e", "f"]}
    assert {name: path.name for name, path in split.images.items()} == {
        **{name: f"{name}.jpg" for name in "acde"},
        **{name: f"{name}.png" for name in "bf"},
    }
    assert split.skipped == []


def test_only_the_categories_asked_for(fashioniq):
    split = load_split(fashioniq, "fashioniq", "val", categories=["shirt"])
    assert {triplet.category for triplet in split.triplets} == set(split.galleries) == {"shirt"}
    assert set(split.images) == {"e", "f"}


def test_cirr_is_read_as_written(cirr):
    split = load_split(cirr, "cirr", "val")
    assert split.triplets[0] == Triplet("12", "a", "b", ("show two dogs",), "all", tuple("abcdef"))
    assert split.galleries == {"all": list("abcdefg")}
    assert split.images["g"] == cirr / "images" / "dev" / "g.png"


@pytest.mark.parametrize("place", ["train/34/{}.png", "train/{}.png", "{}.png"], ids=["nested", "by split", "flat"])
def test_cirr_pictures_are_found_in_every_mirrors_tree(cirr, place):
    write(cirr / "image_splits" / "split.rc2.train.json", {name: f"./train/34/{name}.png" for name in "abcdefg"})
    for name in "abcdef":
        picture(cirr / "images" / place.format(name))
    assert load_split(cirr, "cirr", "train").images["a"] == cirr / "images" / place.format("a")


def test_a_test_split_has_no_targets(fashioniq, cirr):
    write(fashioniq / "captions" / "cap.dress.test.json", [{"candidate": "a", "captions": ["is red", "is long"]}])
    write(fashioniq / "image_splits" / "split.dress.test.json", ["a", "b"])
    assert load_split(fashioniq, "fashioniq", "test").triplets[0].target_name is None
    record = cirr_record(12, "a", "b")
    del record["target_hard"], record["target_soft"]
    write(cirr / "captions" / "cap.rc2.test1.json", [record])
    write(cirr / "image_splits" / "split.rc2.test1.json", {name: f"./dev/{name}.png" for name in "abcdef"})
    assert load_split(cirr, "cirr", "test1").triplets[0].target_name is None


# Pictures: all there, or listed


def test_pictures_are_decoded_once_for_all_processes_and_anew_when_they_change(fashioniq, tmp_path, monkeypatch):
    memory, read = tmp_path / "decoded.txt", []
    monkeypatch.setattr(picture_files, "load_image", lambda path: read.append(path.name) or load_image(path))

    def load():
        monkeypatch.setattr(picture_files, "_decoded", set())  # as in another process
        read.clear()
        with picture_files.remembering(memory):
            load_split(fashioniq, "fashioniq", "val")
        return sorted(read)

    everything = load()
    assert len(everything) == 6
    assert load() == []
    (fashioniq / "images" / "b.png").write_bytes(b"no picture any more")
    with pytest.raises(InputError, match="b.png: cannot be decoded"):
        load()
    picture(fashioniq / "images" / "b.png")
    assert load() == ["b.png"]
    memory.write_bytes(b"\xff\x00 damaged")
    assert load() == everything


def test_missing_and_broken_pictures_stop_and_are_all_listed(fashioniq):
    (fashioniq / "images" / "a.jpg").unlink()
    (fashioniq / "images" / "d.jpg").write_bytes(b"<html>")
    with pytest.raises(InputError, match="2 of the 6 pictures that val needs") as caught:
        load_split(fashioniq, "fashioniq", "val")
    listed = (fashioniq / "missing.val.txt").read_text()
    for text in (str(caught.value), listed):
        assert "a: no such file" in text
        assert "d.jpg: cannot be decoded" in text


def test_missing_pictures_are_told_where_their_list_cannot_be_written(fashioniq):
    (fashioniq / "images" / "a.jpg").unlink()
    (fashioniq / "missing.val.txt").mkdir()
    with pytest.raises(InputError, match="1 of the 6 pictures .* .all are listed here"):
        load_split(fashioniq, "fashioniq", "val")


def test_train_needs_only_the_pictures_of_its_triplets(fashioniq):
    (fashioniq / "images" / "d.jpg").unlink()
    split = load_split(fashioniq, "fashioniq", "train")
    assert "d" not in split.images
    with pytest.raises(InputError, match="d: no such file"):
        load_split(fashioniq, "fashioniq", "val")


def test_skip_missing_leaves_out_and_says_so(fashioniq):
    (fashioniq / "images" / "c.jpg").unlink()
    split = load_split(fashioniq, "fashioniq", "val", skip_missing=True)
    assert [triplet.id for triplet in split.triplets] == ["dress-val-0", "shirt-val-0"]
    assert split.galleries["dress"] == ["a", "b", "d"]
    assert set(split.images) == set("abdef")
    assert len(split.skipped) == 2
    assert split.skipped[0].startswith("image c: no such file")
    assert split.skipped[1] == "triplet dress-val-1: needs c"


def test_skip_missing_keeps_only_whole_img_sets(cirr):
    (cirr / "images" / "dev" / "f.png").unlink()
    with pytest.raises(InputError, match="no triplet of val has all its pictures"):
        load_split(cirr, "cirr", "val", skip_missing=True)


def test_a_picture_repaired_after_a_failure_is_looked_at_again(fashioniq):
    path = fashioniq / "images" / "a.jpg"
    path.write_bytes(b"")
    with pytest.raises(InputError):
        load_split(fashioniq, "fashioniq", "val")
    picture(path)
    load_split(fashioniq, "fashioniq", "val")


def test_annotation_alone_can_be_read(fashioniq):
    split = load_split(fashioniq, "fashioniq", "val")
    for path in (fashioniq / "images").iterdir():
        path.unlink()
    (fashioniq / "images").rmdir()
    assert load_split(fashioniq, "fashioniq", "val", images=False) == replace(split, images={})
    with pytest.raises(InputError, match="no folder images/"):
        load_split(fashioniq, "fashioniq", "val")


# Pictures wherever a mirror keeps them


@pytest.mark.parametrize(
    "place", ["{}.JPG", "{}.jpeg", "{}.JPEG", "{}.webp", "dress/{}.jpg", "a/b/{}.Png", "images/{}.jpg"]
)
def test_fashioniq_pictures_are_found_by_name(fashioniq, place):
    for path in (fashioniq / "images").iterdir():
        path.unlink()
    for name in "abcdef":
        picture(fashioniq / "images" / place.format(name))
    assert load_split(fashioniq, "fashioniq", "val").images["a"] == fashioniq / "images" / place.format("a")


@pytest.mark.parametrize("place", ["dev/{}.jpg", "dev/{}.PNG", "dev/dev/{}.png", "images/dev/7/{}.jpeg", "raw/{}.png"])
def test_cirr_pictures_are_found_by_name(cirr, place):
    (cirr / "images" / "dev").rename(cirr / "spare")
    for name in "abcdefg":
        picture(cirr / "images" / place.format(name))
    assert load_split(cirr, "cirr", "val").images["a"] == cirr / "images" / place.format("a")


def test_a_picture_where_the_annotation_says_goes_before_one_elsewhere(cirr):
    picture(cirr / "images" / "thumbnails" / "a.png")
    assert load_split(cirr, "cirr", "val").images["a"] == cirr / "images" / "dev" / "a.png"


def test_a_picture_in_two_folders_is_one_if_they_are_the_same(fashioniq):
    path = fashioniq / "images" / "a.jpg"
    for folder in ("dress", "toptee"):
        picture(fashioniq / "images" / folder / "a.jpg")
    path.unlink()
    assert load_split(fashioniq, "fashioniq", "val").images["a"] == fashioniq / "images" / "dress" / "a.jpg"
    Image.new("RGB", (5, 5), "blue").save(fashioniq / "images" / "toptee" / "a.jpg")
    with pytest.raises(InputError, match="dress/a.jpg and .*toptee/a.jpg differ"):
        load_split(fashioniq, "fashioniq", "val")


def test_linked_folders_are_followed_and_a_circle_ends(fashioniq):
    (fashioniq / "images").rename(fashioniq / "elsewhere")
    (fashioniq / "images").mkdir()
    (fashioniq / "images" / "all").symlink_to(fashioniq / "elsewhere")
    (fashioniq / "elsewhere" / "round").symlink_to(fashioniq / "images")
    assert set(load_split(fashioniq, "fashioniq", "val").images) == set("abcdef")


def test_what_only_looks_like_a_picture_is_none(fashioniq):
    for name in "ac":
        (fashioniq / "images" / f"{name}.jpg").unlink()
    (fashioniq / "images" / "a.jpg").mkdir()
    (fashioniq / "images" / "c.jpg").symlink_to(fashioniq / "nowhere")
    (fashioniq / "images" / "._d.jpg").write_bytes(b"\0\5\26\7")
    with pytest.raises(InputError, match="2 of the 6 pictures") as caught:
        load_split(fashioniq, "fashioniq", "val")
    assert "c.jpg: not a file, or a link that leads nowhere" in str(caught.value)


def test_a_wrong_tree_shows_where_was_looked_and_what_is_there(fashioniq):
    images = fashioniq / "images"
    for path in images.iterdir():
        path.rename(images / f"dress_{path.name.lower()}")
    for skip in (False, True):  # it would leave nothing, so it is not advised
        with pytest.raises(InputError) as caught:
            load_split(fashioniq, "fashioniq", "val", skip_missing=skip)
        text = str(caught.value)
        assert f"looked for such as {images / 'a.jpg'}" in text
        assert f"holds 6 pictures, such as {images / 'dress_a.jpg'}" in text
        assert "no triplet of val has all its pictures" in text
        assert "skip_missing" not in text


def test_an_archive_that_was_not_unpacked_is_seen(fashioniq):
    for path in (fashioniq / "images").iterdir():
        path.unlink()
    (fashioniq / "images" / "images.zip").touch()
    with pytest.raises(InputError, match="holds no pictures, but such as .*images.zip"):
        load_split(fashioniq, "fashioniq", "val")
    (fashioniq / "images").rename(fashioniq / "pictures")
    with pytest.raises(InputError, match=r"no folder images/ in it \(it holds .*pictures"):
        load_split(fashioniq, "fashioniq", "val")


# What cannot be trained on is found at loading


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_category_that_is_left_empty_is_named(fashioniq, split):
    (fashioniq / "images" / "e.jpg").unlink()
    with pytest.raises(InputError, match=f"no triplet of {split} has all its pictures in category shirt"):
        load_split(fashioniq, "fashioniq", split, skip_missing=True)
    picture(fashioniq / "images" / "e.jpg")
    write(fashioniq / "captions" / f"cap.shirt.{split}.json", [])
    with pytest.raises(InputError, match=f"captions/ has no triplet of {split} in category shirt"):
        load_split(fashioniq, "fashioniq", split)


@pytest.mark.parametrize("members", ["abcde", "abcdefg", "abcdea"])
def test_an_img_set_of_another_size_is_named(cirr, members):
    def change(records):
        records[1]["img_set"]["members"] = list(members)

    edit(cirr / "captions" / "cap.rc2.val.json", change)
    with pytest.raises(InputError, match="cap.rc2.val.json, record 1, img_set: . different members"):
        load_split(cirr, "cirr", "val", images=False)


# Bad input


def test_wrong_folder_layout_split_category(fashioniq, cirr, tmp_path):
    for arguments, words in [
        ((tmp_path, "fashioniq", "val"), "no folder captions/"),
        ((tmp_path / "none", "fashioniq", "val"), "no folder captions/"),
        ((fashioniq, "fashion-iq", "val"), "layout 'fashion-iq': unknown; known: fashioniq, cirr"),
        ((fashioniq, "fashioniq", "test1"), "split 'test1': unknown; fashioniq has train, val, test"),
        ((fashioniq, "fashioniq", "test"), "no file cap.<category>.test.json"),
        ((fashioniq, "fashioniq", "val", ["hat"]), "category 'hat': .* has dress, shirt"),
        ((fashioniq, "cirr", "val"), "split.rc2.val.json: no such file"),
        ((cirr, "cirr", "val", ["dress"]), "CIRR has no categories"),
    ]:
        with pytest.raises(InputError, match=words):
            load_split(*arguments)


def set_key(index, key, value):
    return lambda records: records[index].__setitem__(key, value)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("captions/cap.dress.val.json", lambda records: records[1].pop("target"), "record 1: no key 'target'"),
        ("captions/cap.dress.val.json", lambda records: records[1].pop("captions"), "record 1: no key 'captions'"),
        ("captions/cap.dress.val.json", set_key(0, "target", "../x"), "record 0, 'target': '../x' is not a plain"),
        ("captions/cap.dress.val.json", set_key(0, "candidate", "/x"), "record 0, 'candidate': '/x' is not a plain"),
        ("captions/cap.dress.val.json", set_key(1, "target", "e"), "record 1, 'target': 'e' is not in the split file"),
        ("captions/cap.dress.val.json", set_key(1, "target", 3), "record 1, 'target': 3 is not a text"),
        ("captions/cap.dress.val.json", set_key(1, "target", "b"), "record 1: 'b' is both reference and target"),
        ("captions/cap.dress.val.json", set_key(1, "captions", []), "record 1: 'captions' is empty"),
        ("captions/cap.dress.val.json", set_key(1, "captions", [None]), "record 1: None is not a text"),
        ("captions/cap.dress.val.json", set_key(1, "captions", "is red"), "'captions': 'is red' is not a list"),
        ("captions/cap.dress.val.json", lambda records: records.append("x"), "record 2: 'x' is not an object"),
        ("image_splits/split.dress.val.json", lambda names: names.append("../../etc"), "'../../etc' is not a plain"),
        ("image_splits/split.dress.val.json", lambda names: names.append(".."), "'..' is not a plain"),
        ("image_splits/split.dress.val.json", lambda names: names.append("a"), "'a' stands twice"),
    ],
)
def test_a_bad_fashioniq_record_is_named(fashioniq, file, change, words):
    edit(fashioniq / file, change)
    with pytest.raises(InputError) as caught:
        load_split(fashioniq, "fashioniq", "val")
    assert str(fashioniq / file) in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("captions/cap.rc2.val.json", set_key(1, "pairid", 12), "record 1: pairid 12 stands twice"),
        ("captions/cap.rc2.val.json", set_key(1, "pairid", "x"), "record 1, 'pairid': 'x' is not a whole number"),
        ("captions/cap.rc2.val.json", lambda records: records[1].pop("caption"), "record 1: no key 'caption'"),
        ("captions/cap.rc2.val.json", lambda records: records[0].pop("img_set"), "record 0: no key 'img_set'"),
        ("captions/cap.rc2.val.json", set_key(0, "img_set", {"id": 1}), "record 0, img_set: no key 'members'"),
        ("captions/cap.rc2.val.json", set_key(0, "reference", "g"), "'g' is not among its members"),
        ("captions/cap.rc2.val.json", set_key(0, "target_hard", "z"), "'target_hard': 'z' is not in the split file"),
        ("image_splits/split.rc2.val.json", lambda names: names.update(a="../../a.png"), "'..' is not a plain"),
        ("image_splits/split.rc2.val.json", lambda names: names.update(a="/etc/a.png"), "'' is not a plain"),
        ("image_splits/split.rc2.val.json", lambda names: names.update(a=None), "'a': None is not a text"),
    ],
)
def test_a_bad_cirr_record_is_named(cirr, file, change, words):
    edit(cirr / file, change)
    with pytest.raises(InputError) as caught:
        load_split(cirr, "cirr", "val")
    assert str(cirr / file) in str(caught.value)
    assert words in str(caught.value)


def test_truncated_and_misshapen_files_are_named(fashioniq):
    path = fashioniq / "captions" / "cap.dress.val.json"
    whole = path.read_text()
    for text, words in [(whole[:40], "not valid JSON"), ("", "not valid JSON"), ("{}", "is not a list")]:
        path.write_text(text)
        with pytest.raises(InputError, match=f"cap.dress.val.json.*{words}"):
            load_split(fashioniq, "fashioniq", "val")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_does_not_matter(fashioniq, encoding):
    before = load_split(fashioniq, "fashioniq", "val")
    for path in fashioniq.rglob("*.json"):
        path.write_bytes(path.read_text().encode(encoding))
    assert load_split(fashioniq, "fashioniq", "val") == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("<!DOCTYPE html>\n<html>", "HTML or XML"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git-LFS pointer"),
        ('{"candidate": "a"}\n{"candidate": "b"}\n', "JSON Lines"),
        ('\ufeff{"candidate": "a"}\n{"candi', "JSON Lines"),
        ("PK\x03\x04", "zip archive"),
        ('[{"candidate": "a"},\n{"candi', "it may be truncated"),
    ],
)
def test_what_lies_in_place_of_json_is_told(fashioniq, content, words):
    (fashioniq / "captions" / "cap.dress.val.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=f"cap.dress.val.json: not valid JSON .*{words}"):
        load_split(fashioniq, "fashioniq", "val")


# Captions


TWO = ["is Red. ", "has a V-neck?"]


def test_joining_by_hand():
    assert join_captions(TWO, "and") == "Is Red and has a V-neck"
    assert join_captions(TWO, "reversed") == "Has a V-neck and is Red"
    assert join_captions(TWO, "first") == "Is Red"


@pytest.mark.parametrize("how", ["and", "reversed", "first", "random"])
@pytest.mark.parametrize("nothing", ["", " . ", "!", "\n", "\u00a0", "\u200b", "?!\u2026 \ufeff", "\u2014"])
@pytest.mark.parametrize("captions", [lambda nothing: [nothing, "is red."], lambda nothing: ["is red", nothing]])
def test_a_caption_without_words_leaves_no_trace(how, captions, nothing):
    assert join_captions(captions(nothing), how, random.Random(0)) == "Is red"
    assert join_captions([nothing], how, random.Random(0)) == ""


@pytest.mark.parametrize("how", ["and", "reversed", "first", "random"])
def test_cirrs_only_caption_stays_as_it_stands_in_the_file(cirr, how):
    edit(cirr / "captions" / "cap.rc2.val.json", set_key(0, "caption", " show two dogs, and a Cat?. \n"))
    triplet = load_split(cirr, "cirr", "val").triplets[0]
    assert join_captions(triplet.captions, how, random.Random(0)) == "show two dogs, and a Cat?."


@pytest.mark.parametrize("text", ["2", "à", "赤い", "\U0001f534"])
def test_words_of_any_script_are_words(text):
    assert join_captions([text], "and") == text


@pytest.mark.parametrize("how", ["and", "reversed", "first", "random"])
def test_nothing_to_join_is_nothing(how):
    assert join_captions(["", "?"], how, random.Random(0)) == ""


def test_random_joining_takes_each_of_four_forms_a_quarter_of_the_time():
    rng = random.Random(0)
    counts = collections.Counter(join_captions(["a", "b"], "random", rng) for _ in range(4000))
    assert counts.keys() == {"A and b", "B and a", "A", "B"}
    assert all(900 < count < 1100 for count in counts.values())


def test_bad_ways_to_join():
    with pytest.raises(InputError, match="'or': unknown way to join; known: and, random, reversed, first"):
        join_captions(TWO, "or")
    with pytest.raises(InputError, match="random.Random"):
        join_captions(TWO, "random")


# Protocols


def test_protocols_by_hand(fashioniq, cirr):
    split = load_split(fashioniq, "fashioniq", "val")
    everything = list("abcd")
    assert protocol(split, "original", "dress") == Protocol(everything, masked=False)
    assert protocol(split, "original-masked", "dress") == Protocol(everything, masked=True)
    assert protocol(split, "val-union", "dress") == Protocol(list("abc"), masked=True)
    assert protocol(split, "val-union", "shirt") == Protocol(list("ef"), masked=True)
    assert protocol(load_split(cirr, "cirr", "val"), "cirr", "all") == Protocol(list("abcdefg"), masked=True)
    for name, category, words in [("cirr", "dress", "fashioniq has original,"), ("original", "hat", "dress, shirt")]:
        with pytest.raises(InputError, match=words):
            protocol(split, name, category)


def test_the_configuration_knows_the_same_layouts_and_protocols():
    assert set(READERS) == set(PROTOCOLS) == set(get_args(Layout))
    assert {name for names in PROTOCOLS.values() for name in names} == set(get_args(ProtocolName))


# Held-out triplets


def split_of(pairs):
    triplets = [Triplet(str(i), f"{a}", f"{b}", ("x",), "all") for i, (a, b) in enumerate(pairs)]
    return Split("fashioniq", "train", Path("somewhere"), triplets, {}, {})


@given(
    st.lists(st.tuples(st.integers(0, 80), st.integers(81, 160)), min_size=1, max_size=80),
    st.floats(0.05, 0.9),
    st.integers(0, 5),
)
def test_held_out_triplets_are_a_partition_and_share_no_image(pairs, share, seed):
    split = split_of(pairs)
    try:
        kept, held = hold_out(split, share, seed)
    except InputError:
        return
    assert sorted(kept + held, key=lambda triplet: int(triplet.id)) == split.triplets
    assert not set(union(kept)) & set(union(held))
    assert round(share * len(pairs)) / 2 <= len(held) <= round(share * len(pairs))
    assert (kept, held) == hold_out(split, share, seed)


def test_unrelated_triplets_give_exactly_the_share_and_another_seed_another_part():
    split = split_of([(i, 1000 + i) for i in range(100)])
    parts = [hold_out(split, 0.1, seed)[1] for seed in range(3)]
    assert [len(part) for part in parts] == [10, 10, 10]
    assert parts[0] != parts[1] != parts[2]


def test_a_chain_of_shared_images_stays_together():
    chain, alone = [(0, 1), (2, 1), (2, 3)], [(10, 11), (12, 13)]
    kept, held = hold_out(split_of(chain + alone), 0.4, 0)
    assert [triplet.id for triplet in kept] == ["0", "1", "2"]
    assert [triplet.id for triplet in held] == ["3", "4"]


def test_an_img_set_stays_together():
    split = split_of([(0, 1), (2, 3), (4, 5), (6, 7)])
    group = ("0", "1", "2", "3", "8", "9")
    triplets = [replace(triplet, group_members=group if triplet.id in "01" else ()) for triplet in split.triplets]
    for seed in range(5):
        _, held = hold_out(replace(split, triplets=triplets), 0.5, seed)
        assert [triplet.id for triplet in held] in (["0", "1"], ["2", "3"])


def test_a_share_that_cannot_be_had_is_refused():
    with pytest.raises(InputError, match="data.heldout: 0.5.*0 can be kept aside"):
        hold_out(split_of([(0, 1), (1, 2), (2, 3)]), 0.5, 0)


# The real annotation


@real
@pytest.mark.parametrize(
    ("split", "triplets", "images"),
    [
        ("train", (5985, 5988, 6027), (11452, 19036, 16121)),
        ("val", (2017, 2038, 1961), (3817, 6346, 5373)),
        ("test", (2024, 2038, 2056), (3818, 6346, 5374)),
    ],
)
def test_fashioniqs_published_counts(split, triplets, images):
    loaded = load_split(REAL / "fashion-iq", "fashioniq", split, images=False)
    counts = collections.Counter(triplet.category for triplet in loaded.triplets)
    assert tuple(loaded.galleries) == ("dress", "shirt", "toptee")
    assert tuple(counts[category] for category in loaded.galleries) == triplets
    assert tuple(len(gallery) for gallery in loaded.galleries.values()) == images


@real
def test_val_unions_published_gallery_sizes():
    val = load_split(REAL / "fashion-iq", "fashioniq", "val", images=False)
    sizes = [len(protocol(val, "val-union", category).gallery) for category in ("dress", "shirt", "toptee")]
    assert sizes == [2628, 3089, 2902]


@real
@pytest.mark.parametrize(("split", "triplets", "images"), [("val", 4181, 2297), ("test1", 4148, 2315)])
def test_cirrs_published_counts(split, triplets, images):
    loaded = load_split(REAL / "cirr", "cirr", split, images=False)
    assert (len(loaded.triplets), len(loaded.galleries["all"])) == (triplets, images)
    assert {len(triplet.group_members) for triplet in loaded.triplets} == {6}


@real
def test_cirrs_captions_keep_their_final_punctuation():
    """As CLIP4Cir, SEARLE and Pic2Word read them."""
    captions = [triplet.captions for triplet in load_split(REAL / "cirr", "cirr", "val", images=False).triplets]
    texts = [join_captions(one, "and") for one in captions]
    assert texts == [one[0].strip() for one in captions]
    assert sum(text[-1] in ".?, " for text in texts) > 2500


@real
def test_cirrs_train_split_file_has_its_published_count(tmp_path):
    """The train captions are not to be had freely, so none are read here."""
    write(tmp_path / "captions" / "cap.rc2.train.json", [])
    (tmp_path / "image_splits").symlink_to(REAL / "cirr" / "image_splits")
    assert len(load_split(tmp_path, "cirr", "train", images=False).galleries["all"]) == 16939


@real
def test_a_tenth_of_the_real_train_triplets_can_be_held_out():
    train = load_split(REAL / "fashion-iq", "fashioniq", "train", images=False)
    kept, held = hold_out(train, 0.1, 0)
    assert (len(kept), len(held)) == (16200, 1800)
    assert not set(union(kept)) & set(union(held))
