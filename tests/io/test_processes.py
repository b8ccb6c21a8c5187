"""Several processes do what one does: the same training, the same pictures, and nobody writes twice."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader

from tmcir_lite.config import load_config
from tmcir_lite.data.garments import draw, sample_garment, sample_nuisance
from tmcir_lite.data.pictures import load_image
from tmcir_lite.io.files import ROOT, InputError, sha256
from tmcir_lite.io.processes import _GROUP, join
from tmcir_lite.method.losses import Contrastive
from tmcir_lite.method.training import Schedule, cached_backward, decay_groups, fit
from tmcir_lite.pseudo_targets.editors import load_editor
from tmcir_lite.pseudo_targets.generate import MANIFEST, Job, generate

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


class Towers(nn.Module):
    """A backbone that encodes rows of numbers."""

    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Sequential(nn.Linear(6, 4), nn.Dropout(dropout)), nn.Linear(5, 4)
        self.log_scale = nn.Parameter(torch.tensor(1.0))

    @property
    def logit_scale(self):
        return self.log_scale.exp()


class Pairs(Contrastive):
    def forward(self, images, texts):
        return self.backbone.image(images), self.backbone.text(texts), self.logit_scale


def train(folder, batch, chunk=None):
    numbers = torch.Generator().manual_seed(1)
    data = [
        {"images": torch.randn(6, generator=numbers), "texts": torch.randn(5, generator=numbers)} for _ in range(32)
    ]

    def batches(epoch):
        order = torch.Generator().manual_seed(epoch)
        return DataLoader(data, batch_size=batch, shuffle=True, drop_last=True, generator=order)

    model = Pairs(Towers(), symmetric=True)
    return fit(model, batches, Schedule(epochs=3, lr=0.02, warmup=0.2), folder, device=CPU, seed=0, score="score",
               validate=lambda: {"score": 0.0}, loss=model.loss, groups=decay_groups(model, 0.1),
               chunk=chunk)  # fmt: skip


def generated(folder, jobs, settings):
    generate(lambda: load_editor(settings, CPU), jobs, settings, folder, CPU)


def in_two_processes(function, *arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(_one, args=(port, function, arguments), nprocs=2, start_method="spawn")


def _one(rank, port, function, arguments):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}  # fmt: skip
    assert join(CPU).num_processes == 2
    function(*arguments)
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "left",
    [
        {"LOCAL_RANK": "3"},
        {"WORLD_SIZE": "2"},
        {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"},
        {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"},
    ],
)
def test_what_a_launcher_left_in_the_shell_makes_no_group(left):
    code = "import torch; from tmcir_lite.io.processes import join; print(join(torch.device('cpu')).num_processes)"
    environment = {name: value for name, value in os.environ.items() if name not in _GROUP} | left
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr


def weights(folder):
    return load_file(folder / "last.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One process, the whole batch of 16."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder, batch=16)
    return weights(folder)


def same(one, other):
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 5, 8])
def test_a_batch_in_parts_is_the_whole_batch(whole, tmp_path, chunk):
    train(tmp_path, batch=16, chunk=chunk)
    same(whole, weights(tmp_path))


def test_a_batch_in_parts_drops_the_same_numbers_in_both_passes():
    """The gradient is that of a loss of the features as they were drawn, differentiated in one go."""
    accelerator, model = Accelerator(cpu=True), Pairs(Towers(dropout=0.5))
    rows = torch.Generator().manual_seed(1)
    batch = {"images": torch.randn(6, 6, generator=rows), "texts": torch.randn(6, 5, generator=rows)}
    torch.manual_seed(7)
    cached_backward(accelerator, model, batch, 2, model.loss)
    found = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    torch.manual_seed(7)
    parts = [model(**{name: value[i : i + 2] for name, value in batch.items()})[:2] for i in (0, 2, 4)]
    a, b = (torch.cat(side) for side in zip(*parts, strict=True))
    model.loss(a, b, model.logit_scale).backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(found[name], weight.grad)


@pytest.mark.parametrize("chunk", [None, 3])
def test_two_processes_are_one_with_the_doubled_batch(whole, tmp_path, chunk):
    in_two_processes(train, tmp_path, 8, chunk)
    same(whole, weights(tmp_path))


def test_a_training_goes_on_with_as_many_processes_as_it_began_with(tmp_path):
    """Otherwise it would go on with another batch."""
    in_two_processes(train, tmp_path, 8)
    with pytest.raises(InputError, match="processes: 2 there, 1 now"):
        train(tmp_path, batch=8)


def test_a_process_without_a_batch_is_refused_before_it_divides_by_none(tmp_path):
    with pytest.raises(Exception, match="fewer batches than the 2 processes"):
        in_two_processes(train, tmp_path, 32)


def test_two_processes_draw_the_same_pictures(editor_folder, tmp_path):
    settings = load_config("lite").editor
    settings = settings.model_copy(update={"model": str(editor_folder), "steps": 1, "batch": 2})
    rng, jobs = random.Random(0), []
    for number in range(7):
        path = tmp_path / f"{number}.png"
        draw(sample_garment(rng, "dress", True), sample_nuisance(rng)).save(path)
        jobs.append(Job(f"q{number}", path, f"is red {number}", seed=number))
    alone, together = tmp_path / "alone", tmp_path / "together"
    generated(alone, jobs, settings)
    generated(together, jobs[:3], settings)  # begun by one process, ended by two
    in_two_processes(generated, together, jobs, settings)
    assert sorted(path.name for path in together.iterdir()) == sorted(path.name for path in alone.iterdir())
    for one, other in zip(lines(alone), lines(together), strict=True):
        assert one | {"sha256": ""} == other | {"sha256": ""}
        assert other["sha256"] == sha256(together / f"{other['id']}.png")
        pictures = [np.asarray(load_image(folder / f"{one['id']}.png"), int) for folder in (alone, together)]
        assert np.abs(pictures[0] - pictures[1]).max() <= 1  # rounding depends on the number of threads


def lines(folder):
    return [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]


def test_a_stage_launched_twice_at_once_leaves_one_result(cfg, tiny, tmp_path):
    changes = [*tiny, f"runs={tmp_path}", "iacma.chunk=3"]
    shutil.copytree(cfg.run_dir / "pseudo_targets", tmp_path / "tiny" / "pseudo_targets")
    command = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "tmcir_lite", "iacma"]
    options = [part for change in changes for part in ("--set", change)]
    done = subprocess.run([sys.executable, *command, *options], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("iacma 1/1") == 1
    assert {"metrics.json", "history.csv", "model", "model_last"} <= {
        p.name for p in (tmp_path / "tiny/iacma").iterdir()
    }
