"""The drawn diagrams: every text in its box, no box on another."""

from itertools import combinations

import pytest
from matplotlib.transforms import Bbox

from tmcir_lite.figures import diagrams


@pytest.mark.parametrize("draw", [diagrams.workflows, diagrams.framework])
def test_texts_fit_their_boxes_and_boxes_do_not_overlap(draw):
    figure = draw()
    figure.canvas.draw()
    for axis in figure.axes:
        boxes = [patch.get_window_extent() for patch in axis.patches]
        for one, other in combinations(boxes, 2):
            shared = Bbox.intersection(one, other)
            assert shared is None or min(shared.width, shared.height) < 1
        texts = [text for text in axis.texts if text.get_text()]  # an arrow is a text without letters
        for box, text in zip(boxes, texts, strict=True):
            extent = text.get_window_extent()
            assert box.contains(extent.x0, extent.y0)
            assert box.contains(extent.x1, extent.y1)
            assert text.get_fontsize() >= 11
