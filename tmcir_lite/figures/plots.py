"""Figures of pictures, trainings, tokens and results. Each function draws and returns a matplotlib figure."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from tmcir_lite.data.pictures import load_image
from tmcir_lite.figures.examples import Example
from tmcir_lite.figures.theme import colours, themed
from tmcir_lite.method.atf import Match

Tile = Image.Image | Path | None
"""A picture in a row of pictures; None is a gap."""


def _line(number: int) -> dict:
    """The style of the n-th curve, from 0: later ones are thinner and broken, so that one that they cover shows."""
    width, dashes, marker = ((3.6, "-", "o"), (2.2, "--", "s"), (1.5, ":", "^"))[number % 3]
    return {"linewidth": width, "linestyle": dashes, "marker": marker, "markersize": 9 - 2 * (number % 3)}


@themed
def picture_rows(rows: Sequence[Sequence[Tile]], titles: Sequence[str], captions: Sequence[str] = ()) -> Figure:
    """Pictures in rows (None leaves a gap), a title over each column, a caption to the left of each row."""
    figure, axes = plt.subplots(len(rows), len(titles), figsize=(1.7 * len(titles) + 2.2, 1.75 * len(rows) + 0.4),
                                squeeze=False)  # fmt: skip
    for number, (row, line) in enumerate(zip(rows, axes, strict=True)):
        for picture, axis in zip(row, line, strict=True):
            _show(axis, picture)
        if captions:
            line[0].set_ylabel(textwrap.fill(captions[number], 26), rotation=0, ha="right", va="center", fontsize=9)
    for title, axis in zip(titles, axes[0], strict=True):
        axis.set_title(title, fontsize=11)
    figure.tight_layout(h_pad=0.4, w_pad=0.4)
    return figure


def _show(axis, picture: Tile) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    if picture is None:
        axis.set_frame_on(False)
        return
    axis.imshow(load_image(picture) if isinstance(picture, Path) else picture, interpolation="nearest")


@themed
def histories(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Training loss (of which a training of no epochs has none) and held-out recall by epoch, one line a training."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
    for number, (name, table) in enumerate(tables.items()):
        if "loss" in table:
            left.plot(table["epoch"], table["loss"], label=name, **_line(number))
        score = next(column for column in table if column.startswith("heldout_"))
        right.plot(table["epoch"], table[score], label=name, **_line(number))
    for axis in (left, right):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    left.set(xlabel="epoch", ylabel="loss (train)")
    right.set(xlabel="epoch (0: before training)", ylabel=f"{score.removeprefix('heldout_')}, held-out train (%)")
    right.legend()
    figure.tight_layout()
    return figure


@themed
def weight_sweeps(sweeps: Mapping[str, pd.DataFrame]) -> Figure:
    """Held-out recall of the weighted sum against the text's weight."""
    figure, axis = plt.subplots(figsize=(6, 3.4))
    for number, (name, sweep) in enumerate(sweeps.items()):
        (score,) = sweep.columns.drop("weight")
        axis.plot(sweep["weight"], sweep[score], label=name, **_line(number))
    axis.set(xlabel="weight of the text in the sum", ylabel=f"{score}, held-out train (%)")
    axis.legend()
    figure.tight_layout()
    return figure


@themed
def similarity_maps(maps: Mapping[str, Tensor], columns: Sequence[str], rows: Sequence[str] | None = None) -> Figure:
    """Cosines, R C each, side by side in the same colours; with names of the rows the numbers are written as well.

    Args:
        maps: title -> cosines, such as of visual tokens (rows) and text tokens (columns).
    """
    tall = 0.42 * len(rows) + 1.2 if rows else 4.4
    wide = max(4.5, 0.58 * len(columns) + 1.5) * len(maps)
    figure, axes = plt.subplots(1, len(maps), figsize=(min(wide, 14), max(2.6, tall)), squeeze=False)
    strongest = max(S.abs().max().item() for S in maps.values())
    for axis, (title, S) in zip(axes[0], maps.items(), strict=True):
        sns.heatmap(S.numpy(), cmap="vlag", vmin=-strongest, vmax=strongest, annot=bool(rows), fmt=".2f", ax=axis,
                    annot_kws={"fontsize": 9}, cbar_kws={"label": "cosine"}, xticklabels=list(columns),
                    yticklabels=list(rows) if rows else 8)  # fmt: skip
        axis.set_title(title, fontsize=11)
        axis.set_ylabel("" if rows else "patch")
        axis.tick_params(axis="x", rotation=60)
        axis.tick_params(axis="y", rotation=0)
    figure.tight_layout()
    return figure


@themed
def cosine_spread(groups: Mapping[str, Tensor]) -> Figure:
    """Distributions of cosines, one curve a group."""
    figure, axis = plt.subplots(figsize=(6, 3.2))
    for number, (name, values) in enumerate(groups.items()):
        dashes = _line(number)["linestyle"]
        sns.kdeplot(values.flatten().numpy(), ax=axis, label=name, fill=True, alpha=0.25, linestyle=dashes)
    axis.set(xlabel="cosine of a patch token and a word token", ylabel="density")
    axis.legend()
    figure.tight_layout()
    return figure


@themed
def merge_maps(
    pictures: Sequence[Image.Image], grid: tuple[int, int], match: Match, words: Sequence[Sequence[str]]
) -> Figure:
    """Reference images, a number on each patch that words merged into; below, which words, and which were kept.

    Args:
        pictures: what the encoder sees of each query's reference.
        grid: rows and columns of patches.
        match: of the same queries, in a batch.
        words: of each query, as `Backbone.words` gives them.
    """
    figure, axes = plt.subplots(1, len(pictures), figsize=(3.1 * len(pictures), 5.4), squeeze=False)
    for row, (axis, picture) in enumerate(zip(axes[0], pictures, strict=True)):
        _show(axis, picture)
        into, kept = _merged_words(match, row, words[row])
        height, width = picture.height / grid[0], picture.width / grid[1]
        for number, patch in enumerate(into, 1):
            x, y = patch % grid[1] * width - 0.5, patch // grid[1] * height - 0.5
            axis.add_patch(plt.Rectangle((x, y), width, height, fill=False, edgecolor="white", linewidth=2))
            axis.text(x + width / 2, y + height / 2, number, ha="center", va="center", fontsize=10, color="white",
                      bbox={"facecolor": "black", "pad": 1.5, "linewidth": 0})  # fmt: skip
        lines = [f"{number}: {', '.join(said)}" for number, said in enumerate(into.values(), 1)]
        lines.append(f"kept: {', '.join(kept) or 'none'}")
        text = "\n".join(textwrap.fill(line, 28, subsequent_indent="    ") for line in lines)
        axis.text(0, -0.04, text, transform=axis.transAxes, ha="left", va="top", fontsize=11, parse_math=False)
    figure.tight_layout()
    return figure


def _merged_words(match: Match, row: int, words: Sequence[str]) -> tuple[dict[int, list[str]], list[str]]:
    """Patch -> the words of one query that merged into it, patches from the top left; and the words that were kept."""
    merged, kept = (where[row].nonzero().flatten().tolist() for where in (match.merged, match.kept))
    word_at = dict(zip(sorted(merged + kept), words, strict=True))
    into: dict[int, list[str]] = {}
    for token in merged:
        into.setdefault(match.index[row, token].item(), []).append(word_at[token])
    return dict(sorted(into.items())), [word_at[token] for token in kept]


@themed
def retrievals(example: Example) -> Figure:
    """One query: at the left its reference and its target, then a row a method; the target is framed green."""
    methods, shown = len(example.answers), max(len(found) for found in example.answers.values())
    rows = max(methods, 2)  # the target stands below the reference
    figure, axes = plt.subplots(rows, shown + 2, figsize=(1.6 * (shown + 2), 2.1 * rows + 0.5), squeeze=False)
    for axis in axes.flat:
        _show(axis, None)
    for axis, picture, name in zip(axes[:, 0], (example.reference, example.target), ("reference", "target"),
                                   strict=False):  # fmt: skip
        _frame(axis, picture, name)
    for line, (label, found) in zip(axes[:, 1:], example.answers.items(), strict=False):
        line[0].text(1, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize=10)
        for axis, answer in zip(line[1:], found, strict=True):
            _frame(axis, answer.picture, answer.mark, right=answer.right)
    figure.suptitle(textwrap.fill(example.title, 90), fontsize=12, parse_math=False)  # a caption may hold a $
    figure.tight_layout(h_pad=0.5, w_pad=0.3)
    return figure


def _frame(axis, picture: Tile, below: str, right: bool = False) -> None:
    axis.set_frame_on(True)
    _show(axis, picture)
    axis.set_xlabel(below, fontsize=10)
    for side in axis.spines.values():
        side.set(color="#009e73" if right else "0.8", linewidth=5 if right else 1)


@themed
def intent_plane(table: pd.DataFrame) -> Figure:
    """Methods (rows of `table`) as points: what they change against what they keep; ideal is the upper right corner.

    Once all of them, once those that are at most twice as far from the corner as the nearest one, larger.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 5.6))
    points = table[["changed", "kept"]].reset_index()
    distance = np.hypot(100 - points["changed"], 100 - points["kept"])
    near = points[distance <= 2 * distance.min()]
    for axis, title, inside in zip(axes, ("all methods", "near the ideal, larger"), (points, near), strict=True):
        sns.scatterplot(points, x="changed", y="kept", hue="method", style="method", s=130, ax=axis, clip_on=True,
                        palette=colours(table.index), legend=axis is axes[1])  # fmt: skip
        axis.plot(100, 100, marker="*", color="black", markersize=16, linestyle="none", clip_on=axis is axes[1])
        lows, highs = inside[["changed", "kept"]].min(), inside[["changed", "kept"]].max()
        if axis is axes[0]:
            highs = highs.clip(lower=100)
        margin = 0.12 * (highs - lows).clip(lower=1)
        axis.set(xlim=(lows["changed"] - margin["changed"], highs["changed"] + margin["changed"]),
                 ylim=(lows["kept"] - margin["kept"], highs["kept"] + margin["kept"]), title=title,
                 xlabel="asked-for attributes changed (%)", ylabel="other attributes kept (%)")  # fmt: skip
    axes[0].annotate("ideal", (100, 100), (-12, -4), textcoords="offset points", ha="right", va="center", fontsize=11)
    handles, names = axes[1].get_legend_handles_labels()
    axes[1].get_legend().remove()
    figure.legend(handles, names, fontsize=10, ncols=3, loc="lower center", frameon=False)
    figure.tight_layout(rect=(0, 0.03 + 0.04 * -(-len(names) // 3), 1, 1))
    return figure


@themed
def confusions(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """One square for each attribute: rows what is shown, columns what it is taken for, in % of a row."""
    figure, axes = plt.subplots(2, (len(tables) + 1) // 2, figsize=(15, 8))
    for axis, (name, counts) in zip(axes.flat, tables.items(), strict=False):
        percent = 100 * counts.div(counts.sum(axis=1).clip(lower=1), axis=0)
        numbers = len(counts) <= 6
        sns.heatmap(percent, vmin=0, vmax=100, cmap="Blues", annot=numbers, fmt=".0f", cbar=False, square=True, ax=axis)
        right = 100 * np.trace(counts.to_numpy()) / counts.to_numpy().sum()
        axis.set(title=f"{name}: {right:.0f}% right", xlabel="taken for", ylabel="shown")
        axis.tick_params(axis="x", rotation=60)
        axis.tick_params(axis="y", rotation=0)
    figure.tight_layout()
    return figure
