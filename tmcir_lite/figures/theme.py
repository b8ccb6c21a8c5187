"""How every figure looks: a theme that holds while it is drawn, so that a user's own matplotlib settings stay."""

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import ParamSpec

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_Arguments = ParamSpec("_Arguments")
_PALETTE = [*sns.color_palette("colorblind").as_hex(), "#000000", "#737373"]
_METHODS = ("TMCIR", "CLIP4Cir", "fine-tuned sum", "Pic2Word", "image only", "text only", "sum", "TMCIR, merging off",
            "weighted sum", "CLIP4Cir, stage 1", "IACMA (chosen epoch), weighted sum",
            "IACMA (last epoch), weighted sum")  # fmt: skip


def colours(methods: Iterable[str]) -> dict[str, str]:
    """Method -> its colour, the same in every figure; methods of one's own get the rest in turn."""
    given = dict(zip(_METHODS, _PALETTE, strict=True))
    others = (name for name in methods if name not in given)
    return given | dict(zip(others, itertools.cycle(["#17becf", "#8c564b", "#bcbd22"])))


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
