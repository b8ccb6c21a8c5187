"""How every figure looks: a theme that holds while it is drawn, so that a user's own matplotlib settings stay."""

import functools
from collections.abc import Callable
from typing import ParamSpec

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_Arguments = ParamSpec("_Arguments")


def themed(draw: Callable[_Arguments, Figure]) -> Callable[_Arguments, Figure]:
    """The same function, drawing under the theme; its figure is closed, so that a notebook shows it once."""

    @functools.wraps(draw)
    def drawn(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Figure:
        with plt.rc_context():
            # Fonts are looked up again when the figure is shown, after the theme; others would not fit the layout.
            fonts = {"font.sans-serif": plt.rcParams["font.sans-serif"]}
            sns.set_theme(context="notebook", style="whitegrid", color_codes=False, rc=fonts)
            figure = draw(*args, **kwargs)
            _keep_tick_sizes(figure)
        plt.close(figure)
        return figure

    return drawn


def _keep_tick_sizes(figure: Figure) -> None:
    """Writes down the labels' size on each axis that counts by it, when the figure is shown, how many ticks fit."""
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_locator(), MaxNLocator):
            axis.set_tick_params(labelsize=plt.rcParams[f"{axis.axis_name}tick.labelsize"])
