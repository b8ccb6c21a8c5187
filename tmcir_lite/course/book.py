"""The course as pages to read: `python -m tmcir_lite.course.book` writes `book/` from the notebooks as they are.

Nothing on them is fetched from a network: pictures are in the pages, and formulas are MathML, which browsers draw.
"""

import argparse
import re
import sys
from html import escape
from pathlib import Path

import latex2mathml.converter
import nbformat
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from tmcir_lite.course.first_cells import CODE, LINKS, notebooks, repository, title
from tmcir_lite.io.files import ROOT, write_text
from tmcir_lite.run.notebooks import FOLDER

WITHOUT_SCRIPTS = """{% extends 'lab/index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block body_header %}{{ super() }}<style>
body { max-width: 62em; margin: auto }
.jp-InputArea-editor pre { white-space: pre-wrap }
</style>{% endblock %}"""

INDEX = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>tmcir-lite</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body {{ max-width: 45em; margin: 3em auto; padding: 0 1em; font: 17px/1.5 sans-serif }}
li {{ margin: 1em 0 }}</style>
</head><body><h1>tmcir-lite: the course</h1>
<p>Composed image retrieval with token merging (TMCIR), read as it ran. To run and to change it:
<a href="{address}">{address}</a>.</p>
<ul style="list-style: none; padding: 0">
{entries}
</ul></body></html>
"""


class _MathRenderer(IPythonRenderer):
    """Formulas as MathML."""

    def inline_math(self, body: str) -> str:
        return latex2mathml.converter.convert(body)

    def block_math(self, body: str) -> str:
        return latex2mathml.converter.convert(body, display="block")


def make_book(out: Path, folder: Path = FOLDER) -> Path:
    """Writes a page a notebook and `index.html`, which links them; returns the index."""
    exporter = HTMLExporter(raw_template=WITHOUT_SCRIPTS, embed_images=True)
    exporter.register_filter("markdown2html", _as_html)
    entries = []
    for path in notebooks(folder):
        notebook = nbformat.read(path, as_version=4)
        notebook.cells = [cell for cell in notebook.cells if cell.id != CODE]  # nothing to read
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = _within_the_book(cell.source, cell.id == LINKS)
        notebook.cells += [nbformat.v4.new_markdown_cell(cell.source) for cell in notebook.cells if cell.id == LINKS]
        page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title(notebook)}})
        write_text(out / f"{path.stem}.html", page)
        entries.append(f'<li><a href="{path.stem}.html">{escape(title(notebook))}</a><br>{_question(notebook)}</li>')
    write_text(out / "index.html", INDEX.format(address=repository(), entries="\n".join(entries)))
    return out / "index.html"


def _as_html(source: str) -> str:
    return MarkdownWithMath(renderer=_MathRenderer(escape=False)).render(source)


def _within_the_book(source: str, links: bool) -> str:
    """Links between notebooks lead to their pages. A badge is a picture from a network: its words stay."""
    source = re.sub(r"\]\((\d\d_\w+)\.ipynb\)", r"](\1.html)", source)
    if links:
        source = "[Contents](index.html) | " + re.sub(r"!\[([^]]*)\]\(http[^)]*\)", r"\1", source).replace(
            "\n\n", " | "
        )
    return source


def _question(notebook: nbformat.NotebookNode) -> str:
    """What the notebook asks, from its line `**The question:** ...`."""
    texts = (cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found = (re.search(r"\*\*The question[^*]*\*\*:? *(.+?)(?=\n\n|\Z)", text, re.DOTALL) for text in texts)
    return escape(next((match[1] for match in found if match), ""))


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tmcir_lite.course.book", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "book", help="(default: %(default)s)")
    print(f"book: {make_book(parser.parse_args(arguments).out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
