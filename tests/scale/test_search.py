"""Search with a finished run, and the indices behind it."""

import errno
import os
import sys

import pytest
import torch
from PIL import Image

from tmcir_lite.__main__ import main
from tmcir_lite.data.pictures import load_image, load_photo, pixels
from tmcir_lite.evaluation import features
from tmcir_lite.evaluation.features import gallery_features
from tmcir_lite.io.files import InputError
from tmcir_lite.method.cached import CachedEncoder
from tmcir_lite.run.data import prepare_data
from tmcir_lite.run.models import load_trained
from tmcir_lite.scale.search import Hit, nearest, search, show

TEXT = "is red with longer sleeves"


@pytest.fixture(scope="module")
def reference(cfg):
    data = prepare_data(cfg)
    return data.val.images[data.val.triplets[0].reference_name]


def test_finds_what_a_plain_sort_finds(cfg, reference):
    found = search(cfg.run_dir, reference, TEXT, k=4)
    model, images = load_trained(cfg), [p for p in sorted(prepare_data(cfg).val.images.values()) if p != reference]
    with torch.no_grad():
        transform = model.backbone.transform
        query = model.query(pixels([reference], transform), model.backbone.tokenize([TEXT]))
        features = torch.nn.functional.normalize(model.backbone.image(pixels(images, transform)).pooled, dim=1)
    order = sorted(range(len(images)), key=lambda i: -(query[0] @ features[i]).item())
    assert [f.path for f in found] == [images[i] for i in order[:4]]
    assert found[0].cosine == pytest.approx((query[0] @ features[order[0]]).item(), abs=1e-5)


def test_any_folder_is_a_gallery_and_is_encoded_once(cfg, reference, tmp_path, monkeypatch):
    for number in range(7):
        Image.new("RGB", (40 + 9 * number, 50), (30 * number, 90, 10)).save(tmp_path / f"{number}.jpg")
    (tmp_path / "notes.txt").write_text("no picture")
    first = search(cfg.run_dir, reference, TEXT, tmp_path, k=6)
    monkeypatch.setattr(features, "encode_images", lambda *_: pytest.fail("encoded again"))
    assert search(cfg.run_dir, reference, TEXT, tmp_path, k=6) == first
    assert len(show(reference, TEXT, first).axes) == 12  # two rows: the reference and five, a gap and the rest


def test_a_text_that_just_fits_is_taken(cfg, reference):
    backbone = load_trained(cfg).backbone
    text = "is red"
    while len(backbone.words(text)) < 15:  # with the end token
        text += " a"
    assert len(search(cfg.run_dir, reference, text, k=1)) == 1
    with pytest.raises(InputError, match="the text has 15 tokens"):
        search(cfg.run_dir, reference, f"{text} a", k=1)


def photos(folder, count=3):
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.new("RGB", (40 + 9 * number, 50), (30 * number, 90, 10)).save(path)
    return paths


def test_a_folder_of_all_kinds_is_searched_and_what_is_left_out_is_told(cfg, reference, tmp_path, capsys):
    gallery = tmp_path / "photos"
    good = photos(gallery) + photos(gallery / "album.jpg", 1)
    for name in ("a.gif", "b.tif", "c.TIFF", "d.jfif", "e.JPEG", "f.webp", "g.bmp"):
        good.append(gallery / name)
        Image.new("RGB", (30, 30), "red").save(good[-1])
    (gallery / "._0.png").write_bytes(b"\0\5\26\7")
    photos(gallery / ".trash", 2)
    (gallery / "empty.png").touch()
    (gallery / "half.jpg").write_bytes((gallery / "e.JPEG").read_bytes()[:-200])
    (gallery / "lost.png").symlink_to(gallery / "nowhere")
    for name in ("notes.txt", "iphone.heic", "README"):
        (gallery / name).touch()
    for _ in range(2):  # the second time it is remembered
        found = search(cfg.run_dir, reference, TEXT, gallery, k=20)
        assert {f.path for f in found} == set(good)
        told = capsys.readouterr().err
        assert "6 files of" in told
        for words in ("3 hidden", "1 .txt", "1 .heic", "1 without", "3 pictures are left out", "11 pictures, fewer"):
            assert words in told
        for name in ("empty.png: cannot be decoded", "half.jpg: cannot be decoded", "lost.png: not a file"):
            assert name in told


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_of_another_encoding_is_told(cfg, reference, tmp_path, capsys):
    photos(tmp_path, 2)[1].rename(tmp_path / "caf\udce9.png")
    command = ["search", "--run", str(cfg.run_dir), "--image", str(reference), "--text", TEXT]
    assert main([*command, "--gallery", str(tmp_path), "--out", str(tmp_path / "found.pdf")]) == 0
    assert "its name is not valid Unicode" in capsys.readouterr().err


def test_a_folder_that_may_not_be_read_is_told(cfg, reference, tmp_path, monkeypatch, capsys):
    photos(tmp_path)
    (tmp_path / "locked").mkdir()
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert search(cfg.run_dir, reference, TEXT, tmp_path)
    assert f"{tmp_path / 'locked'}: left out, cannot be read (Permission denied)" in capsys.readouterr().err


def test_a_gallery_without_pictures_is_named(cfg, reference, tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(InputError, match="has no picture to show"):
        search(cfg.run_dir, reference, TEXT, tmp_path)


def test_the_reference_is_left_out_by_whatever_path_it_is_named(cfg, reference, tmp_path):
    paths = photos(tmp_path / "photos")
    (tmp_path / "link.png").symlink_to(paths[0])
    found = search(cfg.run_dir, tmp_path / "link.png", TEXT, tmp_path / "photos", k=3)
    assert {f.path for f in found} == set(paths[1:])


def test_photos_are_searched_as_people_see_them(cfg, reference, tmp_path):
    """A photo turned by its metadata and one with hidden colour stand where those stand that they look like."""
    noise = Image.effect_noise((60, 90), 80).convert("RGB")
    exif = Image.Exif()
    exif[0x112] = 6
    for folder in ("seen", "stored"):
        (tmp_path / folder).mkdir()
    noise.save(tmp_path / "seen" / "noise.png")
    noise.rotate(90, expand=True).save(tmp_path / "stored" / "noise.png", exif=exif)
    Image.new("RGB", (64, 64), "white").save(tmp_path / "seen" / "plain.png")
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(tmp_path / "stored" / "plain.png")
    seen, stored = (
        {f.path.name: f.cosine for f in search(cfg.run_dir, reference, TEXT, tmp_path / name, k=2)}
        for name in ("seen", "stored")
    )
    assert seen == pytest.approx(stored, abs=1e-5)
    # and so is the picture asked with
    one, other = (search(cfg.run_dir, tmp_path / name / "noise.png", TEXT, k=3) for name in ("seen", "stored"))
    assert [f.path for f in one] == [f.path for f in other]
    assert [f.cosine for f in one] == pytest.approx([f.cosine for f in other], abs=1e-5)


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("answer", "no figure's suffix"),
        ("answer.txt", "no figure's suffix"),
        ("none/answer.png", "make it first"),
        ("folder.png", "is a folder"),
    ],
)
def test_where_nothing_can_be_drawn_is_refused_before_the_work(tmp_path, monkeypatch, capsys, out, words):
    monkeypatch.setattr("tmcir_lite.scale.search.search", lambda *_: pytest.fail("worked"))
    (tmp_path / "folder.png").mkdir()
    command = ["search", "--run", "runs/none", "--image", "me.jpg", "--text", TEXT, "--out", str(tmp_path / out)]
    assert main(command) == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_many_answers_are_drawn_in_part(tmp_path):
    paths = photos(tmp_path, 2)
    found = [Hit(paths[1], 0.5)] * 2000
    assert len(show(paths[0], "costs $5 or $\\foo$", found).axes) == 60
    show(paths[0], "costs $5 or $\\foo$", found[:1]).savefig(tmp_path / "a.png")


def test_the_command_prints_and_draws(cfg, reference, tmp_path, capsys):
    out = tmp_path / "found.PNG"
    command = ["search", "--run", str(cfg.run_dir), "--image", str(reference), "--text", TEXT, "--top", "3"]
    assert main([*command, "--out", str(out)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert Image.open(out).size[0] > 300


class TestGallery:
    def test_the_nearest_come_first_with_their_cosines(self):
        gallery = torch.tensor([[3.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])
        rows, cosines = nearest(gallery, torch.tensor([[2.0, 0.0]]), 3)
        assert rows.tolist() == [[0, 1, 2]]
        torch.testing.assert_close(cosines, torch.tensor([[1.0, 0.6, 0.0]]))

    def test_a_changed_picture_is_encoded_again(self, cfg, tmp_path):
        picture = tmp_path / "a.png"
        Image.new("RGB", (64, 64), "red").save(picture)
        backbone = load_trained(cfg).backbone
        red = gallery_features(backbone, [picture], tmp_path / "kept").clone()
        Image.new("RGB", (65, 64), "blue").save(picture)
        assert not torch.allclose(red, gallery_features(backbone, [picture], tmp_path / "kept"))

    def test_features_of_a_picture_read_in_two_ways_are_kept_apart(self, cfg, tmp_path):
        picture = tmp_path / "a.png"
        Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(picture)
        backbone = load_trained(cfg).backbone
        frozen = CachedEncoder(backbone)
        for read in (lambda reader: gallery_features(backbone, [picture], tmp_path / "kept", reader),
                     lambda reader: frozen.load([picture], reader)):  # fmt: skip
            one, other = read(load_image).clone(), read(load_photo).clone()
            assert not torch.allclose(one, other)
            assert torch.equal(one, read(load_image))
