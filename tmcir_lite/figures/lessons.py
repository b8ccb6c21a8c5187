"""What notebooks 3 and 4 show of training steps that are written out, and a slider over the threshold."""

import sys
from collections.abc import Callable, Sequence

import ipywidgets
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tmcir_lite.figures.theme import themed


@themed
def step_losses(losses: Sequence[float], guessing: float | None = None) -> Figure:
    """The loss of each training step and, where it is given, that of one who guesses."""
    figure, axis = plt.subplots(figsize=(6, 3))
    axis.plot(range(1, len(losses) + 1), losses, marker="o", label="training")
    if guessing is not None:
        axis.axhline(guessing, color="black", linestyle="--", label="guessing: log B")
        axis.legend(loc="lower left")
    axis.set(xlabel="step", ylabel="loss of its batch")
    axis.set_ylim(0, 1.08 * max([*losses, guessing or 0]))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.tight_layout()
    return figure


def threshold_slider(draw: Callable[[float], Figure], value: float, least: float) -> None:
    """A slider from `least` to just above 1 that draws anew, where a person can move it; elsewhere a line that says so.

    A notebook that a program executes gets none: the state of a widget would be stored with it.

    Args:
        draw: threshold -> figure.
        value: where the slider starts.
    """
    if not _person_there():
        print("A slider over the threshold stands here when a person runs this cell.")
        return
    slider = ipywidgets.FloatSlider(min(value, 1.05), min=least, max=1.05, step=0.05, continuous_update=False)
    ipywidgets.interact(draw, threshold=slider)


def _person_there() -> bool:
    """Whether a cell may ask for input: only then is a notebook run by a person (papermill and nbval allow none)."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return bool(getattr(getattr(shell, "kernel", None), "_allow_stdin", False))
