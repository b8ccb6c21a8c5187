"""Runs side by side, by hand."""

import shutil

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


def test_runs_of_one_name_are_kept_apart(runs, tmp_path):
    shutil.copytree(runs[1], tmp_path / "elsewhere" / "a")
    header = compare([runs[0], tmp_path / "elsewhere" / "a"], "R@10").splitlines()[2]
    assert header.count(f"{tmp_path}") == 2
    with pytest.raises(InputError, match="two runs"):
        compare([runs[0], runs[0]], "R@10")


@pytest.mark.parametrize("measure", ["method", "layout", "commit", "dirty"])
def test_only_numbers_are_compared(runs, measure):
    for run in runs:
        path = run / "evaluation" / "results.csv"
        pd.read_csv(path).assign(commit="abc", dirty=False).to_csv(path, index=False)
    with pytest.raises(InputError, match=f"has no {measure}; it has R@10"):
        compare(runs, measure)


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff\xfe\0", b'"'])
def test_a_broken_table_is_named(runs, content):
    (runs[1] / "evaluation" / "results.csv").write_bytes(content)
    with pytest.raises(InputError, match="results.csv: not a table"):
        compare(runs, "R@10")


def test_runs_without_anything_in_common_are_told(runs):
    path = runs[1] / "evaluation" / "results.csv"
    pd.read_csv(path).assign(protocol="val-union").to_csv(path, index=False)
    with pytest.raises(InputError, match="no method has R@10 under a protocol"):
        compare(runs, "R@10")
