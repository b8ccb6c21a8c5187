"""What the notebooks show of steps that are written out, and the slider."""

import sys
import types

import pytest

from tmcir_lite.figures import lessons


def test_losses_are_drawn_by_step_with_the_loss_of_guessing():
    (axis,) = lessons.step_losses([3.0, 2.0, 1.0], guessing=2.5).axes
    losses, guessing = axis.get_lines()
    assert losses.get_xdata().tolist() == [1, 2, 3]
    assert list(losses.get_ydata()) == [3.0, 2.0, 1.0]
    assert set(guessing.get_ydata()) == {2.5}


@pytest.mark.parametrize("person", [True, False])
def test_the_slider_is_for_a_person_alone(monkeypatch, capsys, person):
    made = []
    widgets = types.SimpleNamespace(
        FloatSlider=lambda value, **limits: {"value": value, **limits},
        interact=lambda draw, threshold: made.append((draw, threshold)),
    )
    kernel = types.SimpleNamespace(_allow_stdin=person)
    monkeypatch.setattr(lessons, "ipywidgets", widgets)
    monkeypatch.setitem(
        sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=kernel))
    )
    lessons.threshold_slider(len, 2.0, 0.0)
    assert len(made) == person
    assert ("person runs" in capsys.readouterr().out) != person
    for draw, slider in made:
        assert draw is len
        assert (slider["min"], slider["value"], slider["max"]) == (0.0, 1.05, 1.05)
