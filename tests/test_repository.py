"""What is committed holds together: notebooks, weights, commands."""

import json
import re
import shutil
import subprocess
import sys

import pandas as pd
import papermill
import pytest
import torch

from tmcir_lite.config import load_config
from tmcir_lite.io.files import HASHES, ROOT, check_hashes
from tmcir_lite.run.measure import evaluate
from tmcir_lite.run.notebooks import NOTEBOOKS, TOUR, check_parameters
from tmcir_lite.run.stages import train_fusion
from tmcir_lite.study.plan import PLAN
from tmcir_lite.study.report import RESULTS, load_study, markdown

FOLDER = ROOT / "notebooks"
COMMITTED = (TOUR, *NOTEBOOKS)


def cells(name):
    return json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]


def test_notebooks_default_to_the_lite_profile():
    check_parameters(FOLDER, COMMITTED)
    for name in COMMITTED:
        defaults = {
            key: value["default"] for key, value in papermill.inspect_notebook(FOLDER / f"{name}.ipynb").items()
        }
        assert defaults == {"profile": '"lite"', "overrides": "[]"}


@pytest.mark.parametrize("name", COMMITTED)
def test_notebooks_are_small_and_without_errors_or_traces(name):
    text = (FOLDER / f"{name}.ipynb").read_text()
    notebook = json.loads(text)
    assert len(text) < 3_000_000
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert not {"widgets", "papermill"} & set(notebook["metadata"])
    assert not [o for cell in cells(name) for o in cell.get("outputs", []) if o["output_type"] == "error"]


@pytest.mark.parametrize("name", COMMITTED)
def test_cells_that_nbval_compares_have_outputs_to_compare_with(name):
    marked = [cell for cell in cells(name) if "NBVAL_CHECK_OUTPUT" in "".join(cell["source"])]
    assert [cell["id"] for cell in marked if not cell["outputs"]] == []
    ran = [cell["execution_count"] for cell in cells(name) if cell["cell_type"] == "code"]
    assert ran == list(range(1, len(ran) + 1)), "not executed from top to bottom; `make notebooks`"


@pytest.mark.parametrize("page", ["README.md", "notebooks/PAPER_SCALE.md"])
def test_what_a_page_shows_is_there(page):
    path = ROOT / page
    shown = re.findall(r"\]\((?!http)([^)#]+)", path.read_text())
    assert [link for link in shown if not (path.parent / link).exists()] == []


def test_the_readme_is_read_in_minutes():
    assert len((ROOT / "README.md").read_text().split()) <= 1500


def test_the_readmes_numbers_are_those_of_the_lite_run():
    """One protocol of Fashion-IQ's layout and CIRR's, rounded."""
    kept = (RESULTS / "lite.md").read_text()
    fashioniq, cirr = (table_of(kept.split(f"protocol {name}**")[1]) for name in ("original-masked", "cirr"))
    shown = table_of((ROOT / "README.md").read_text().split("## What the lite run measured")[1])
    assert {"CLIP4Cir", "fine-tuned sum", "TMCIR"} <= set(shown.index)
    wanted = [fashioniq["R@1"], fashioniq["R@10"], cirr["R@1"], cirr["R@10"], cirr["Rs@1"]]
    for (name, numbers), right in zip(shown.items(), wanted, strict=True):
        assert numbers.to_dict() == pytest.approx(right[shown.index].to_dict(), abs=0.051), name


def table_of(text):
    """The first Markdown table of a text: numbers, a method a row."""
    lines = re.search(r"^\|.*(?:\n\|.*)*", text, re.MULTILINE)[0].splitlines()
    head, _, *rows = [[word.strip() for word in line.strip("|").split("|")] for line in lines]
    return pd.DataFrame([row[1:] for row in rows], [row[0] for row in rows], head[1:], dtype=float)


def test_the_readmes_fusion_of_ones_own_joins_the_table(cfg, tiny):
    run = load_config("lite", [*tiny, "name=readme"])
    shutil.copytree(cfg.run_dir, run.run_dir)
    (run.run_dir / "config.yaml").write_text((cfg.run_dir / "config.yaml").read_text().replace("tiny", "readme", 1))
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names = {"torch": torch, "load_config": lambda profile: run, "train_fusion": train_fusion, "evaluate": evaluate}
    exec(compile(code, "README.md", "exec"), names)
    assert "| concatenation" in (run.run_dir / "evaluation" / "results.md").read_text()


@pytest.mark.parametrize(("folder", "plan"), [("", "plan.yaml"), ("scenes", "scenes_plan.yaml")])
def test_study_md_tells_what_the_study_found(folder, plan):
    """`python -m tmcir_lite study` writes it there; with nothing left to run it only does that."""
    assert markdown(load_study(RESULTS / folder, PLAN.with_name(plan))) == (RESULTS / folder / "study.md").read_text()


def test_every_command_of_the_readme_is_there():
    named = set(re.findall(r"(?:^|`)make ([\w-]+)", (ROOT / "README.md").read_text(), re.MULTILINE)) - {"PYTHON"}
    makefile = (ROOT / "Makefile").read_text()
    assert {"reproduce", "test"} <= named
    assert not [target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)]


def test_shipped_weights_match_their_hashes_and_are_small():
    folders = [path.parent for path in (ROOT / "data" / "models").glob(f"*/{HASHES}")]
    assert folders
    for folder in folders:
        check_hashes(folder)
        assert (folder / "README.md").is_file()
    files = [path for path in (ROOT / "data" / "models").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25_000_000
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".pkl", ".pth"}]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")
def test_a_checkout_that_changes_line_ends_keeps_the_shipped_bytes(tmp_path):
    """Git for Windows sets core.autocrlf."""
    for name in (
        ".gitattributes",
        *subprocess.check_output(["git", "-C", ROOT, "ls-files", "data/models"], text=True).split(),
    ):
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "here" / name)
    here = ["git", "-C", tmp_path / "here", "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "first"]):
        subprocess.run([*here, *command], check=True)
    clone = ["git", "clone", "--quiet", "-c", "core.autocrlf=true", tmp_path / "here", tmp_path / "there"]
    subprocess.run(clone, check=True)
    for path in (tmp_path / "there" / "data" / "models").glob(f"*/{HASHES}"):
        check_hashes(path.parent)


def test_make_refuses_an_older_python_before_it_installs_anything(tmp_path):
    old = tmp_path / "python3.10"
    pretend = "import sys; sys.version, sys.version_info = '3.10.13', (3, 10, 13); exec(sys.argv[1])"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{pretend}" "$2"\n')
    old.chmod(0o755)
    command = ["make", f"PYTHON={old}", f"VENV={tmp_path}/venv", "lab"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"Python 3.11 or newer is needed, and {old} is 3.10.13" in done.stderr
    assert "make PYTHON=python3.11 lab" in done.stderr
    assert not (tmp_path / "venv").exists()
