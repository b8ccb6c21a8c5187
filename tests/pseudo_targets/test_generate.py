"""Pseudo-targets: the same files whatever the batch, the order or the moment of a kill."""

import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tmcir_lite.config import load_config
from tmcir_lite.data.garments import draw, sample_garment, sample_nuisance
from tmcir_lite.data.pictures import load_image
from tmcir_lite.io.files import InputError, sha256
from tmcir_lite.pseudo_targets.editors import edit, load_editor
from tmcir_lite.pseudo_targets.generate import MANIFEST, Job, generate, without_picture
from tmcir_lite.run.data import Data, iacma_images

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def settings(editor_folder):
    settings = load_config("lite").editor
    return settings.model_copy(update={"model": str(editor_folder), "steps": 2, "batch": 2})


@pytest.fixture(scope="module")
def pipeline(settings):
    return load_editor(settings, CPU)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("references"), random.Random(0)
    jobs = []
    for number in range(5):
        path = folder / f"{number}.png"
        draw(sample_garment(rng, "dress", True), sample_nuisance(rng)).save(path)
        jobs.append(Job(f"q{number}", path, f"is red {number}", seed=number))
    return jobs


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_neighbours_do_not_change_a_picture(pipeline, settings, jobs):
    pictures = [Image.open(job.reference) for job in jobs[:3]]
    together = edit(pipeline, pictures, ["is red", "is plain", "is blue"], [1, 2, 3], settings)
    alone = edit(pipeline, pictures[1:2], ["is plain"], [2], settings)[0]
    assert np.abs(np.asarray(alone, int) - np.asarray(together[1], int)).max() <= 1  # rounding of other batch sizes


def test_manifest_says_how_each_picture_was_made(pipeline, settings, jobs, tmp_path):
    records = generate(lambda: pipeline, jobs, settings, tmp_path, CPU)
    lines = [json.loads(line) for line in (tmp_path / MANIFEST).read_text().splitlines()]
    assert lines == records
    assert [line["id"] for line in lines] == [job.id for job in jobs]
    for line in lines:
        assert line["sha256"] == sha256(tmp_path / f"{line['id']}.png")
        assert {"prompt", "seed", "steps", "guidance", "model", "revision", "reference"} <= set(line)


@pytest.mark.parametrize("killed_after", [0, 1, 3, 4])
def test_killed_and_started_again_ends_with_the_same_files(pipeline, settings, jobs, tmp_path, killed_after):
    generate(lambda: pipeline, jobs, settings, tmp_path / "whole", CPU)
    generate(lambda: pipeline, jobs, settings, tmp_path / "broken", CPU)
    manifest = tmp_path / "broken" / MANIFEST
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:killed_after]) + lines[killed_after][:20])  # killed while a line was written
    for job in jobs[killed_after + 1 :]:
        (tmp_path / "broken" / f"{job.id}.png").unlink()
    generate(lambda: pipeline, jobs, settings, tmp_path / "broken", CPU)
    assert files(tmp_path / "broken") == files(tmp_path / "whole")


def test_finished_generation_loads_no_model(pipeline, settings, jobs, tmp_path):
    generate(lambda: pipeline, jobs, settings, tmp_path, CPU)
    generate(lambda: pytest.fail("loaded"), jobs, settings, tmp_path, CPU)


def test_other_settings_in_the_same_folder_are_refused(pipeline, settings, jobs, tmp_path):
    generate(lambda: pipeline, jobs[:2], settings, tmp_path, CPU)
    with pytest.raises(InputError, match="begun with another steps"):
        generate(lambda: pipeline, jobs, settings.model_copy(update={"steps": 3}), tmp_path, CPU)


class Checker:
    """Stands for diffusers' safety checker: blacks the first pictures that it sees, up to `blacks`."""

    def __init__(self, blacks):
        self.blacks, self.seen = blacks, 0

    def __call__(self, images, clip_input):
        found = [self.seen + place < self.blacks for place in range(len(images))]
        self.seen += len(images)
        images[found] = 0
        return images, found


@pytest.fixture
def checked(settings):
    """Gives a pipeline with a safety checker that blacks so many draws."""

    class Features(dict):
        pixel_values = torch.zeros(1)

        def to(self, device):
            return self

    def load(blacks):
        pipeline = load_editor(settings, CPU)
        pipeline.register_modules(safety_checker=Checker(blacks), feature_extractor=lambda *_, **__: Features())
        return pipeline

    return load


def test_what_the_safety_checker_blacks_is_drawn_again(checked, pipeline, settings, jobs, tmp_path):
    records = generate(lambda: checked(1), jobs, settings, tmp_path / "checked", CPU)
    generate(lambda: pipeline, jobs, settings, tmp_path / "plain", CPU)
    assert [record["id"] for record in records] == [job.id for job in jobs]
    assert [record.get("nsfw") for record in records] == [1, None, None, None, None]
    again = edit(pipeline, [load_image(jobs[0].reference)], [jobs[0].prompt], [records[0]["redrawn_with"]], settings)[0]
    with Image.open(tmp_path / "checked" / "q0.png") as picture:
        assert np.asarray(picture).any()
        assert np.abs(np.asarray(picture, int) - np.asarray(again, int)).max() <= 1
    assert records[1:] == [json.loads(line) for line in (tmp_path / "plain" / MANIFEST).read_text().splitlines()][1:]


def test_what_is_always_blacked_is_left_out_and_counted(checked, settings, jobs, tmp_path, capsys):
    one_by_one = settings.model_copy(update={"batch": 1})
    records = generate(lambda: checked(4), jobs, one_by_one, tmp_path, CPU)
    assert "1 of 5 pseudo-targets are left out" in capsys.readouterr().out
    assert [record["id"] for record in records] == ["q1", "q2", "q3", "q4"]
    assert not (tmp_path / "q0.png").exists()
    assert without_picture(tmp_path) == {"q0"}
    manifest = (tmp_path / MANIFEST).read_text()
    assert json.loads(manifest.splitlines()[0])["nsfw"] == 4
    assert generate(lambda: pytest.fail("loaded"), jobs, one_by_one, tmp_path, CPU) == records
    assert (tmp_path / MANIFEST).read_text() == manifest


def test_iacma_learns_without_what_was_left_out_and_says_so(tmp_path, capsys):
    cfg = load_config("lite", [f"runs={tmp_path}"])
    folder = cfg.run_dir / "pseudo_targets"
    folder.mkdir(parents=True)
    triplets = [SimpleNamespace(id=f"q{number}", target_name=f"t{number}") for number in range(3)]
    train = SimpleNamespace(
        triplets=triplets, images={t.target_name: folder / f"{t.target_name}.png" for t in triplets}
    )
    records = [{"id": "q0", "sha256": "0"}, {"id": "q1", "nsfw": 4}, {"id": "q2", "sha256": "0"}]
    (folder / MANIFEST).write_text("".join(json.dumps(record) + "\n" for record in records))
    for name in ("q0", "q2"):
        (folder / f"{name}.png").touch()
    assert list(iacma_images(cfg, Data(train, None, [], [], []))) == ["q0", "q2"]
    assert "without 1 of 3 triplets" in capsys.readouterr().out
    (folder / "q2.png").unlink()
    with pytest.raises(InputError, match="q2.png: no such pseudo-target"):
        iacma_images(cfg, Data(train, None, [], [], []))


def test_a_checker_that_blacks_everything_is_one_clear_line(checked, settings, jobs, tmp_path):
    with pytest.raises(InputError, match="blacked every picture"):
        generate(lambda: checked(1000), jobs, settings, tmp_path, CPU)


def test_missing_editor_is_one_clear_line(settings, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load_editor(settings.model_copy(update={"model": str(tmp_path / "absent")}), torch.device("cpu"))
