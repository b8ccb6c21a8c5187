"""`make lab` in a real browser: a notebook opens, a cell runs from the menu, and its output is seen."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest

import tmcir_lite
from tmcir_lite.course.first_cells import notebooks
from tmcir_lite.io.files import ROOT

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LONG = 300_000  # ms; a machine with other work takes its time to start a kernel

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")]


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab with a copy of the first notebook, which no test should save over."""
    notebook = nbformat.read(notebooks()[0], as_version=4)
    notebook.cells.insert(2, nbformat.v4.new_code_cell("import tmcir_lite\n\nprint('version', tmcir_lite.__version__)"))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, tmp_path / "first.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "RUNTIME", "DATA")}
    own |= {f"JUPYTERLAB_{name}_DIR": str(tmp_path / name) for name in ("SETTINGS", "WORKSPACES")}
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


def test_a_cell_runs_from_the_menu_and_its_output_is_seen(lab, tmp_path):
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(LONG)
        page.goto(f"{lab}/tree/first.ipynb")
        cells = page.locator(".jp-Notebook .jp-CodeCell")
        for number in (0, 1):
            cells.nth(number).locator(".jp-InputArea-prompt").click()
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.locator(".lm-Menu-itemLabel", has_text="Run Selected Cell").first.click()
        output = cells.nth(1).locator(".jp-OutputArea-output")
        playwright.expect(output).to_have_text(f"version {tmcir_lite.__version__}\n", timeout=LONG)
        playwright.expect(cells.nth(0).locator(".jp-OutputArea-output")).to_have_count(0)
        page.screenshot(path=tmp_path / "lab.png")
        browser.close()
