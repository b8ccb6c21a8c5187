"""Runs side by side, by hand."""

import pandas as pd
import pytest

from tmcir_lite.__main__ import main
from tmcir_lite.comparison import compare
from tmcir_lite.files import InputError


@pytest.fixture
def runs(tmp_path):
    for name, numbers in {"a": [50.0, 60.0, 61.0], "b": [52.0, 63.0, 62.0]}.items():
        folder = tmp_path / name / "evaluation"
        folder.mkdir(parents=True)
        rows = {"layout": "fashioniq", "protocol": "original", "category": "mean", "method": ["sum", "ATF", "off"]}
        pd.DataFrame({**rows, "R@10": numbers}).to_csv(folder / "results.csv", index=False)
    return [tmp_path / "a", tmp_path / "b"]


def test_methods_are_sorted_and_their_order_counted(runs):
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in compare(runs, "R@10").splitlines() if "| " in line
    ]
    assert rows[0] == ["method", "a", "b", "mean", "spread", "next one"]
    assert rows[1] == ["ATF", "60", "63", "61.5", "3", "ahead in 1 of 2"]
    assert rows[2] == ["off", "61", "62", "61.5", "1", "ahead in 2 of 2"]
    assert rows[3] == ["sum", "50", "52", "51", "2", ""]


def test_a_run_without_results_is_named(runs, tmp_path, capsys):
    with pytest.raises(InputError, match="two runs"):
        compare(runs[:1], "R@10")
    with pytest.raises(InputError, match="no R@7; it has R@10"):
        compare(runs, "R@7")
    assert main(["compare", str(runs[0]), str(tmp_path / "c"), "--measure=R@10"]) == 2
    assert str(tmp_path / "c") in capsys.readouterr().err
