"""What reaches the model is the whole picture, padded as CLIP4Cir pads, or an error that names the file."""

import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tmcir_lite.files import InputError
from tmcir_lite.transforms import TargetPad, load_image, pixels, preprocess

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


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "RGB"])
def test_load_image_gives_rgb_whatever_the_file_holds(tmp_path, mode):
    path = tmp_path / "picture.tiff"
    Image.new(mode, (5, 7)).save(path)
    image = load_image(path)
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
