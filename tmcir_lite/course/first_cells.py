"""Writes the first two cells of every notebook: where it opens and what stands beside it, and what brings the package.

`python -m tmcir_lite.course.first_cells` rewrites them, `--check` says whether they are up to date. The repository's
address stands in `pyproject.toml`, `[project.urls]`, and nowhere else: a fork changes it there and runs this again.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path

import nbformat

from tmcir_lite.io.files import ROOT, InputError, write_text
from tmcir_lite.run.notebooks import FOLDER

LINKS, CODE = "first-links", "first-code"
"""The ids of the two cells."""

BRING = """\
%matplotlib inline
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

if not all(map(importlib.util.find_spec, ("tmcir_lite", "open_clip"))):  # Colab, Kaggle, a kernel that lacks them
    places = (Path.cwd(), *Path.cwd().parents, Path.cwd() / "tmcir-lite")
    root = next((path for path in places if (path / "tmcir_lite" / "course").is_dir()), None)
    if root is None:
        os.environ["GIT_TERMINAL_PROMPT"] = "0"  # an address that is not there must not wait for a password
        clone = "git clone --quiet --depth 1 {address} tmcir-lite"
        failed, said = subprocess.getstatusoutput(clone)
        if failed:
            raise SystemExit(f"{{clone}}: {{said}} (it needs git and a network, or the repository in {{Path.cwd()}})")
        root = places[-1]
    sys.path.insert(0, str(root))
    from tmcir_lite.course.bring import install_missing

    install_missing()"""


def notebooks(folder: Path = FOLDER) -> list[Path]:
    """The course in its order."""
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def title(notebook: nbformat.NotebookNode) -> str:
    """The first heading of a notebook."""
    headings = (re.search(r"^# (.+)$", cell.source, re.MULTILINE) for cell in notebook.cells
                if cell.cell_type == "markdown")  # fmt: skip
    return next(match[1] for match in headings if match)


def repository(pyproject: Path = ROOT / "pyproject.toml") -> str:
    """The repository's address.

    Raises:
        InputError: it is not one of GitHub, from where Colab opens notebooks.
    """
    address = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address):
        raise InputError(f"{pyproject}, [project.urls] Repository: {address!r} is not of the form "
                         "https://github.com/<owner>/<name>, from where Colab opens notebooks")  # fmt: skip
    return address


def updated(folder: Path = FOLDER, address: str | None = None) -> dict[Path, str]:
    """The text of every notebook with its first cells as they should be; other cells stay as they are."""
    address = address or repository()
    read = {path: nbformat.read(path, as_version=4) for path in notebooks(folder)}
    paths = list(read)
    texts = {}
    for number, (path, notebook) in enumerate(read.items()):
        beside = {"Before": paths[max(number - 1, 0) : number], "Next": paths[number + 1 : number + 2]}
        links = [f"{word}: [{title(read[other])}]({other.name})" for word, found in beside.items() for other in found]
        markdown = nbformat.v4.new_markdown_cell(f"{_badge(address, path)}\n\n{' | '.join(links)}", id=LINKS)
        code = nbformat.v4.new_code_cell(BRING.format(address=address), id=CODE)
        old = [cell for cell in notebook.cells if cell.id in (LINKS, CODE)]
        code.execution_count = next((cell.execution_count for cell in old if cell.cell_type == "code"), None)
        notebook.cells = [markdown, code, *(cell for cell in notebook.cells if cell not in old)]
        texts[path] = nbformat.writes(notebook) + "\n"
    return texts


def _badge(address: str, path: Path) -> str:
    place = address.removeprefix("https://github.com/")
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    return (f"[![Open in Colab]({image})](https://colab.research.google.com/github/{place}/blob/main/notebooks/{path.name})"
            )  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, 1 (`--check` found an old one) or 2 (bad input)."""
    parser = argparse.ArgumentParser(prog="python -m tmcir_lite.course.first_cells", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a notebook is not up to date")
    options = parser.parse_args(arguments)
    try:
        texts = updated()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    old = [path for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    for path in old:
        print(f"{path.name}: {'is not up to date' if options.check else 'written'}")
        if not options.check:
            write_text(path, texts[path])
    if options.check and old:
        print("run python -m tmcir_lite.course.first_cells")
    return int(options.check and bool(old))


if __name__ == "__main__":
    sys.exit(main())
