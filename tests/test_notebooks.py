"""The notebooks run with every value that the profile documents, not with the lite profile's alone."""

import shutil

import pytest

from tests.notebook_cells import cells_of, execute
from tmcir_lite.config import load_config


@pytest.mark.parametrize(
    ("notebook", "change", "there"),
    [
        ("03_iacma", "iacma.epochs=0", ["pseudo_targets"]),
        ("03_iacma", "editor.limit=9", ["pseudo_targets", "iacma"]),
        ("04_atf", "atf.epochs=0", ["iacma"]),
        ("04_atf", "atf.threshold=2.0", ["iacma"]),
        ("04_atf", "atf.encoders=none", ["iacma"]),
    ],
)
def test_a_notebook_runs_with(notebook, change, there, tiny, cfg, tmp_path):
    """On a tiny run, of which the stages before are there."""
    overrides = [*tiny, f"runs={tmp_path}", change]
    for stage in there:
        shutil.copytree(cfg.run_dir / stage, load_config("lite", overrides).run_dir / stage)
    names = {}
    for cell in cells_of(notebook):
        execute(notebook, cell, names, overrides)
