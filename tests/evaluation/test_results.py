import pandas as pd
import pytest

from tmcir_lite.evaluation.results import TABLE, beside_published


def results(layout, protocol, **recalls):
    return pd.DataFrame([{"layout": layout, "protocol": protocol, "category": "mean", "method": "TMCIR", **recalls}])


def test_ours_stand_among_the_published_by_their_mean_and_with_their_protocol():
    ours = results("fashioniq", "original", **{"R@1": 10.0, "R@5": 20.0, "R@10": 40.0, "R@50": 64.0})
    rows = [line for line in beside_published(ours, "fashioniq").splitlines() if line.startswith("|")]
    order = [row.split("|")[1].strip() for row in rows]
    assert order.index("CLIP4Cir TOMM 2023") < order.index("TMCIR (ours)") < order.index("CLIP4Cir 2022")
    assert "| original " in next(row for row in rows if "(ours)" in row)
    assert "52" in next(row for row in rows if "(ours)" in row)
    assert "nan" not in "".join(rows)


def test_cirr_is_ours_on_val_and_theirs_on_the_server():
    ours = results("cirr", "cirr", **{"R@1": 1.0, "R@5": 50.0, "R@10": 60.0, "R@50": 70.0, "Rs@1": 70.0})
    text = beside_published(ours, "cirr")
    assert "cirr val" in next(line for line in text.splitlines() if "(ours)" in line)
    assert "cirr test1" in next(line for line in text.splitlines() if "TMCIR (paper)" in line)


def test_without_their_recall_nothing_is_compared():
    assert "recall_at lacks" in beside_published(results("fashioniq", "original", **{"R@10": 40.0}), "fashioniq")


def test_searles_protocol_is_the_one_in_its_code():
    rows = pd.read_csv(TABLE).query("dataset == 'fashioniq' and method in ('SEARLE', 'SEARLE-XL')")
    assert list(rows["protocol"]) == ["original", "original"]


@pytest.mark.parametrize(("layout", "pair"), [("fashioniq", ["R@10", "R@50"]), ("cirr", ["R@5", "Rs@1"])])
def test_published_means_are_those_of_their_columns(layout, pair):
    rows = pd.read_csv(TABLE).query("dataset == @layout").dropna(subset=[*pair, "mean"])
    assert len(rows) > 5
    assert (rows[pair].mean(axis=1) - rows["mean"]).abs().max() < 0.1  # one paper rounds its own mean otherwise
