"""Real photos through the same six notebooks: shapes of all kinds, no known attributes, the profile for Fashion-IQ."""

import json

import nbformat
import pytest

from tmcir_lite.config import load_config
from tmcir_lite.io.files import ROOT
from tmcir_lite.run import notebooks
from tmcir_lite.scale.standins import random_editor

pytestmark = pytest.mark.slow

PHOTOS = ROOT.parent / "shared" / "data" / "clothing-photos"


@pytest.fixture
def dataset(tmp_path):
    """Photos in Fashion-IQ's layout, with captions of no meaning."""
    if not PHOTOS.is_dir():
        pytest.skip("the photos are not there")
    root, photos = tmp_path / "data", sorted(PHOTOS.rglob("*.jpg"))[:60]
    for folder in ("captions", "image_splits", "images"):
        (root / folder).mkdir(parents=True)
    for split, part in (("train", photos[:40]), ("val", photos[40:])):
        for photo in part:
            (root / "images" / f"{photo.stem}.jpg").symlink_to(photo)
        names = [photo.stem for photo in part]
        records = [{"candidate": a, "target": b, "captions": ["is darker", "has longer sleeves"]}
                   for a, b in zip(names[::2], names[1::2], strict=True)]  # fmt: skip
        (root / "captions" / f"cap.dress.{split}.json").write_text(json.dumps(records))
        (root / "image_splits" / f"split.dress.{split}.json").write_text(json.dumps(names))
    return root


def test_the_notebooks_run_on_real_photos(dataset, clip_folder, tmp_path):
    random_editor("StableDiffusionInstructPix2PixPipeline", "tiny").save_pretrained(tmp_path / "editor")
    overrides = [
        f"runs={tmp_path}", f"data.root={dataset}", "data.workers=0", "data.heldout=0.2", "device=cpu",
        f"backbone.name=local-dir:{clip_folder}", "backbone.pretrained=null", "editor=instruct-pix2pix",
        f"editor.model={tmp_path / 'editor'}", "editor.revision=null", "editor.size=64", "editor.steps=2",
        "evaluation.recall_at=[1, 5, 10]",
        *(f"{part}.{key}" for part in ("iacma", "atf", "clip4cir", "combiner", "pic2word")
          for key in ("epochs=1", "batch=4")),
    ]  # fmt: skip
    report = notebooks.run("fashioniq", overrides)
    run = load_config("fashioniq", overrides).run_dir
    assert report.is_file()
    assert (run / "evaluation" / "published.md").is_file()
    for name in notebooks.NOTEBOOKS:
        cells = nbformat.read(run / "notebooks" / f"{name}.ipynb", as_version=4).cells
        assert not [o for cell in cells for o in cell.get("outputs", []) if o["output_type"] == "error"]
    printed = (run / "notebooks" / "01_data.ipynb").read_text()
    assert "attributes of real pictures are not known" in printed
