"""Search with a finished run, and the indices behind it."""

import pytest
import torch
from PIL import Image

from tmcir_lite import retrieval
from tmcir_lite.__main__ import main
from tmcir_lite.files import InputError
from tmcir_lite.retrieval import ExactIndex, FaissIndex, gallery_features
from tmcir_lite.run_data import prepare_data
from tmcir_lite.run_models import load_trained
from tmcir_lite.search import search, show
from tmcir_lite.transforms import pixels

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
    monkeypatch.setattr(retrieval, "encode_images", lambda *_: pytest.fail("encoded again"))
    assert search(cfg.run_dir, reference, TEXT, tmp_path, k=6) == first
    assert len(show(reference, TEXT, first).axes) == 12  # two rows: the reference and five, a gap and the rest


def test_the_command_prints_and_draws(cfg, reference, tmp_path, capsys):
    out = tmp_path / "found.png"
    command = ["search", "--run", str(cfg.run_dir), "--image", str(reference), "--text", TEXT, "--top", "3"]
    assert main([*command, "--out", str(out)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert Image.open(out).size[0] > 300


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"run": "runs/none"}, "no finished run"),
        ({"image": "none.jpg"}, "none.jpg: no such file"),
        ({"text": "  "}, "the text is empty"),
        ({"gallery": "none"}, "no such folder"),
        ({"k": 999}, "fewer than the 999"),
    ],
)
def test_bad_input_is_named(cfg, reference, changes, words):
    with pytest.raises(InputError, match=words):
        search(**{"run": cfg.run_dir, "image": reference, "text": TEXT} | changes)


class TestIndices:
    def features(self, count, dim=16, seed=0):
        return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))

    def test_agree_below_the_size_where_faiss_becomes_approximate(self):
        pytest.importorskip("faiss")
        gallery, queries = self.features(500), self.features(9, seed=1)
        rows, cosines = ExactIndex(gallery).search(queries, 7)
        other, scores = FaissIndex(gallery).search(queries, 7)
        assert torch.equal(rows, other)
        torch.testing.assert_close(cosines, scores)

    def test_the_approximate_one_finds_nearly_all(self, monkeypatch):
        pytest.importorskip("faiss")
        monkeypatch.setattr(retrieval, "_MANY", 1000)
        gallery = self.features(40, seed=2).repeat_interleave(100, 0) + 0.3 * self.features(4000)
        queries = gallery[::400] + 0.1 * self.features(10, seed=3)
        exact, near = (index(gallery).search(queries, 10)[0] for index in (ExactIndex, FaissIndex))
        shared = sum(len(set(a) & set(b)) for a, b in zip(exact.tolist(), near.tolist(), strict=True))
        assert shared >= 95  # of 100

    def test_a_changed_picture_is_encoded_again(self, cfg, tmp_path):
        picture = tmp_path / "a.png"
        Image.new("RGB", (64, 64), "red").save(picture)
        backbone = load_trained(cfg).backbone
        red = gallery_features(backbone, [picture], tmp_path / "kept").clone()
        Image.new("RGB", (65, 64), "blue").save(picture)
        assert not torch.allclose(red, gallery_features(backbone, [picture], tmp_path / "kept"))
