"""Two processes (`accelerate launch`) train what one does with the whole batch, and draw the same pictures."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.io.test_processes import in_two_processes
from tmcir_lite.__main__ import main
from tmcir_lite.config import load_config
from tmcir_lite.data.pictures import load_image

pytestmark = pytest.mark.slow

STAGES = {
    "aligned": ([], ["pseudo-targets", "iacma"]),
    "both": (["atf.encoders=both"], ["atf"]),
    "text": (["atf.encoders=text", "clip4cir.encoders=text"], ["atf", "clip4cir"]),
    "none": (["atf.encoders=none"], ["atf", "pic2word"]),
    "parts": (["atf.encoders=text", "atf.chunk=3", "clip4cir.encoders=both", "clip4cir.chunk=3"], ["atf", "clip4cir"]),
}
"""Name of a run -> its changes and its stages. All but the first go on from the encoders of the tiny run."""
TRAININGS = [
    ("aligned", "iacma"), ("both", "atf"), ("text", "atf"), ("none", "atf"), ("parts", "atf"), ("text", "clip4cir"),
    ("parts", "clip4cir"), ("text", "combiner"), ("none", "pic2word"),
]  # fmt: skip


def run_stages(tiny: list[str], root: str, batch: int) -> None:
    """All of `STAGES`, without dropout: each process would draw its own."""
    nn.Dropout.forward = lambda self, x: x
    for name, (changes, stages) in STAGES.items():
        given = [*tiny, f"runs={root}", f"name={name}", "editor.batch=8", *changes]
        given += [f"{section}.batch={batch}" for section in ("iacma", "atf", "clip4cir", "combiner", "pic2word")]
        for stage in stages:
            assert main([stage, *(part for change in given for part in ("--set", change))]) == 0


@pytest.fixture(scope="module")
def runs(cfg, tiny, tmp_path_factory):
    """The folders of the runs of one process with batches of 8, and of two with batches of 4."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    for root in (one, two):
        for name in STAGES.keys() - {"aligned"}:
            shutil.copytree(cfg.run_dir / "iacma", root / name / "iacma")
    dropout, threads = nn.Dropout.forward, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run_stages(tiny, str(one), 8)
    finally:
        nn.Dropout.forward = dropout
        torch.set_num_threads(threads)
    in_two_processes(run_stages, tiny, str(two), 4)
    return one, two


@pytest.mark.parametrize(("name", "training"), TRAININGS)
def test_two_processes_train_as_one_with_the_whole_batch(runs, name, training):
    one, two = (pd.read_csv(root / name / training / "history.csv") for root in runs)
    assert len(one) > 1
    pd.testing.assert_frame_equal(one[["epoch", "loss"]], two[["epoch", "loss"]], rtol=1e-4)
    one, two = (load_file(root / name / training / "last.safetensors") for root in runs)
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(value, two[key], rtol=1e-2, atol=2e-4)  # AdamW takes any gradient for a large one


def test_the_image_encoder_that_is_kept_in_memory_stays_as_it_was(runs, cfg):
    before = load_file(cfg.run_dir / "iacma" / "model" / "open_clip_model.safetensors")
    for root in runs:
        after = load_file(root / "text" / "atf" / "model" / "open_clip_model.safetensors")
        assert all(torch.equal(value, after[key]) for key, value in before.items() if key.startswith("visual."))


def test_two_processes_draw_the_same_pseudo_targets(runs, tiny):
    folders = [root / "aligned" / "pseudo_targets" for root in runs]
    records = [[json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
               for folder in folders]  # fmt: skip
    assert len(records[0]) == load_config("lite", tiny).garments.train
    for one, other in zip(*records, strict=True):
        assert one | {"sha256": ""} == other | {"sha256": ""}
        pictures = [np.asarray(load_image(folder / f"{one['id']}.png"), int) for folder in folders]
        assert np.abs(pictures[0] - pictures[1]).max() <= 1
