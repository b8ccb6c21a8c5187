"""The changes that notebooks propose can be made: each list of overrides is one that its profile takes."""

import json
import re

import pytest

from tests.notebook_cells import cells_of
from tmcir_lite.config import load_config
from tmcir_lite.course import tour
from tmcir_lite.course.first_cells import notebooks
from tmcir_lite.run.data import draw_worlds

PROPOSED = [
    (path.stem, json.loads(found))
    for path in notebooks()
    for cell in cells_of(path.stem)
    if cell.cell_type == "markdown"
    for found in re.findall(r'\["[a-z_]+[.=][^`]*?"\]', cell.source)
]


def test_notebooks_propose_changes():
    assert {name for name, _ in PROPOSED} >= {"00_tour", "01_data", "02_pseudo_targets"}


@pytest.mark.parametrize(("notebook", "overrides"), PROPOSED)
def test_a_proposed_change_is_one_that_a_profile_takes(notebook, overrides):
    profile = "fashioniq" if overrides[0].startswith(("editor=", "data.root=/big/disk")) else "lite"
    load_config(profile, overrides)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("notebook", "overrides"),
    [(name, each) for name, each in PROPOSED if any(one.startswith("garments.root=") for one in each)],
)
def test_a_proposed_world_can_be_drawn(notebook, overrides, tmp_path):
    moved = [one.replace("=data/", f"={tmp_path}/") for one in overrides]
    draw_worlds(load_config("lite", [*tour.SMALL, *moved] if notebook == "00_tour" else moved))
