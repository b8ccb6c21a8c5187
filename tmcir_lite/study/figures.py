"""The study's figures. Each function draws and returns a matplotlib figure; what was not run is said to be so in it."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tmcir_lite.evaluation.results import MEANS
from tmcir_lite.figures.theme import colours, themed
from tmcir_lite.study.effects import HOLDS, NEITHER, REVERSE
from tmcir_lite.study.plan import Claim
from tmcir_lite.study.report import ABSENT, LAYOUTS, Study

_COLOURS = {"fashioniq": "#0072b2", "cirr": "#e69f00"}  # Okabe and Ito's, as below
_VERDICTS = {HOLDS: "#009e73", NEITHER: "0.5", REVERSE: "#d55e00"}
_MARKERS = {"fashioniq": "o", "cirr": "s"}
_TICKS = (-50, -20, -10, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 10, 20, 50)
_OFF = "TMCIR, merging off"
_HALF = "TMCIR"
_SUM = "fine-tuned sum"


@themed
def threshold_curve(study: Study) -> Figure:
    """As Fig. 4 of the paper: recall, and share of merged words, against the threshold."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4))
    sweep = _of_shared_seeds(study.rows[(study.rows["part"] == "threshold") | study.rows["cell"].isin([_HALF, _OFF])])
    for axis, layout in zip(axes, LAYOUTS, strict=True):
        rows = sweep[sweep["layout"] == layout]
        first, second = MEANS[layout]
        _curve(axis, rows.assign(y=(rows[first] + rows[second]) / 2), _COLOURS[layout])
        axis.set(title=LAYOUTS[layout], ylabel=f"mean of {first} and {second} (%)")
        low, high = axis.dataLim.intervaly
        if 0 <= high - low < 4:  # or a query more or less would look like a trend
            axis.set_ylim((low + high) / 2 - 2, (low + high) / 2 + 2)
        merged, right = rows.groupby("x")["merged"].mean(), axis.twinx()
        right.bar(merged.index, merged, width=0.06, color="0.87", zorder=0)
        right.set(ylim=(0, 105), ylabel="words merged (%, bars)")
        right.grid(False)
        axis.set_zorder(right.get_zorder() + 1)
        axis.patch.set_visible(False)
        _threshold_axis(axis, rows["x"].unique())
    return _done(figure)


@themed
def cost_curve(cost: pd.DataFrame) -> Figure:
    """What merging saves against the threshold, each size of `fusion_cost`'s table for itself."""
    sizes = cost.groupby("size", sort=False)
    figure, axes = plt.subplots(1, len(sizes), figsize=(5.5 * len(sizes), 4), squeeze=False)
    lines = {"tokens": "#009e73", "memory": "#0072b2", "time": "#d55e00", "training time": "#cc79a7"}
    for axis, (size, rows) in zip(axes.flat, sizes, strict=True):
        for (column, colour), marker in zip(lines.items(), "os^v", strict=True):
            points = rows.assign(x=rows["threshold"].clip(upper=1.1), y=100 * rows[column])
            _curve(axis, points, colour, column, marker)
        axis.lines[0].set_linewidth(6)  # tokens: memory lies on them
        axis.set(title=size, ylabel="% of merging off", ylim=(0, None))
        axis.legend(fontsize=9, loc="lower right")
        _threshold_axis(axis, points["x"].unique())
    return _done(figure)


def _threshold_axis(axis: Axes, thresholds: Sequence[float]) -> None:
    ticks = sorted(thresholds)
    axis.set_xticks(ticks, [f"{tick:g}" if tick <= 1 else "off" for tick in ticks])
    axis.set_xlabel("threshold (quantile)")


def _of_shared_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of seeds that every cell has: points of one curve must not differ in their seeds."""
    seeds = [set(found) for _, found in rows.groupby("cell")["seed"]]
    return rows[rows["seed"].isin(set.intersection(*seeds) if seeds else set())]


def _curve(axis: Axes, rows: pd.DataFrame, colour: str, label: str | None = None, marker: str = "o") -> None:
    """Mean of `y` over seeds against `x`, a band of one standard deviation; x beyond 1 is merging off, set apart."""
    points = rows.dropna(subset="y").groupby("x")["y"].agg(["mean", "std"]).fillna(0.0)
    if points.empty:
        _say_absent(axis)
        return
    on, off = points[points.index <= 1], points[points.index > 1]
    axis.plot(on.index, on["mean"], marker=marker, color=colour, label=label)
    axis.fill_between(on.index, on["mean"] - on["std"], on["mean"] + on["std"], color=colour, alpha=0.2, linewidth=0)
    axis.errorbar(off.index, off["mean"], off["std"], fmt="D", color=colour, capsize=4)
    if len(off):
        axis.axvline((1 + off.index[0]) / 2, color="0.6", linestyle=":", linewidth=1)


@themed
def dose_response(study: Study) -> Figure:
    """What IACMA gives the weighted sum with pseudo-targets from perfect to all wrong, and with the editor's own."""
    shown = {"perfect": "sum, perfect", "a quarter copies": "a quarter copies", "all copies": "all copies",
             "half wrong": "half wrong", "all wrong": "all wrong", "the editor's": "sum, pseudo",
             "editor, guidance 1": "editor, guidance 1", "editor, guidance 4": "editor, guidance 4"}  # fmt: skip
    return _gains_figure(study, shown, "weighted sum", "IACMA with pseudo-targets of known quality", width=13)


@themed
def drift(study: Study) -> Figure:
    """What IACMA gives the weighted sum with real targets that drift less or more, and with pseudo-targets."""
    rules = ("no drift", "background by text", "half unasked changes", "unasked changes", "half contradicted",
             "contradicted")  # fmt: skip
    shown = {"real": "sum, real"} | {f"real, {rule}": rule for rule in rules}
    shown |= {"perfect": "sum, perfect", "the editor's": "sum, pseudo"}
    shown |= {f"{kind}, 500 triplets": f"sum, {kind}, 500" for kind in ("real", "perfect")}
    return _gains_figure(study, shown, "weighted sum", "IACMA with real and with pseudo-targets", width=14.5)


@themed
def ablations(study: Study) -> Figure:
    """What each part of the fusion, each alignment before it, and each choice of IACMA's changes."""
    figure, (upper, lower, recipes) = plt.subplots(3, 1, figsize=(14, 12))
    own = [cell.name for cell in study.plan.cells if cell.part == "fusion"]
    own = [_SUM, _OFF, "cross-attention", *own, "TMCIR, hard negatives"]
    _gains(upper, study, {name.removeprefix("TMCIR, "): name for name in own}, _HALF)
    upper.set_title("Parts of the fusion (log beyond 2)", loc="left")
    upper.set_yscale("symlog", linthresh=2)  # or the one part that is all would hide the others
    upper.set_ylim(bottom=2 * upper.get_ylim()[0])  # points at the lowest bar's end in full
    upper.set_yticks([-50, -10, -2, -1, 0, 1, 2], ["-50", "-10", "-2", "-1", "0", "+1", "+2"])
    alignments = ("real", "perfect", "words too")
    shown = {"pseudo": "TMCIR after IACMA"} | {name: f"fusion, {name}" for name in alignments}
    _gains(lower, study, shown, _HALF)
    lower.set_title("Alignments before the fusion", loc="left")
    shown = ("pseudo", "one direction", "words too", "perfect", "perfect, full captions", "real")
    _gains(recipes, study, {name: f"sum, {name}" for name in (*shown, "real, full captions")}, "weighted sum")
    recipes.set_title("Choices of IACMA, before the weighted sum", loc="left")
    return _done(figure)


def _gains_figure(study: Study, shown: Mapping[str, str], base: str, title: str, width: float) -> Figure:
    """A figure of `_gains` alone."""
    figure, axis = plt.subplots(figsize=(width, 4))
    _gains(axis, study, shown, base)
    axis.set_title(title, loc="left")
    return _done(figure)


def _gains(axis: Axes, study: Study, shown: Mapping[str, str], base: str) -> None:
    """R@1 of cells less that of `base` with the same seed: a bar for the mean, a point a seed, both layouts.

    Args:
        shown: label -> cell.
    """
    for place, cell in enumerate(shown.values()):
        gains = {layout: study.gain(cell, base, layout) for layout in LAYOUTS}
        if all(gain.empty for gain in gains.values()):
            axis.text(place, 0, ABSENT, ha="center", va="bottom", fontsize=9, color="0.4")
        for x, (layout, gain) in zip((place - 0.19, place + 0.19), gains.items(), strict=True):
            axis.bar(x, gain.mean(), width=0.34, color=_COLOURS[layout], alpha=0.45)
            spots = x + np.linspace(-0.1, 0.1, len(gain))
            axis.scatter(spots, gain, s=22, color=_COLOURS[layout], edgecolor="0.2", linewidth=0.6, zorder=3)
    axis.axhline(0, color="0.2", linewidth=1)
    axis.set(xlim=(-0.6, len(shown) - 0.4), ylabel=f"R@1 less that of\n“{base}” (points)")
    axis.set_xticks(
        range(len(shown)), [textwrap.fill(label, 11, break_long_words=False) for label in shown], fontsize=10
    )
    axis.legend(handles=[plt.Rectangle((0, 0), 1, 1, color=_COLOURS[layout], alpha=0.6, label=title)
                         for layout, title in LAYOUTS.items()],
                fontsize=9.5, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)  # fmt: skip


@themed
def triplets_curve(study: Study) -> Figure:
    """R@1 with fusion and of a fine-tuned sum against the number of training triplets."""
    usual = study.plan.triplets
    part = [cell for cell in study.plan.cells if cell.part == "triplets"]
    figure, axes = plt.subplots(1, len(LAYOUTS), figsize=(11, 4))
    for axis, layout in zip(axes, LAYOUTS, strict=True):
        colour = colours(())
        kinds = (("fusion", _HALF, _HALF, colour[_HALF]), (_SUM, f"{_SUM}, no fusion", _SUM, colour[_SUM]))
        for kind, label, at_usual, colour in kinds:
            sizes = {cell.name: cell.x for cell in part if cell.name.startswith(kind)} | {at_usual: usual}
            rows = study.rows[(study.rows["layout"] == layout) & study.rows["cell"].isin(sizes)]
            rows = _of_shared_seeds(rows.assign(x=rows["cell"].map(sizes)))
            points = rows.groupby("x")["R@1"].agg(["mean", "std"]).fillna(0.0)
            if len(points):
                style = {"fmt": "o-", "capsize": 4, "color": colour, "label": label}
                axis.errorbar(points.index, points["mean"], points["std"], **style)
        if axis.lines:
            axis.legend(fontsize=9)
        else:
            _say_absent(axis)
        axis.set_xscale("log")
        ticks = sorted({usual, *(cell.x for cell in part)})
        axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axis.minorticks_off()
        axis.set(title=LAYOUTS[layout], xlabel="training triplets (log axis)", ylabel="R@1 (%)")
    return _done(figure)


@themed
def many_triplets(study: Study) -> Figure:
    """What the fusion gives with as many triplets as the real datasets have, beside a sum, tuned and fine-tuned."""
    names = ("ATF alone", "ATF alone, merging off", _SUM, "TMCIR")
    shown = {name: f"{name}, 18000" for name in names} | {"TMCIR, fusion lr 1e-4": "TMCIR, 18000, fusion lr 1e-4"}
    return _gains_figure(study, shown, "weighted sum, 18000", "18,000 training triplets", width=10)


@themed
def trained_on_cirr(study: Study) -> Figure:
    """What training on CIRR's layout gives each method, with few triplets and with as many as above."""
    names = ("CLIP4Cir", _OFF, _HALF, _SUM, f"{_HALF}, 18000", f"{_SUM}, 18000")
    shown = {name: f"{name}, on CIRR" for name in names}
    return _gains_figure(study, shown, "weighted sum, on CIRR", "Trained on CIRR's layout", width=10)


@themed
def effects(study: Study) -> Figure:
    """A row a claim: every effect that tests it with its 95% interval, right of 0 on the claim's side."""
    claims = study.plan.claims
    tests = [[(test, layout) for test in claim.tests for layout in study.layouts] for claim in claims]
    heights = [max(0.3 * len(each), 0.42 * len(_label(claim)), 0.6) for claim, each in zip(claims, tests, strict=True)]
    ends = np.cumsum(heights)
    figure, axis = plt.subplots(figsize=(11, 0.46 * ends[-1] + 1.3))
    for claim, each, end, height in zip(claims, tests, ends, heights, strict=True):
        axis.axhline(end, color="0.85", linewidth=1)
        for number, (test, layout) in enumerate(each):
            y = end - height / 2 + 0.27 * (number - (len(each) - 1) / 2)
            _effect(axis, y, study.effect(claim.claim, *test, layout), _MARKERS[layout])
    axis.axvline(0, color="0.2", linewidth=1)
    axis.set_yticks(ends - np.array(heights) / 2, ["\n".join(_label(claim)) for claim in claims], fontsize=10)
    limits = axis.get_xlim()
    axis.set_xscale("symlog", linthresh=5, linscale=2)  # a rival far behind leaves room for the small effects
    axis.set_xticks(_TICKS, [f"{tick:+d}" if tick else "0" for tick in _TICKS])
    axis.set(xlim=limits, ylim=(ends[-1], 0))
    axis.set_xlabel("difference in points, 95% interval over seeds and queries (log beyond 5)")
    axis.grid(False, axis="y")
    marks = [Line2D([], [], color="0.3", marker=_MARKERS[name], ls="", label=title)
             for name, title in study.layouts.items()]  # fmt: skip
    marks += [Line2D([], [], color=colour, linewidth=3, label=verdict) for verdict, colour in _VERDICTS.items()]
    axis.legend(handles=marks, fontsize=10, ncols=5, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    return _done(figure)


@themed
def kinds(study: Study, parts: Sequence[str]) -> Figure:
    """Of scenes: R@1 of each cell of some parts, a row, for each kind of edit and for all, a column; over all seeds."""
    cells = [cell.name for cell in study.plan.cells if cell.part in parts and cell.name in study.kinds.index]
    shown = study.kinds.loc[cells]
    figure, axis = plt.subplots(figsize=(9, 0.42 * len(shown) + 1.2))
    if shown.empty:
        _say_absent(axis)
        return _done(figure)
    sns.heatmap(shown, vmin=0, vmax=100, cmap="Blues", annot=True, fmt=".0f", cbar=False, linewidths=1, ax=axis)
    axis.set(xlabel="", ylabel="")
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.tick_params(axis="y", rotation=0)
    return _done(figure)


def _effect(axis: Axes, y: float, effect: pd.Series | None, marker: str) -> None:
    if effect is None:
        axis.text(0, y, f" {ABSENT}", va="center", fontsize=9, color="0.4")
        return
    colour = _VERDICTS[effect["verdict"]]
    axis.plot([effect["low"], effect["high"]], [y, y], color=colour, linewidth=2)
    axis.plot(effect["difference"], y, marker, color=colour, markersize=5)


def _label(claim: Claim) -> list[str]:
    return textwrap.wrap(claim.claim + ("" if claim.measure == "R@1" else f" ({claim.measure})"), 48,
                         break_on_hyphens=False)  # fmt: skip


def _say_absent(axis: Axes) -> None:
    axis.text(0.5, 0.5, ABSENT, transform=axis.transAxes, ha="center", va="center", fontsize=12, color="0.4")


def _done(figure: Figure) -> Figure:
    figure.tight_layout(w_pad=2)
    return figure
