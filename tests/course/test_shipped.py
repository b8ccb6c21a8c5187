"""What a run trained is kept small, and is the same run again when it is restored."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tmcir_lite.course import shipped
from tmcir_lite.course.shipped import keep_models, packed, restore, unpacked
from tmcir_lite.data.pictures import load_image
from tmcir_lite.io.files import HASHES, InputError, check_hashes
from tmcir_lite.run.data import prepare_data
from tmcir_lite.run.models import load_clip4cir, load_trained
from tmcir_lite.scale.search import finished_run, search


@pytest.fixture(scope="module")
def run(cfg, tmp_path_factory):
    """The tiny run as if training had moved every weight that it may: whether its few steps help is chance."""
    folder = tmp_path_factory.mktemp("run") / "moved"
    shutil.copytree(cfg.run_dir, folder)
    torch.manual_seed(0)
    for name in ("atf", "clip4cir", "combiner"):
        for path in (folder / name / "model").glob("*.safetensors"):
            weights = load_file(path)
            for key in weights:
                if name != "atf" or not key.startswith("visual."):  # `atf.encoders: text`
                    weights[key] += 0.01 * torch.randn_like(weights[key])
            save_file(weights, path)
    return finished_run(folder)


@pytest.fixture(scope="module")
def kept(run, tmp_path_factory):
    return keep_models(run.run_dir, tmp_path_factory.mktemp("models") / "trained")


@pytest.fixture
def restored(kept, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", kept)
    return restore(tmp_path / "again")


def test_a_restored_run_asks_the_same_queries(cfg, run, restored):
    again, triplets = finished_run(restored), prepare_data(cfg).val.triplets
    paths = [prepare_data(cfg).val.images[triplet.reference_name] for triplet in triplets]
    with torch.no_grad():
        for of_run, of_kept in zip(
            (load_trained(run), load_clip4cir(run)[1]), (load_trained(again), load_clip4cir(again)[1]), strict=True
        ):
            texts = of_run.backbone.tokenize([" and ".join(triplet.captions) for triplet in triplets])
            before, after = (
                torch.nn.functional.normalize(model.query(model.backbone.load(paths, load_image), texts), dim=1)
                for model in (of_run, of_kept)
            )
            assert (before * after).sum(dim=1).min() > 0.9999


def test_search_takes_a_restored_run(cfg, run, restored):
    val = prepare_data(cfg).val
    reference = val.images[val.triplets[0].reference_name]
    found, again = (search(folder, reference, "is red", k=3) for folder in (run.run_dir, restored))
    assert [hit.path for hit in found] == [hit.path for hit in again]


def test_only_what_training_changed_is_kept_a_byte_a_weight(run, kept):
    encoders = load_file(kept / "atf" / "model" / "open_clip_model.safetensors")
    assert not [name for name in encoders if name.startswith("visual.")]
    assert encoders["transformer.resblocks.0.mlp.c_fc.weight"].dtype == torch.int8
    combiner = "combiner/model/fusion.safetensors"
    assert (kept / combiner).stat().st_size < 0.3 * (run.run_dir / combiner).stat().st_size


def test_the_card_says_where_the_models_are_from(run, kept):
    check_hashes(kept)
    card = (kept / "README.md").read_text()
    for words in (f"the run `{run.name}`, seed 0", f"{run.garments.train} triplets", "**commit**", "cpu (",
                  "| TMCIR | ", "| CLIP4Cir, stage 1 | ", "| atf/model/fusion.safetensors | "):  # fmt: skip
        assert words in card


def test_packing_is_off_by_half_a_step_of_a_row_at_most():
    torch.manual_seed(0)
    start = {"matrix": torch.randn(3, 5), "kernel": torch.randn(2, 3, 4, 4), "same": torch.randn(4, 4)}
    weights = {name: weight + 0.01 * torch.randn_like(weight) for name, weight in start.items()}
    weights |= {"same": start["same"], "bias": torch.randn(7), "number": torch.tensor(2.5), "zeros": torch.zeros(2, 2)}
    kept = packed(weights, start)
    assert not [name for name in kept if name.startswith("same")]
    again = unpacked(kept, start)
    assert again.keys() == weights.keys()
    for name in ("same", "bias", "number", "zeros"):
        assert torch.equal(again[name], weights[name])
    for name in ("matrix", "kernel"):
        step = (weights[name] - start[name]).flatten(1).abs().amax(dim=1) / 127
        assert ((again[name] - weights[name]).flatten(1).abs().amax(dim=1) <= 0.51 * step).all()


def test_restoring_again_does_nothing_until_other_models_are_shipped(restored, kept, tmp_path, monkeypatch):
    (restored / "mine").touch()
    restore(restored)
    assert (restored / "mine").exists()
    other = tmp_path / "other"
    shutil.copytree(kept, other)
    (other / HASHES).write_text((other / HASHES).read_text() + "\n")
    monkeypatch.setattr(shipped, "FOLDER", other)
    assert not (restore(restored) / "mine").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "no trained models"),
        (lambda folder: (folder / "combiner" / "model" / "fusion.safetensors").write_bytes(b"1"), "SHA-256 differs"),
        (lambda folder: (folder / "atf" / "metrics.json").unlink(), "missing"),
    ],
)
def test_damaged_models_are_refused(damage, message, kept, tmp_path, monkeypatch):
    shutil.copytree(kept, tmp_path / "damaged")
    damage(tmp_path / "damaged")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "damaged")
    with pytest.raises(InputError, match=message):
        restore(tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_other_start_weights_are_refused(kept, clip_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", kept)
    weights = clip_folder / "open_clip_model.safetensors"
    monkeypatch.setattr(shipped, "sha256", lambda path: "another" if path == weights else pytest.fail("of this alone"))
    with pytest.raises(InputError, match="other weights than those"):
        restore(tmp_path / "again")


def test_an_unfinished_run_is_not_kept(cfg, tmp_path):
    with pytest.raises(InputError, match="no finished run"):
        keep_models(tmp_path, tmp_path / "out")
    shutil.copytree(cfg.run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("combiner"))
    with pytest.raises(InputError, match="no combiner/metrics.json"):
        keep_models(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()
