"""The course as pages: all there, linked, and nothing on them is fetched from a network."""

import re

import nbformat
import pytest

from tmcir_lite.course.book import make_book
from tmcir_lite.course.first_cells import notebooks, title
from tmcir_lite.io.files import ROOT


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """File name -> HTML."""
    folder = tmp_path_factory.mktemp("book")
    make_book(folder)
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def test_the_index_leads_to_every_notebook_and_a_page_to_its_neighbours(pages):
    names = [f"{path.stem}.html" for path in notebooks()]
    assert set(pages) == {"index.html", *names}
    assert re.findall(r'<a href="(\d\d\w+\.html)">', pages["index.html"]) == names
    for name, before, after in zip(names, [None, *names], [*names[1:], None], strict=False):
        assert 'href="index.html"' in pages[name]
        assert set(re.findall(r'href="(\d\d\w+\.html)"', pages[name])) >= {before, after} - {None}
    leads = {link for page in pages.values() for link in re.findall(r'href="([^"#:]+)"', page)}
    assert {link for link in leads if link not in pages and not (ROOT / "notebooks" / link).exists()} == set()


def test_pages_need_no_network_and_no_script(pages):
    for page in pages.values():
        assert not re.search(r"<script|<link[^>]+http|src=[\"']?http|@import|url\([\"']?http", page)


def test_formulas_are_drawn_by_the_browser_and_pictures_are_in_the_page(pages):
    assert re.search(r'<math[^>]+display="block"', pages["03_iacma.html"])
    assert not re.search(r"\$\$|\$\\", pages["03_iacma.html"])
    assert "data:image/png;base64" in pages["05_evaluation.html"]


def test_what_brings_the_package_is_left_out_and_outputs_are_kept(pages):
    for path in notebooks():
        page = pages[f"{path.stem}.html"]
        assert "git clone" not in page
        assert title(nbformat.read(path, as_version=4)).split(":")[0] in page
