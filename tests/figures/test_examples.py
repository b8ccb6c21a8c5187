"""The rule of the retrieval examples, and what is written under them, by hand."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tmcir_lite.data.datasets import Split
from tmcir_lite.data.garments import Garment
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.evaluation.protocols import Protocol
from tmcir_lite.figures import examples, plots
from tmcir_lite.figures.examples import choose, example, find, mark
from tmcir_lite.run.data import prepare_data

REFERENCE = Garment("tee", "red", "blue", "solid", "short", "medium", "round", "none")
TARGET = dataclasses.replace(REFERENCE, colour="green", sleeves="long")
KNOWN = {
    "reference": REFERENCE,
    "target": TARGET,
    "both": dataclasses.replace(REFERENCE, colour="green", graphic="star"),
}
TRIPLET = Triplet("1", "reference", "target", ("is green", "has long sleeves"), "toptee")


def test_choice_is_by_the_ratio_to_the_best_of_the_others():
    ranks = {
        "sum": torch.tensor([10, 4, 1, 1, 2, 9, 1]),
        "ours": torch.tensor([1, 2, 1, 8, 6, 9, 1]),
        "rival": torch.tensor([3, 90, 1, 2, 9, 9, 1]),
    }  # the ratios: 3, 2, 1, 1/8, 1/3, 1, 1
    better, worse = "ours ranks the target better", "ours ranks it worse"
    assert choose(ranks, "ours", 1) == [(better, 0), (worse, 3), ("All rank it first", 2)]
    assert choose(ranks, "ours", 5) == [
        (better, 0), (better, 1), (worse, 3), (worse, 4), ("All rank it first", 2),
    ]  # fmt: skip


def test_equal_ratios_keep_file_order_and_a_kind_without_queries_is_left_out():
    ranks = {"ours": torch.tensor([1, 2, 1]), "sum": torch.tensor([2, 4, 2])}
    assert [index for _, index in choose(ranks, "ours", 2)] == [0, 1]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("target", "changed 2/2\nkept 6/6"),
        ("reference", "changed 0/2\nkept 6/6"),
        ("both", "changed 1/2\nkept 5/6"),
    ],
)
def test_marks_count_what_changed_and_what_was_kept(answer, expected):
    assert mark(TRIPLET, answer, KNOWN) == expected
    assert mark(TRIPLET, answer, None) == ""


@pytest.mark.parametrize(("masked", "first"), [(True, "target"), (False, "reference")])
def test_an_example_has_each_methods_answers_best_first(masked, first, tmp_path):
    names = list(KNOWN)
    gallery = F.one_hot(torch.arange(3)).float()
    features = {"ours": (torch.tensor([[0.8, 0.6, 0.1]]), gallery), "sum": (torch.tensor([[0.1, 0.2, 0.9]]), gallery)}
    found = find(features, [TRIPLET], Protocol(names, masked), 2)
    images = {name: tmp_path / f"{name}.png" for name in names}
    split = Split("fashioniq", "val", Path(), [TRIPLET], {"toptee": names}, images)
    drawn = example("why", TRIPLET, 0, found, names, split, KNOWN)
    assert drawn.title == "why: “is green / has long sleeves”"
    ours, other = drawn.answers.values()
    assert list(drawn.answers) == [f"ours\ntarget at rank {1 if masked else 2}", "sum\ntarget at rank 2"]
    assert ours[0].picture == images[first]
    assert [answer.right for answer in ours] == [masked, not masked]
    assert other[0].mark == "changed 1/2\nkept 5/6"


def test_drawing_frames_the_target_green_and_writes_the_marks(cfg):
    for drawn in examples.compare_retrievals(cfg, prepare_data(cfg), "original-masked", count=1, top_k=3):
        figure = plots.retrievals(drawn)
        answers = [answer for found in drawn.answers.values() for answer in found]
        labels = [axis.get_xlabel() for axis in figure.axes if axis.get_xlabel() not in ("", "reference", "target")]
        assert labels == [answer.mark for answer in answers]
        thick = [axis for axis in figure.axes if axis.spines["left"].get_linewidth() == 5]
        assert len(thick) == sum(answer.right for answer in answers)
