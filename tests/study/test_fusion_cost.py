import pytest

from tmcir_lite.io.files import InputError
from tmcir_lite.study import figures, fusion_cost

WORDS = sum(range(2, 5)) / 3


@pytest.fixture(scope="module")
def table():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fusion_cost, "WORDS", (2, 4))
        patch.setattr(fusion_cost, "ROUNDS", 1)
        return fusion_cost.fusion_cost(16, 6, (0.0, 0.5))


def test_merging_every_word_leaves_the_visual_tokens(table):
    merged = table.set_index("threshold").loc[0.0]
    assert merged["tokens"] == pytest.approx(6 / (6 + WORDS), rel=0.05)
    assert 0 < merged["memory"] < 1


def test_costs_are_ratios_to_merging_off_and_fall_with_the_threshold(table):
    assert table.iloc[-1].tolist()[1:] == [1, 1, 1, 1]
    assert table["tokens"].is_monotonic_increasing
    assert table["memory"].is_monotonic_increasing


def test_the_figure_shows_every_cost_of_every_size(table):
    figure = figures.cost_curve(table.assign(size="small"))
    (axis,) = figure.axes
    assert {line.get_label() for line in axis.lines} >= {"tokens", "memory", "time", "training time"}
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["0", "0.5", "off"]


def test_an_absent_table_says_what_makes_it(tmp_path):
    with pytest.raises(InputError, match="python -m tmcir_lite.study.fusion_cost"):
        fusion_cost.load_cost(tmp_path / "fusion_cost.csv")
