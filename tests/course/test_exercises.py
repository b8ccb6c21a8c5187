"""What a student is told about an answer."""

import pytest
import torch

from tmcir_lite.course.exercises import check


@pytest.mark.parametrize(
    ("answer", "right", "said"),
    [
        (..., 3, "not answered yet\n"),
        (3, 3, "right\n"),
        (2.9, 3, "not yet: count again\n"),
        (2.9, torch.tensor(2.90004), "right\n"),
        ([1, 2], torch.tensor([1.0, 2.0]), "right\n"),
        ([1, 2, 3], [1, 2], "not yet: count again\n"),
        (None, 3, "not yet: count again\n"),
        ("red circle", "red circle", "right\n"),
        (True, True, "right\n"),
        (False, True, "not yet: count again\n"),
    ],
)
def test_an_answer_is_missing_right_or_gets_the_hint(capsys, answer, right, said):
    check(answer, right, "count again")
    assert capsys.readouterr().out == said
