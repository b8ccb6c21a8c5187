"""Killed at any moment, on a full disk or on one that takes nothing: the same command goes on, to the same end."""

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tmcir_lite.__main__ import main
from tmcir_lite.io.files import ROOT
from tmcir_lite.run import notebooks

pytestmark = pytest.mark.slow

SECONDS = random.Random(0)  # of the moments that no file tells
MOMENTS = {
    "data": ["world.partial/fashioniq/captions/*.json", "world.partial/fashioniq/images/*.png"],
    "pseudo-targets": ["k/pseudo_targets/.unfinished-*", "k/pseudo_targets/*.png", "k/pseudo_targets/manifest-0.jsonl"],
    "iacma": ["k/iacma/checkpoint/.unfinished-*", "k/iacma/checkpoint/optimizer-1.*", "k/iacma/model_last/*"],
    "atf": ["k/atf/checkpoint/model-0.*", "k/atf/checkpoint/.unfinished-*/optimizer-2.*", "k/atf/model/*.json"],
    "control": ["k/control/checkpoint/state.json", SECONDS.uniform(0, 0.5)],
    "sum": ["k/sum/chosen.safetensors", SECONDS.uniform(0, 0.5)],
    "clip4cir": ["k/clip4cir/history.csv", "k/combiner/checkpoint/*", SECONDS.uniform(0, 1)],
    "pic2word": ["k/pic2word/checkpoint/.unfinished-*", SECONDS.uniform(0, 0.5)],
    "evaluate": [SECONDS.uniform(0, 0.5), "k/evaluation/*.md"],
}
"""Stage -> when it is killed: once a file of this pattern has come, or seconds after it was begun."""
IN_NOTEBOOKS = ["k/notebooks/02_pseudo_targets.ipynb", "k/notebooks/*.failed.ipynb", "k/notebooks/06_claims.ipynb"]


@pytest.fixture(scope="module")
def fork():
    """Processes that have everything imported, as a fresh `python -m tmcir_lite` has some seconds after its start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tmcir_lite.run.stages", "tmcir_lite.run.measure", "tmcir_lite.run.notebooks"])
    return context


def command(arguments: list[str], said: Path, folder: Path | None = None) -> None:
    """Runs a command in this process, whose children a kill of its group takes along."""
    os.setsid()
    torch.set_num_threads(1)
    with open(said, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if folder:
        notebooks.run.__defaults__ = (*notebooks.run.__defaults__[:-1], folder)
    sys.exit(main(arguments))


def found(root: Path, pattern: str) -> set[Path]:
    """What matches now; nothing where a folder goes while it is looked through."""
    with contextlib.suppress(FileNotFoundError):
        return set(root.glob(pattern))
    return set()


def killed(process, moment: str | float, root: Path) -> bool:
    """Whether the process still lived at the moment, and was killed."""
    process.start()
    began, before = time.monotonic(), found(root, moment) if isinstance(moment, str) else ()
    while process.is_alive():
        if time.monotonic() - began > moment if isinstance(moment, float) else found(root, moment) - before:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
                os.killpg(process.pid, signal.SIGKILL)  # its children, if it has come so far
            break
    process.join()
    return process.exitcode == -signal.SIGKILL


def openable(root: Path) -> None:
    """No file under its final name is half a file."""
    for path in root.rglob("*.*"):
        names = path.relative_to(root).parts
        unfinished = any(name.startswith(".") or ".failed." in name or name == "world.partial" for name in names)
        if not unfinished and path.is_file() and path.suffix in OPEN:
            OPEN[path.suffix](path)


OPEN = {
    ".json": lambda path: json.loads(path.read_text()),
    ".ipynb": lambda path: nbformat.read(path, as_version=4),
    ".csv": pd.read_csv,
    ".safetensors": load_file,
    ".png": lambda path: Image.open(path).load(),
    ".html": lambda path: path.read_text().rstrip().endswith("</html>") or pytest.fail(str(path)),
}


OTHERWISE = ["seconds", "commit", "dirty"]  # as busy as the machine is, and as who commits meanwhile makes them


def same(one: Path, other: Path) -> None:
    """What the results, the weights and the pictures of two runs are."""
    names = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    assert names == {path.relative_to(other) for path in other.rglob("*") if path.is_file()}
    for name in names:
        a, b = one / name, other / name
        if name.suffix == ".safetensors":
            assert load_file(a).keys() == load_file(b).keys()
            assert all(torch.equal(value, load_file(b)[key]) for key, value in load_file(a).items()), name
        elif name.suffix == ".csv":
            tables = [pd.read_csv(path, dtype=str).drop(columns=OTHERWISE, errors="ignore") for path in (a, b)]
            pd.testing.assert_frame_equal(*tables)
        elif name.suffix in (".png", ".jsonl") or name.name == "metrics.json":
            assert a.read_bytes() == b.read_bytes(), name


def test_twenty_kills_change_nothing(fork, tiny, tmp_path):
    def options(root):
        changes = [*tiny, f"runs={root}", "name=k", f"garments.root={root}/world", f"data.root={root}/world/fashioniq",
                   f"data.also_evaluate=[{{layout: cirr, root: {root}/world/cirr}}]", "editor.batch=8"]  # fmt: skip
        return [part for change in changes for part in ("--set", change)]

    def process(root, *arguments, folder=None):
        return fork.Process(target=command, args=([*arguments, *options(root)], tmp_path / "said.txt", folder))

    def finish(root, *arguments, folder=None):
        last = process(root, *arguments, folder=folder)
        last.start()
        last.join()
        assert last.exitcode == 0, (tmp_path / "said.txt").read_text()[-3000:]

    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in notebooks.NOTEBOOKS:
        first = nbformat.v4.new_code_cell('profile = "lite"\noverrides = []', metadata={"tags": ["parameters"]})
        notebook = nbformat.v4.new_notebook(cells=[first, nbformat.v4.new_code_cell("import time; time.sleep(0.2)")])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, folder / f"{name}.ipynb")
    plain, broken = tmp_path / "plain", tmp_path / "broken"
    plain.mkdir()
    broken.mkdir()
    missed, total = [], 0
    for stage, moments in MOMENTS.items():
        finish(plain, stage)
        for moment in moments:
            total += 1
            if not killed(process(broken, stage), moment, broken):
                missed.append((stage, moment))
            openable(broken)
        finish(broken, stage)
    for moment in IN_NOTEBOOKS:
        total += 1
        if not killed(process(broken, "run", "--resume", folder=folder), moment, broken):
            missed.append(("run", moment))
        openable(broken)
    finish(broken, "run", "--resume", folder=folder)
    print(f"{total - len(missed)} kills; too late for {missed}")
    assert total - len(missed) >= 20, missed
    assert OPEN[".html"](broken / "k" / "report.html")
    (broken / "k" / "report.html").unlink()
    shutil.rmtree(broken / "k" / "notebooks")
    same(plain / "k", broken / "k")
    same(plain / "world", broken / "world")
    assert list(broken.rglob(".*")) == []


def mounted(*arguments: str) -> bool:
    return (
        shutil.which("mount") is not None and subprocess.run(["mount", *arguments], capture_output=True).returncode == 0
    )


@pytest.fixture
def disk(tmp_path):
    """A disk of its own; gives its folder and a function that changes its size in KB."""
    place = tmp_path / "disk"
    place.mkdir()
    if not mounted("-t", "tmpfs", "tmpfs", str(place)):
        pytest.skip("only root may mount a disk")
    yield place, lambda size: mounted("-o", f"remount,size={size}k", str(place))
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def tree(folder: Path) -> dict[Path, tuple]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "environment.json"]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def copied(cfg, runs: Path, without: str) -> Path:
    """The finished tiny run in another place, but for a stage."""
    run = shutil.copytree(cfg.run_dir, runs / "tiny", ignore=shutil.ignore_patterns(without))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(f"runs: {cfg.runs}\n", f"runs: {runs}\n"))
    return run


def refused(arguments: list[str], capfd) -> str:
    """What a command says in one line before it gives up."""
    capfd.readouterr()
    code, said = main(arguments), capfd.readouterr().err
    assert (code, len(said.splitlines())) == (2, 1), said
    assert said.startswith("error: ")
    return said


@pytest.mark.parametrize(
    ("stage", "left"),
    [("pseudo-targets", "pseudo_targets"), ("atf", "atf"), ("pic2word", "pic2word"), ("evaluate", "evaluation")],
)
def test_a_full_disk_is_one_line_and_the_stage_goes_on_when_there_is_room(stage, left, disk, cfg, tiny, capfd):
    place, resize = disk
    run = copied(cfg, place, left)
    arguments = [stage, *(part for change in (*tiny, f"runs={place}") for part in ("--set", change))]
    used = sum(-(-path.stat().st_size // 4096) * 4 for path in place.rglob("*") if path.is_file())
    assert resize(used + (8 if stage == "evaluate" else 64))
    before = tree(run)
    said = refused(arguments, capfd)
    assert str(run) in said
    assert "No space left" in said
    assert {path: mark for path, mark in tree(run).items() if path in before} == before
    openable(run)
    assert resize(500_000)
    assert main(arguments) == 0
    for path in (run / left).rglob("*.safetensors"):
        wanted = load_file(cfg.run_dir / path.relative_to(run))
        assert all(torch.equal(value, wanted[name]) for name, value in load_file(path).items())
    assert list(run.rglob(".*")) == []


def test_a_run_that_may_not_be_written_is_one_line(cfg, tiny, tmp_path, capfd):
    run = copied(cfg, tmp_path / "runs", "atf")
    arguments = ["atf", *(part for change in (*tiny, f"runs={run.parent}") for part in ("--set", change))]
    if not (mounted("--bind", str(run), str(run)) and mounted("-o", "remount,ro,bind", str(run))):
        pytest.skip("only root may make a folder read-only for root, and for others tests of permissions suffice")
    try:
        before = tree(run)
        assert "Read-only file system" in refused(arguments, capfd)
        assert tree(run) == before
    finally:
        subprocess.run(["umount", "--lazy", str(run)], check=True)
    assert main(arguments) == 0


def test_a_read_only_checkout_works_where_everything_goes_elsewhere(tiny, tmp_path):
    place = tmp_path / "checkout"
    place.mkdir()
    if not (mounted("--bind", str(ROOT), str(place)) and mounted("-o", "remount,ro,bind", str(place))):
        pytest.skip("only root may make a folder read-only for root")

    def run(*changes):
        given = [
            sys.executable,
            "-m",
            "tmcir_lite",
            "data",
            *(part for change in changes for part in ("--set", change)),
        ]
        environment = os.environ | {"PYTHONPATH": str(place), "OMP_NUM_THREADS": "1"}
        return subprocess.run(given, cwd=place, env=environment, capture_output=True, text=True)

    try:
        lines = run("name=read-only").stderr.splitlines()
        done = run(*tiny, f"runs={tmp_path}/runs")
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {place}/runs/read-only/config.yaml: cannot be written: Read-only file system")
    assert (done.returncode, done.stderr) == (0, "")
