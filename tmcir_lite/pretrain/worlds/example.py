"""What an editor learns from."""

from typing import Any, NamedTuple

IGNORED = -100
"""A label that no loss counts."""


class EditExample(NamedTuple):
    """A reference and its perfect edit, photographed alike (objects with `draw()`), and the text that asks for it."""

    reference: Any
    edited: Any
    text: str
    labels: list[int]
    """Numbers of what the world's `READER` reads."""
