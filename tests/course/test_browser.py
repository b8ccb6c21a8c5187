"""`make lab` in a real browser: the tour runs from the menu, and its widget ranks what a person types."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest

from tmcir_lite.course.first_cells import notebooks
from tmcir_lite.io.files import ROOT

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LONG = 300_000  # ms; a machine with other work takes its time to start a kernel

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")]


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab with a copy of the tour, which no test should save over."""
    notebook = nbformat.read(notebooks()[0], as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, tmp_path / "first.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "RUNTIME", "DATA")}
    own |= {f"JUPYTERLAB_{name}_DIR": str(tmp_path / name) for name in ("SETTINGS", "WORKSPACES")}
    whole = tmp_path / "SETTINGS" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    whole.parent.mkdir(parents=True)
    whole.write_text('{"windowingMode": "none"}')  # all cells are in the page, also those not scrolled to
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "jupyterlab", str(tmp_path), "--no-browser", "--allow-root", f"--port={port}",
               "--IdentityProvider.token=", "--ServerApp.port_retries=0"]  # fmt: skip
    with open(tmp_path / "lab.log", "w") as log:
        server = subprocess.Popen(command, env=os.environ | own | {"PYTHONPATH": paths}, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}/lab"
    try:
        while not answers(address):
            assert server.poll() is None, (tmp_path / "lab.log").read_text()
            time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait()


def answers(address):
    try:
        return urllib.request.urlopen(address).status == 200
    except OSError:
        return False


def test_the_tour_runs_from_the_menu_and_its_widget_ranks(lab, tmp_path):
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(LONG)
        page.goto(f"{lab}/tree/first.ipynb")
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()
        button = page.locator(".jupyter-widgets button", has_text="rank")
        button.wait_for()
        pictures = page.locator(".jp-CodeCell", has=button).locator("img")
        playwright.expect(pictures).to_have_count(0)
        page.locator(".jupyter-widgets input[type=text]").first.fill("is black and has long sleeves")
        button.click()
        playwright.expect(pictures).to_have_count(2)  # the ranking of two methods, and what merged
        page.locator(".jp-CodeCell", has=button).screenshot(path=tmp_path / "widget.png")
        playwright.expect(page.locator(".jp-RenderedText[data-mime-type*=stderr]")).to_have_count(0)
        browser.close()
