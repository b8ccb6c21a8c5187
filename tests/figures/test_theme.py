"""The theme of the figures is theirs alone: nothing of it stays, neither by importing nor by drawing."""

import inspect
import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest
import seaborn as sns
from PIL import Image

from tmcir_lite.figures import diagrams, plots
from tmcir_lite.figures.theme import themed
from tmcir_lite.io.files import ROOT
from tmcir_lite.study import figures

PICTURES = [[Image.new("RGB", (4, 4)), None]]


@pytest.mark.parametrize("draw", [diagrams.workflows, lambda: plots.picture_rows(PICTURES, ["one", "gap"])])
def test_drawing_leaves_the_settings_as_they_were_and_no_figure_open(draw):
    before, colours = dict(matplotlib.rcParams), dict(matplotlib.colors.colorConverter.colors)
    open_before = plt.get_fignums()
    draw()
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.colors.colorConverter.colors == colours
    assert plt.get_fignums() == open_before


def test_a_figure_is_drawn_under_the_theme_whatever_the_user_has_set():
    with plt.style.context("dark_background"):
        figure = themed(lambda: plt.subplots()[0])()
    (axis,) = figure.axes
    assert axis.get_facecolor() == (1, 1, 1, 1)
    assert axis.xaxis.get_gridlines()[0].get_color() == ".8"
    assert axis.title.get_color() == ".15"


def test_a_failed_drawing_leaves_the_settings_as_they_were():
    before = dict(matplotlib.rcParams)
    with pytest.raises(ZeroDivisionError):
        themed(lambda: 1 / 0)()
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("module", [plots, diagrams, figures])
def test_every_public_function_of_a_figure_module_draws_under_the_theme(module):
    own = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
    public = [value for value in own if inspect.isfunction(value) and not value.__name__.startswith("_")]
    assert public
    assert [function.__name__ for function in public if not hasattr(function, "__wrapped__")] == []


def test_a_figure_has_the_same_ticks_when_it_is_shown_as_when_it_was_laid_out():
    """How many ticks fit depends on the size of their labels, which is another outside the theme."""
    sweep = pd.DataFrame({"weight": [0.0, 0.5, 1.0], "R@1": [1.0, 5.0, 3.0]})
    figure = plots.weight_sweeps({"sum": sweep})
    alone = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    with plt.rc_context():
        sns.set_theme(context="notebook", style="whitegrid", color_codes=False)
        assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == alone


def test_importing_the_figures_leaves_the_settings_as_they_were():
    code = (
        "import matplotlib; matplotlib.use('agg'); before = dict(matplotlib.rcParams); "
        "from tmcir_lite.figures import diagrams, plots; from tmcir_lite.study import figures; "
        "assert dict(matplotlib.rcParams) == before"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
