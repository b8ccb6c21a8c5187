"""The driver and the command line on small notebooks of their own."""

import base64
import errno
import json
import sys

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient

from tmcir_lite import __main__
from tmcir_lite.io.files import InputError
from tmcir_lite.run import data, notebooks

PARAMETERS = 'profile = "lite"\noverrides = []'


def write(folder, sources):
    folder.mkdir(exist_ok=True)
    for name, source in zip(notebooks.NOTEBOOKS, sources, strict=True):
        first = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}, id="first")
        notebook = nbformat.v4.new_notebook(cells=[first, nbformat.v4.new_code_cell(source)])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, folder / f"{name}.ipynb")


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "notebooks", [f"print({n}, profile, overrides[-1:])" for n in range(len(notebooks.NOTEBOOKS))])
    return tmp_path / "notebooks"


@pytest.fixture
def overrides(tmp_path):
    return [f"runs={tmp_path}/runs", "name=r"]


@pytest.mark.filterwarnings("error::nbformat.warnings.DuplicateCellId")
def test_runs_in_order_with_parameters_then_resumes(folder, overrides, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir("/")
    report = notebooks.run("lite", overrides, folder=folder)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert [line.split()[1] for line in lines] == list(notebooks.NOTEBOOKS)
    page = report.read_text()
    assert page.index("Where the time went") < page.index("0 lite")
    assert "0 lite ['name=r']" in page.replace("&#39;", "'")
    assert page.index("0 lite") < page.index("5 lite")
    with pytest.raises(InputError, match="--resume"):
        notebooks.run("lite", overrides, folder=folder)
    notebooks.run("lite", overrides, resume=True, folder=folder)
    assert capsys.readouterr().out.count("was done") == 6


def test_says_where_the_time_went(folder, overrides, tmp_path, capsys):
    """Of each notebook, of the cells that call a stage, and in all; kept with the results."""
    write(folder, ["1", "stages.train_x(1)".join(["import time\nfrom types import SimpleNamespace\n"
                   "stages = SimpleNamespace(train_x=time.sleep)\n", ""]), "3", "4", "5", "6"])  # fmt: skip
    notebooks.run("lite", overrides, folder=folder)
    rows = [[part.strip() for part in line.split("|")[1:-1]]
            for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]  # fmt: skip
    assert [row[0] for row in rows if row[0]] == [*notebooks.NOTEBOOKS, "in all"]
    (stage,) = [row for row in rows if row[1]]
    assert rows[rows.index(stage) - 1][0] == "02_pseudo_targets"
    assert stage[1] == "train_x"
    assert float(stage[2]) >= 1
    assert float(rows[-1][2]) >= float(stage[2])
    assert notebooks.times(tmp_path / "runs" / "r").startswith("| notebook")


def test_failing_cell_is_named_and_earlier_results_stay(folder, overrides, tmp_path):
    write(folder, ["1", "raise ValueError('no such thing')", "3", "4", "5", "6"])
    with pytest.raises(notebooks.StageError, match="02_pseudo_targets, cell 2: ValueError: no such thing"):
        notebooks.run("lite", overrides, folder=folder)
    done = {path.name for path in (tmp_path / "runs" / "r" / "notebooks").iterdir()}
    assert done == {"01_data.ipynb", "02_pseudo_targets.failed.ipynb"}


FIGURE = "import matplotlib.pyplot as plt\nfigure, _ = plt.subplots()\nplt.close(figure)\nfigure"


@pytest.mark.parametrize("backend", ["agg", "TkAgg"])
def test_the_drivers_own_interpreter_draws_into_the_notebook(backend, tmp_path, monkeypatch):
    """Whatever kernel is installed as python3, and whatever backend the shell names."""
    kernel = {"argv": ["/bin/false", "{connection_file}"], "display_name": "another", "language": "python"}
    (tmp_path / "kernels" / "python3").mkdir(parents=True)
    (tmp_path / "kernels" / "python3" / "kernel.json").write_text(json.dumps(kernel))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", backend)
    write(tmp_path / "notebooks", ["import sys\nprint(sys.executable)", FIGURE, "3", "4", "5", "6"])
    notebooks.refresh(tmp_path / "notebooks")
    said, drawn = (nbformat.read(tmp_path / "notebooks" / f"{name}.ipynb", as_version=4).cells[1].outputs[0]
                   for name in notebooks.NOTEBOOKS[:2])  # fmt: skip
    assert said.text.strip() == sys.executable
    assert "image/png" in drawn.data


class ShellKernel(notebooks.OwnKernel):
    """As a person opens a notebook from a shell that names a backend."""

    @property
    def kernel_spec(self):
        return KernelSpec(**super().kernel_spec.to_dict() | {"env": {"MPLBACKEND": "agg"}})


def test_a_notebook_opened_by_a_person_draws_too():
    opened = nbformat.read(notebooks.FOLDER / "01_data.ipynb", as_version=4)
    opened.cells = [next(cell for cell in opened.cells if cell.cell_type == "code"), nbformat.v4.new_code_cell(FIGURE)]
    NotebookClient(opened, kernel_name="python3", kernel_manager_class=ShellKernel).execute()
    assert "image/png" in opened.cells[1].outputs[0].data


def test_a_killed_notebook_is_one_line_that_says_why(folder, overrides, capsys, monkeypatch):
    write(folder, ["1", "import os\nos.kill(os.getpid(), 9)", "3", "4", "5", "6"])
    monkeypatch.setattr(notebooks.run, "__defaults__", (*notebooks.run.__defaults__[:-1], folder))
    options = [part for override in overrides for part in ("--set", override)]
    assert __main__.main(["run", *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: 02_pseudo_targets: its process was killed: most likely memory ran out")
    assert "--resume" in error
    assert len(error.splitlines()) == 1


def test_overrides_may_be_a_string(folder, tmp_path):
    page = notebooks.run("lite", f"runs={tmp_path}/runs name=r", folder=folder).read_text()
    assert "0 lite ['name=r']" in page.replace("&#39;", "'")


def test_unknown_parameter_is_refused_before_anything_runs(folder, overrides, tmp_path):
    path = folder / "05_evaluation.ipynb"
    path.write_text(path.read_text().replace("overrides = []", "extra = 1"))
    with pytest.raises(InputError, match="05_evaluation.ipynb: its parameters"):
        notebooks.run("lite", overrides, folder=folder)
    assert not (tmp_path / "runs").exists()


def test_refresh_leaves_outputs_and_no_traces(folder):
    notebooks.refresh(folder)
    notebook = nbformat.read(folder / "01_data.ipynb", as_version=4)
    assert notebook.cells[1].outputs[0].text == "0 lite []\n"
    assert "papermill" not in (folder / "01_data.ipynb").read_text()
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.ipynb" for name in notebooks.NOTEBOOKS]


def test_results_are_kept_where_the_readme_shows_them(tmp_path, monkeypatch):
    figures = [nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(data).decode()})
               for data in (b"another", b"a figure")]  # fmt: skip
    cells = [nbformat.v4.new_markdown_cell("text"),
             *(nbformat.v4.new_code_cell("1", outputs=[figure]) for figure in figures)]  # fmt: skip
    cells[-1].metadata["tags"] = ["readme"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "02_pseudo_targets.ipynb")
    (tmp_path / "lite" / "evaluation").mkdir(parents=True)
    (tmp_path / "lite" / "evaluation" / "results.md").write_text("a table")
    (tmp_path / "lite" / "notebooks").mkdir()
    monkeypatch.setattr(notebooks, "times", lambda run_dir: f"the times of {run_dir.name}")
    notebooks.keep_results(tmp_path / "lite", tmp_path, tmp_path / "kept")
    assert (tmp_path / "kept" / "time.md").read_text() == "the times of lite"
    assert (tmp_path / "kept" / "lite.md").read_text() == "a table"
    assert (tmp_path / "kept" / "pseudo_targets.png").read_bytes() == b"a figure"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_takes_nothing_is_one_line_and_status_2(number, capsys, monkeypatch):
    def fail(cfg):
        raise OSError(number, "no more", "/a/file")

    monkeypatch.setattr(data, "prepare_data", fail)
    assert __main__.main(["data"]) == 2
    assert capsys.readouterr().err.startswith("error: /a/file: no more")


def test_paths_of_options_start_at_the_working_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("name: a")
    assert __main__.main(["data", "--config", "mine.yaml"]) == 2
    assert f"{tmp_path}/mine.yaml: data: missing" in capsys.readouterr().err
    for command in (["search", "--run", "one", "--image", "a.png", "--text", "is red"], ["circo", "--run", "one"]):
        assert __main__.main(command) == 2
        assert f"{tmp_path}/one" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        __main__.main(["study", "--help"])
    assert "start at the folder you are in" in " ".join(capsys.readouterr().out.split())
