"""Wilson's interval, against values worked by hand."""

from tmcir_lite.evaluation.intervals import percentage


def test_wilson_by_hand():
    # p = .8, n = 10, z = 1.96: centre .8 + .19208 = .99208, spread 1.96 sqrt(.016 + .009604) = .31362, over 1.38416
    assert percentage(8, 10) == "80.0 (49.0 to 94.3)"


def test_all_and_none_stay_between_0_and_100():
    assert percentage(20, 20).endswith("to 100.0)")
    assert percentage(0, 20).startswith("0.0 (0.0 to ")
    assert percentage(0, 0) == "none such"
