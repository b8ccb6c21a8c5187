"""What a query is ranked against: one ranked list under several protocols."""

from collections.abc import Collection, Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from tmcir_lite.figures.theme import themed

_REFERENCE, _TARGET, _OTHER, _OUT = "#a6d4f2", "#9fdcc4", "#e6e6e6", "white"


@themed
def ranked_lists(order: Sequence[str], kept: Mapping[str, Collection[str]], reference: str, target: str) -> Figure:
    """One ranked list, best first, a row a protocol: what it ranks gets a place, what it leaves out is crossed out.

    The reference is blue, the target green, and the target's rank stands at the end of the row.

    Args:
        order: names, the highest score first.
        kept: protocol -> the names that it ranks, the target among them.
    """
    figure, axis = plt.subplots(figsize=(10, 0.85 * len(kept) + 0.9))
    for row, (title, names) in enumerate(kept.items()):
        place = 0
        axis.text(-0.2, row, title, ha="right", va="center", fontsize=12)
        for column, name in enumerate(order):
            ranked = name in names
            colour = {reference: _REFERENCE, target: _TARGET}.get(name, _OTHER) if ranked else _OUT
            style = {"facecolor": colour, "edgecolor": "0.3" if ranked else "0.8"}
            axis.add_patch(plt.Rectangle((column + 0.05, row - 0.35), 0.9, 0.7, **style))
            place += ranked
            label = f"{name}\n{place}" if ranked else name
            axis.text(column + 0.5, row, label, ha="center", va="center", fontsize=11, color="0" if ranked else "0.5")
            if ranked and name == target:
                axis.text(len(order) + 0.2, row, f"rank {place}", ha="left", va="center", fontsize=12)
            if not ranked:
                axis.plot([column + 0.15, column + 0.85], [row + 0.25, row - 0.25], color="0.85", linewidth=1.5)
    axis.set(xlim=(-2.6, len(order) + 1.2), ylim=(len(kept) - 0.5, -1))
    axis.text(0, -0.7, "highest score first", ha="left", va="center", fontsize=11, color="0.3")
    axis.axis("off")
    figure.tight_layout()
    return figure
