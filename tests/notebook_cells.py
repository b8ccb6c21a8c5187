"""The notebooks' cells, executed in this process: seconds where a kernel of their own would take much longer."""

from typing import Any

import nbformat
from nbformat import NotebookNode

from tmcir_lite.run.notebooks import FOLDER


def cells_of(notebook: str) -> list[NotebookNode]:
    """All cells of a committed notebook, named without its suffix."""
    return nbformat.read(FOLDER / f"{notebook}.ipynb", as_version=4).cells


def tags(cell: NotebookNode) -> list[str]:
    """A cell's tags."""
    return cell.metadata.get("tags", [])


def execute(notebook: str, cell: NotebookNode, names: dict[str, Any], overrides: list[str]) -> None:
    """Executes a cell; `names` are the notebook's variables before and after. Markdown is passed over.

    The cell of the parameters is replaced by the lite profile with `overrides`.
    """
    if "parameters" in tags(cell):
        names |= {"profile": "lite", "overrides": overrides, "display": lambda *figures: None}
    elif cell.cell_type == "code":
        lines = [line for line in cell.source.splitlines() if not line.startswith("%")]
        exec(compile("\n".join(lines), f"{notebook} {cell.id}", "exec"), names)
