"""Figures 1 and 3 of the paper, drawn anew. Each function draws and returns a matplotlib figure.

Blue is what comes from the image, orange what comes from the text, green what comes from both.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from tmcir_lite.figures.theme import themed

_COLOURS = {"image": "#a6d4f2", "text": "#fbd38a", "both": "#9fdcc4", "loss": "#e6e6e6"}  # tints of Okabe and Ito's
_NOTE = "Our drawing; what the paper leaves open is our reading."


class _Box(NamedTuple):
    """Centre, size, in inches; what is written in it, and what it comes from."""

    x: float
    y: float
    w: float
    text: str
    source: str
    h: float = 0.5


_WORKFLOWS = [
    (
        "Visual-dominant (CLIP4Cir): the image's feature, changed by the text's",
        {
            "reference": _Box(0.7, 1.2, 1.1, "reference", "image"),
            "caption": _Box(0.7, 0.4, 1.1, "caption", "text"),
            "image encoder": _Box(2.4, 1.2, 1.4, "image encoder", "image"),
            "text encoder": _Box(2.4, 0.4, 1.4, "text encoder", "text"),
            "v": _Box(4.3, 1.2, 1.46, "one feature $v$", "image"),
            "t": _Box(4.3, 0.4, 1.46, "one feature $t$", "text"),
            "mix": _Box(6.6, 0.8, 1.9, "combiner\nadds $t$ to $v$", "image", 0.7),
            "query": _Box(8.9, 0.8, 1.1, "query $q$", "image"),
        },
        ["reference>image encoder>v>mix>query", "caption>text encoder>t>mix"],
    ),
    (
        "Text-dominant (Pic2Word): the image becomes one word of a sentence",
        {
            "reference": _Box(0.7, 1.2, 1.1, "reference", "image"),
            "caption": _Box(0.7, 0.4, 1.1, "caption", "text"),
            "image encoder": _Box(2.4, 1.2, 1.4, "image encoder", "image"),
            "word": _Box(4.3, 1.2, 1.5, "pseudo-word $S_*$", "image"),
            "sentence": _Box(4.3, 0.4, 1.9, "“a photo of $S_*$,\n[caption]”", "text", 0.6),
            "mix": _Box(6.6, 0.4, 1.9, "text encoder", "text"),
            "query": _Box(8.9, 0.4, 1.1, "query $q$", "text"),
        },
        ["reference>image encoder>word>sentence>mix>query", "caption>sentence"],
    ),
    (
        "TMCIR: encoders aligned with the intent first, then patches and words merge as tokens",
        {
            "reference": _Box(0.7, 1.2, 1.1, "reference", "image"),
            "caption": _Box(0.7, 0.4, 1.1, "caption", "text"),
            "image encoder": _Box(2.4, 1.2, 1.4, "aligned\nimage encoder", "image", 0.6),
            "text encoder": _Box(2.4, 0.4, 1.4, "aligned\ntext encoder", "text", 0.6),
            "v": _Box(4.3, 1.2, 1.46, "all patch tokens", "image"),
            "t": _Box(4.3, 0.4, 1.46, "all word tokens", "text"),
            "mix": _Box(6.6, 0.8, 1.9, "adaptive token fusion\n(similar ones merge)", "both", 0.7),
            "query": _Box(8.9, 0.8, 1.1, "query $q$", "both"),
        },
        ["reference>image encoder>v>mix>query", "caption>text encoder>t>mix"],
    ),
]

_ALIGNMENT = {
    "reference": _Box(0.7, 2.1, 1.1, "reference", "image"),
    "caption": _Box(0.7, 0.4, 1.1, "caption", "text"),
    "diffusion": _Box(2.6, 1.6, 1.46, "diffusion model\n(frozen)", "both", 0.6),
    "pseudo": _Box(4.4, 1.6, 1.34, "pseudo-target\nimage", "both", 0.6),
    "image encoder": _Box(6.2, 1.6, 1.4, "image encoder\n(trained)", "image", 0.6),
    "text encoder": _Box(6.2, 0.4, 1.4, "text encoder\n(trained)", "text", 0.6),
    "loss": _Box(8.8, 1.0, 1.74, "InfoNCE\n$v_i$ with its own $t_i$,\nnot with the others", "loss", 0.9),
}
_FUSION = {
    "reference": _Box(0.7, 3.2, 1.1, "reference", "image"),
    "caption": _Box(0.7, 2.0, 1.1, "caption", "text"),
    "target": _Box(0.7, 0.4, 1.1, "real target", "image"),
    "image encoder": _Box(2.4, 3.2, 1.5, "image encoder:\npatch tokens $v$", "image", 0.6),
    "text encoder": _Box(2.4, 2.0, 1.5, "text encoder:\nword tokens $t$", "text", 0.6),
    "target encoder": _Box(2.4, 0.4, 1.5, "the same\nimage encoder", "image", 0.6),
    "similarity": _Box(4.6, 2.6, 1.7, "cosine of each\npatch and word", "both", 0.7),
    "merge": _Box(6.75, 2.6, 1.9, "if past a threshold:\nmerge, by similarity,\nwith positions", "both", 0.9),
    "block": _Box(8.9, 2.6, 1.4, "transformer\nblock, pooling", "both", 0.7),
    "query": _Box(8.9, 1.45, 1.4, "query feature $q$", "both"),
    "loss": _Box(8.9, 0.4, 1.6, "InfoNCE\n$q_i$ with its target", "loss", 0.6),
    # An example below the two steps: three patches and two words, of which the first merges.
    "v1": _Box(3.92, 1.45, 0.34, "$v_1$", "image", 0.36),
    "v2": _Box(4.26, 1.45, 0.34, "$v_2$", "image", 0.36),
    "v3": _Box(4.60, 1.45, 0.34, "$v_3$", "image", 0.36),
    "t1": _Box(4.94, 1.45, 0.34, "$t_1$", "text", 0.36),
    "t2": _Box(5.28, 1.45, 0.34, "$t_2$", "text", 0.36),
    "merged": _Box(6.22, 1.45, 0.74, "$v_1$ + $t_1$", "both", 0.36),
    "v2 after": _Box(6.76, 1.45, 0.34, "$v_2$", "image", 0.36),
    "v3 after": _Box(7.10, 1.45, 0.34, "$v_3$", "image", 0.36),
    "t2 after": _Box(7.44, 1.45, 0.34, "$t_2$", "text", 0.36),
}


@themed
def workflows() -> Figure:
    """Fig. 1: three ways to make one query of an image and a text: visual-dominant, text-dominant, TMCIR."""
    figure, axes = plt.subplots(3, 1, figsize=(9.8, 6.6))
    for axis, (title, boxes, chains) in zip(axes, _WORKFLOWS, strict=True):
        _draw(axis, title, boxes, chains, height=1.7)
    return _finish(figure)


@themed
def framework() -> Figure:
    """Fig. 3: stage 1 aligns both encoders with pseudo-targets (IACMA), stage 2 fuses their tokens (ATF)."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(9.8, 7.2), height_ratios=(2.5, 3.7))
    _draw(above, "Stage 1, IACMA: a picture of the intent, and the text, get the same feature", _ALIGNMENT,
          ["reference>diffusion>pseudo>image encoder>loss", "caption>diffusion", "caption>text encoder>loss"],
          height=2.5)  # fmt: skip
    _draw(below, "Stage 2, ATF: from the aligned encoders' tokens to one query feature", _FUSION,
          ["reference>image encoder>similarity>merge>block>query>loss", "caption>text encoder>similarity",
           "target>target encoder>loss", "t2>merged"], height=3.7)  # fmt: skip
    return _finish(figure)


def _draw(axis, title: str, boxes: Mapping[str, _Box], chains: Sequence[str], height: float) -> None:
    """Boxes and the arrows between them; a chain "a>b>c" is an arrow from a to b and one from b to c."""
    axis.set(xlim=(0, 9.8), ylim=(0, height), aspect="equal")
    axis.axis("off")
    axis.set_title(title, loc="left", fontsize=12.5, fontweight="bold")
    for box in boxes.values():
        corner = box.x - box.w / 2, box.y - box.h / 2
        axis.add_patch(plt.Rectangle(corner, box.w, box.h, facecolor=_COLOURS[box.source], edgecolor="0.3"))
        axis.text(box.x, box.y, box.text, ha="center", va="center", fontsize=11)
    for chain in chains:
        names = chain.split(">")
        for start, end in zip(names, names[1:], strict=False):
            _arrow(axis, boxes[start], boxes[end])


def _arrow(axis, start: _Box, end: _Box) -> None:
    """From the right edge to the left one; between boxes one above the other, down."""
    if start.x + start.w / 2 < end.x - end.w / 2:
        tail, head = (start.x + start.w / 2, start.y), (end.x - end.w / 2, end.y)
    else:
        tail, head = (start.x, start.y - start.h / 2), (end.x, end.y + end.h / 2)
    style = {"arrowstyle": "-|>", "color": "0.2", "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", xy=head, xytext=tail, arrowprops=style)


def _finish(figure: Figure) -> Figure:
    figure.text(0.99, 0.005, _NOTE, ha="right", va="bottom", fontsize=10, color="0.35", style="italic")
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    return figure
