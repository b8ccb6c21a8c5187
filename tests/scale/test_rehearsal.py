"""The rehearsal: the run's own stages on stand-ins, and a profile with what fits."""

import math

import pytest
import torch

from tmcir_lite.__main__ import main
from tmcir_lite.config import load_config
from tmcir_lite.io.files import InputError
from tmcir_lite.scale import needs, rehearsal, rehearsal_profile
from tmcir_lite.scale.rehearsal import ReadingRate, rehearse
from tmcir_lite.scale.standins import random_editor

pytestmark = pytest.mark.slow


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The profiles for real pictures, on a small built-in architecture and a tiny editor of the profile's class."""
    monkeypatch.setattr(rehearsal_profile, "random_editor", lambda pipeline: random_editor(pipeline, "tiny"))
    monkeypatch.setattr(rehearsal_profile, "_SIDE", 80)
    return [f"runs={tmp_path}", f"data.root={tmp_path}/none", "device=cpu", "backbone.name=ViT-S-32-alt",
            "backbone.pretrained=null", "editor.size=64", "editor.batch=2", "editor.steps=8", "iacma.batch=4",
            "iacma.chunk=2", "atf.batch=4", "clip4cir.batch=4", "data.workers=0"]  # fmt: skip


@pytest.mark.parametrize("name", ["fashioniq", "cirr"])
def test_tells_what_each_stage_takes_and_writes_a_profile(name, small, tmp_path, capsys):
    assert main(["rehearse", "--config", name, *(part for change in small for part in ("--set", change))]) == 0
    said = capsys.readouterr().out
    assert "NOT THERE (data/README.md says how to get it); the published counts are used" in said
    assert "NOT in this machine's cache" in said
    assert "\nreading: " in said
    for stage in ("pseudo-targets", "iacma", "atf", "control", "sum", "evaluation"):
        assert f"\n| {stage} " in said
    assert f"{round(0.9 * {'fashioniq': 18000, 'cirr': 28225}[name]) * 5}" in said  # pairs of IACMA's five epochs
    filled = load_config(tmp_path / f"{name}-rehearsal" / "filled.yaml")
    assert filled.iacma.chunk == 2
    assert filled.model_dump(exclude={"editor", "iacma", "atf"}) == load_config(name, small).model_dump(
        exclude={"editor", "iacma", "atf"}
    )


def test_where_images_are_encoded_once_they_count_as_encoded(small, monkeypatch):
    asked, pairs = [], {}
    cost = rehearsal.Cost("evaluation", 1, 1.0, 1.0, 1)
    for name in ("make_pseudo_targets", "train_pic2word"):
        monkeypatch.setattr(rehearsal.stages, name, lambda cfg: None)
    monkeypatch.setattr(rehearsal.measure, "evaluate", lambda cfg: None)
    monkeypatch.setattr(rehearsal, "with_stand_ins", lambda cfg, folder, device: folder.mkdir(parents=True) or cfg)
    monkeypatch.setattr(rehearsal, "_rehearse_editor", lambda *given: (1, cost))
    monkeypatch.setattr(rehearsal, "_rehearse_reading", lambda *given: ReadingRate(1.0, 1.0))
    monkeypatch.setattr(rehearsal, "_rehearse_encoding", lambda cfg, device, items: asked.append(items) or cost)

    def train(cfg, folder, section, stage, device, items, pictures, reading):
        pairs[folder] = pictures
        return cfg, cost

    monkeypatch.setattr(rehearsal, "_rehearse_training", train)
    cfg = load_config("fashioniq", [*small, "atf.encoders=text"])
    rehearse(cfg)
    triplets, gallery, _ = needs.count_data(cfg)
    assert pairs == {"iacma": 1, "atf": 0, "control": 0, "sum": 0, "clip4cir": 2}
    assert asked == [8 * gallery + 2 * triplets]


def test_halves_until_it_fits(small, monkeypatch):
    tried = []

    def train(cfg):
        tried.append(cfg.iacma.chunk)
        if (cfg.iacma.chunk or cfg.iacma.batch) > 1:
            raise torch.cuda.OutOfMemoryError
        return rehearsal.pd.DataFrame({"seconds": [None, 2.0, 1.0]})

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    cfg = load_config("fashioniq", small)
    instant = ReadingRate(ahead=math.inf, between=math.inf)
    found, cost = rehearsal._rehearse_training(cfg, "iacma", "iacma", train, torch.device("cpu"), 3600, 1, instant)
    assert tried == [2, 1]
    assert (found.iacma.chunk, cost.at_once, cost.rate, cost.hours) == (1, 1, 8.0, 0.125)


@pytest.mark.parametrize(("pictures", "ahead", "between", "rate"), [
    (2, math.inf, 40.0, 10.0),  # 2 steps of 4 pairs took 1.2 s, of which the 16 pictures took 0.4
    (2, 12.0, 40.0, 6.0),  # a run's processes read 12 pictures a second, and a pair has two
    (2, math.inf, 1.0, 160.0),  # it read all the time: the history's shortest time is 0.05 s
    (0, 1.0, 1.0, 8 / 1.2),  # the image encoder stays: no pictures are read
])  # fmt: skip
def test_reading_is_told_from_computing(small, pictures, ahead, between, rate):
    cfg, train = load_config("fashioniq", small), lambda cfg: rehearsal.pd.DataFrame({"seconds": [None, 9.0, 1.2]})
    reading = ReadingRate(ahead, between)
    _, cost = rehearsal._rehearse_training(cfg, "atf", "atf", train, torch.device("cpu"), 1, pictures, reading)
    assert cost.rate == pytest.approx(rate)


def test_the_largest_that_fits():
    def run(size):
        if size > 6:
            raise torch.cuda.OutOfMemoryError

    assert rehearsal._largest(run, 1, 64) == 4
    assert rehearsal._largest(lambda size: None, 1, 16) == 16
    with pytest.raises(InputError, match="not even 8"):
        rehearsal._largest(run, 8, 64)


def test_an_architecture_that_a_run_would_refuse_is_not_rehearsed(small):
    with pytest.raises(InputError, match="ViT-L-14-CLIPA has an image feature that is not its class token's"):
        rehearse(load_config("fashioniq", [*small, "backbone.name=ViT-L-14-CLIPA"]))


def test_too_little_disk_stops_at_once(small, monkeypatch):
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1e6}))
    with pytest.raises(InputError, match="the disk has 0.0 GB free; set runs"):
        rehearse(load_config("fashioniq", small))
