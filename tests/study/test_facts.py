"""What the study says of words that point, by hand."""

import pandas as pd
import torch

from tmcir_lite.data.scenes import SceneQuery
from tmcir_lite.method.atf import Match
from tmcir_lite.study.facts import recall_by_kind, where_words_point


def test_where_words_point_by_hand():
    """Of two naming words one points at its thing, top left of 3 x 3 patches; both merge, as does one of the rest."""
    words = ["make", "red", "circle", "blue", "<|endoftext|>"]
    match = Match(
        index=torch.tensor([[4, 8, 0, 5, 2, 1]]),  # the start token first
        score=torch.zeros(1, 6),
        merged=torch.tensor([[False, False, True, True, True, False]]),
        text_mask=torch.tensor([[False, True, True, True, True, True]]),
    )
    query = SceneQuery("colour", (0,), ({"colour": "red", "shape": "circle"},))
    found = where_words_point(match, [words], [query], (3, 3))
    assert found == {"pointing": 50, "naming merged": 100, "others merged": 100 / 3}


def test_recall_by_kind_counts_each_kind_of_edit_for_itself():
    """Of two seeds' colour edits three of four have rank 1; swaps are counted once."""
    outcomes = pd.DataFrame({
        "cell": "TMCIR", "seed": [0, 0, 0, 1, 1], "rank": [1, 1, 5, 1, 2],
        "kind": ["colour", "colour", "swap", "colour", "colour"],
    })  # fmt: skip
    found = recall_by_kind(outcomes).loc["TMCIR"]
    assert (found["colour"], found["swap"], found["all"]) == (75, 0, 60)
