"""The bench on tiny models and sizes: every row is there, and what is compared computes the same."""

import re

import pytest
import torch

from tmcir_lite.scale.bench import bench
from tmcir_lite.scale.comparisons import Comparison, Sizes, Taken, measure

TINY = Sizes(
    rounds=3, seconds=0.1, pictures=8, steps=2, architecture="ViT-S-32-alt", pairs=2, edits=2, merged=(2, 5, 4, 16),
    queries=40, gallery=3000, width=64, grown=(60, 300), largest=4000,
)  # fmt: skip
SIDES = {"run": lambda: Taken(1, 3.0), "bare": lambda: Taken(1, 2.0)}


@pytest.mark.slow
def test_every_row_is_a_ratio_with_its_spread(clip_folder, editor_folder, tmp_path, capsys):
    models = (f"backbone.name=local-dir:{clip_folder}", f"editor.model={editor_folder}", "editor.steps=1")
    rows = bench(TINY, (*models, "atf.batch=8", "device=cpu"), tmp_path / "bench.md")
    page = (tmp_path / "bench.md").read_text()
    assert re.search(rf"^cpu, .* threads, torch {re.escape(torch.__version__.split('+')[0])}.*, commit ", page, re.M)
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(rows)
    for what in ("encoding", "an epoch", "ATF", "ranks", "editing", "merging", "batches of triplets", "memory"):
        assert rows["what"].str.startswith(what).any(), what
        assert what in capsys.readouterr().out or what in page
    assert rows["ratio"].astype(float).gt(0).all()
    assert rows["quartiles"].str.fullmatch(r"\S+ to \S+").all()
    assert set(rows["met"]) <= {"yes", "no", ""}
    assert (rows["met"] == "").equals(rows["goal"] == "")


def test_a_ratio_and_its_goal():
    row = measure(Comparison("ours", "bare", **SIDES, goal=1.2), TINY)
    assert (row["ratio"], row["goal"], row["met"]) == ("1.5", "≤ 1.2", "no")
    row = measure(Comparison("ours", "bare", **SIDES, goal=0.5, quicker=True), TINY)
    assert (row["ratio"], row["goal"], row["met"]) == ("0.667", "≥ 0.5", "yes")
    assert measure(Comparison("sixteen", "one", **SIDES, share=3.0), TINY)["ratio"] == "0.5"


def test_what_does_not_compute_the_same_is_no_row():
    with pytest.raises(RuntimeError, match="ours: not the same result as bare"):
        measure(Comparison("ours", "bare", **SIDES, same=lambda a, b: a != b), TINY)
