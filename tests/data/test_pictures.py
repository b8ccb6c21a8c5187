"""What reaches the model is the whole picture, padded as CLIP4Cir pads, or an error that names the file."""

import json
import struct

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tmcir_lite.data.pictures import TargetPad, ahead, load_image, load_photo, picture_suffixes, pixels, preprocess
from tmcir_lite.io.files import InputError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SIDES = st.integers(1, 90)


def white(width, height):
    return Image.new("RGB", (width, height), "white")


@given(SIDES, SIDES, st.floats(1, 3))
def test_padding_reaches_the_ratio_and_no_further(width, height, ratio):
    long, short = max(width, height), min(width, height)
    padded = TargetPad(ratio)(white(width, height))
    assert max(padded.size) == long
    assert max(padded.size) / min(padded.size) <= ratio or min(padded.size) == long
    if min(padded.size) > short:
        assert long / (min(padded.size) - 1) > ratio


@given(SIDES, SIDES)
def test_the_original_is_whole_in_the_middle_and_the_rest_black(width, height):
    padded = TargetPad(1.25)(white(width, height))
    left, top, right, bottom = padded.getbbox()
    assert (right - left, bottom - top) == (width, height)
    assert abs(left - (padded.width - right)) <= 1
    assert abs(top - (padded.height - bottom)) <= 1


def test_padding_by_hand():
    assert TargetPad(1.25)(white(40, 100)).size == (80, 100)
    assert TargetPad(1.25)(white(100, 40)).size == (100, 80)
    square_enough = white(100, 80)
    assert TargetPad(1.25)(square_enough).tobytes() == square_enough.tobytes()


def test_a_ratio_below_one_is_refused():
    with pytest.raises(InputError, match="target_pad: 0.5"):
        TargetPad(0.5)


def test_preprocess_is_clips_own_for_a_picture_that_needs_no_padding():
    picture = Image.effect_noise((50, 44), 80).convert("RGB")
    ours = preprocess(32, MEAN, STD, 1.25)(picture)
    assert torch.equal(ours, open_clip.image_transform(32, is_train=False, mean=MEAN, std=STD)(picture))
    assert ours.shape == (3, 32, 32)


def test_preprocess_normalises_each_channel():
    tensor = preprocess(8, MEAN, STD, 1.25)(white(8, 8))
    expected = [(1 - mean) / std for mean, std in zip(MEAN, STD, strict=True)]
    torch.testing.assert_close(tensor.mean(dim=(1, 2)), torch.tensor(expected))


def test_padding_saves_the_ends_of_a_tall_picture_from_the_crop():
    picture = Image.new("RGB", (20, 100), "white")
    picture.paste("red", (0, 0, 20, 15))

    def sees_red(ratio):
        tensor = preprocess(32, (0, 0, 0), (1, 1, 1), ratio)(picture)
        return bool(((tensor[0] > 0.9) & (tensor[1] < 0.1)).any())

    assert sees_red(1.25)
    assert not sees_red(5)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "RGB", "LA", "PA", "YCbCr", "LAB"])
def test_load_image_gives_rgb_whatever_the_file_holds(tmp_path, mode):
    path = tmp_path / "picture.tiff"
    Image.new(mode, (5, 7)).save(path)
    for image in (load_image(path), load_photo(path)):
        assert (image.mode, image.size) == ("RGB", (5, 7))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_truncated_picture_is_an_error_not_a_half_grey_picture(tmp_path, suffix):
    path = tmp_path / f"half{suffix}"
    Image.effect_noise((64, 64), 90).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=f"half{suffix}: cannot be decoded"):
        load_image(path)


def test_other_bad_files_are_named(tmp_path):
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    (tmp_path / "empty.png").touch()
    for name in ("page.jpg", "empty.png"):
        with pytest.raises(InputError, match=f"{name}: cannot be decoded"):
            load_image(tmp_path / name)
    with pytest.raises(InputError, match="none.png: no such file"):
        load_image(tmp_path / "none.png")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>404</html>", "HTML or XML"),
        (b"\n<?xml version='1.0'?><Error>AccessDenied</Error>", "HTML or XML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", "git-LFS pointer: `git lfs pull`"),
        (json.dumps({"message": "Not Found"}).encode(), "it is JSON"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"no picture", "fetch or write it again"),
    ],
)
@pytest.mark.parametrize("read", [load_image, load_photo])
def test_what_lies_in_place_of_a_picture_is_told(tmp_path, content, words, read):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(InputError, match=f"a.jpg: cannot be decoded as a picture .*{words}"):
        read(tmp_path / "a.jpg")


# Pictures as people see them


def turned(path, orientation=6):
    """A picture 8 wide and 4 high whose left half is red; a viewer turns it."""
    picture = Image.new("RGB", (8, 4), "white")
    picture.paste("red", (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x112] = orientation
    picture.save(path, exif=exif)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_a_users_photo_is_turned_upright(tmp_path, suffix):
    turned(tmp_path / f"a{suffix}")
    photo = np.asarray(load_photo(tmp_path / f"a{suffix}")).astype(int)
    assert photo.shape == (8, 4, 3)
    assert photo[:3, :, 1].max() < 60  # red above, white below
    assert photo[5:, :, 1].min() > 200


def test_a_benchmark_picture_stays_as_peers_read_it(tmp_path):
    turned(tmp_path / "a.jpg")
    assert load_image(tmp_path / "a.jpg").size == (8, 4)
    Image.new("RGBA", (3, 3), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").getpixel((1, 1)) == (255, 0, 0)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\x00"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_metadata_is_no_broken_picture(tmp_path, exif):
    Image.new("RGB", (8, 4), "red").save(tmp_path / "a.jpg", exif=exif)
    assert load_photo(tmp_path / "a.jpg").size == (8, 4)


@pytest.mark.parametrize(
    ("mode", "colour", "options"),
    [
        ("RGBA", (255, 0, 0, 0), {}),
        ("LA", (0, 0), {}),
        ("P", 3, {"transparency": 3}),
        ("P", 3, {"transparency": b"\0" * 256}),
        ("L", 7, {"transparency": 7}),
        ("RGB", (1, 2, 3), {"transparency": (1, 2, 3)}),
        ("I;16", 300, {"transparency": 300}),
    ],
)
def test_what_is_transparent_is_white(tmp_path, mode, colour, options):
    picture = Image.new(mode, (4, 4), colour)
    if mode == "P":
        picture.putpalette([200, 10, 10] * 256)
    picture.save(tmp_path / "a.png", **options)
    assert load_photo(tmp_path / "a.png").getcolors() == [(16, (255, 255, 255))]


def test_half_transparent_is_half_white_and_a_gifs_first_frame_is_taken(tmp_path):
    Image.new("RGBA", (2, 2), (255, 0, 0, 128)).save(tmp_path / "a.webp", lossless=True)
    assert load_photo(tmp_path / "a.webp").getpixel((0, 0)) == pytest.approx((255, 127, 127), abs=1)
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert load_photo(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


GREY = np.linspace(0, 1, 256).reshape(16, 16)


@pytest.mark.parametrize("read", [load_image, load_photo])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("a.png", (GREY * 65535).round().astype(np.uint16)),
        ("a.tif", (GREY * 65535).round().astype(np.uint16)),
        ("big-endian.tif", (GREY * 65535).round().astype(">u2")),
        ("a.pgm", (GREY * 65535).round().astype(np.uint16)),
        ("int.tif", (GREY * 65535).round().astype(np.int32)),
        ("signed.tif", (GREY * 2000 - 1000).round().astype(np.int32)),
        ("one.tif", GREY.astype(np.float32)),
        ("byte.tif", (GREY * 255).astype(np.float32)),
        ("far.tif", (GREY * 9e6 - 4e6).astype(np.float32)),
    ],
)
def test_more_than_eight_bits_are_scaled_and_not_cut_off(tmp_path, read, name, values):
    Image.fromarray(values).save(tmp_path / name)
    picture = np.asarray(read(tmp_path / name)).astype(int)
    assert np.abs(picture - np.arange(256).reshape(16, 16, 1)).max() <= 1


def test_a_dark_picture_of_sixteen_bits_stays_dark(tmp_path):
    Image.fromarray(np.full((4, 4), 2570, np.uint16)).save(tmp_path / "a.png")
    assert load_photo(tmp_path / "a.png").getcolors() == [(16, (10, 10, 10))]


def test_float_pictures_without_a_range_or_with_holes_can_be_read(tmp_path):
    values = GREY.astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert np.asarray(load_photo(tmp_path / "a.tif"))[0, :3, 0].tolist() == [0, 255, 0]
    Image.fromarray(np.full((4, 4), -3, np.float32)).save(tmp_path / "b.tif")
    assert load_photo(tmp_path / "b.tif").getcolors() == [(16, (0, 0, 0))]


def test_every_usual_suffix_is_known():
    assert {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp"} <= picture_suffixes()
    assert not {".pdf", ".txt", ".json"} & picture_suffixes()


def test_pixels_keeps_the_order_and_names_the_broken_file(tmp_path):
    paths = []
    for shade in range(0, 250, 25):
        paths.append(tmp_path / f"{shade}.png")
        Image.new("RGB", (9, 9), (shade, 0, 0)).save(paths[-1])
    tensor = pixels(paths, preprocess(4, (0, 0, 0), (1, 1, 1), 1.25))
    assert tensor.shape == (10, 3, 4, 4)
    assert (tensor[:, 0, 0, 0] * 255).round().int().tolist() == list(range(0, 250, 25))
    paths[3].write_bytes(b"")
    with pytest.raises(InputError, match="75.png"):
        pixels(paths, preprocess(4, (0, 0, 0), (1, 1, 1), 1.25))


def test_a_batch_has_the_pixels_of_each_picture_to_the_bit(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(20)]
    for path in paths:
        Image.effect_noise((50, 44), 80).convert("RGB").save(path)
    transform = preprocess(32, MEAN, STD)
    assert torch.equal(pixels(paths, transform), torch.stack([transform(load_image(path)) for path in paths]))


def test_what_is_loaded_ahead_comes_in_order_and_no_more_than_one_too_early():
    begun = []

    def load(item):
        begun.append(item)
        return 10 * item

    for taken, loaded in enumerate(ahead(load, range(5))):
        assert loaded == 10 * taken
        assert len(begun) <= taken + 2
    assert begun == [*range(5)]
    assert list(ahead(load, [])) == []


def test_an_error_of_what_is_loaded_ahead_is_raised():
    with pytest.raises(InputError, match="no such file"):
        list(ahead(load_image, ["none.png"]))


@pytest.mark.parametrize("read", [load_image, load_photo])
def test_a_tiff_of_twelve_bits_is_as_light_as_it_should_be(tmp_path, read):
    """Written by hand, two values in three bytes, since Pillow cannot; it reads them without scaling."""
    values = (GREY * 4095).round().astype(int).ravel()
    packed = b"".join((a << 12 | b).to_bytes(3, "big") for a, b in values.reshape(-1, 2).tolist())
    tags = {256: 16, 257: 16, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 16, 279: len(packed)}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    head = struct.pack("<2sHI", b"II", 42, 8 + len(packed))
    (tmp_path / "a.tif").write_bytes(head + packed + struct.pack("<H", len(tags)) + entries + bytes(4))
    picture = np.asarray(read(tmp_path / "a.tif")).astype(int)
    assert np.abs(picture - np.arange(256).reshape(16, 16, 1)).max() <= 1
