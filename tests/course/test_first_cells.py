"""A notebook alone in an empty folder brings what it needs, and touches nothing that is there."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from tmcir_lite.course import first_cells
from tmcir_lite.io.files import ROOT, InputError

ADDRESS = first_cells.repository()
NAMES = [path.stem for path in first_cells.notebooks()]
WHERE = "import tmcir_lite; print(tmcir_lite.__file__)"


def drawn_or_fetched(folder, names):
    """Large folders of `data/` that are not the repository's."""
    if folder != str(ROOT / "data"):
        return []
    return [name for name in names if (ROOT / "data" / name).is_dir() and name not in ("models", "results")]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A repository with what is here, also what is not committed yet."""
    folder = tmp_path_factory.mktemp("origin")
    for name in ("tmcir_lite", "notebooks", "data"):
        shutil.copytree(ROOT / name, folder / name, ignore=drawn_or_fetched)
    for name in ("pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    git = ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b"]
    quick = ["config", "core.compression", "0"]
    for command in (["init", "--quiet"], quick, ["add", "."], ["commit", "--quiet", "--message", "first"]):
        subprocess.run([*git, *command], check=True)
    return folder.as_uri()


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The interpreter of an environment with our dependencies and without our package, and a stub of Colab's package.

    A .pth file in a folder that a .pth file names is not read, so an editable installation is not found from here.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "env", symlinks=True)
    with open(f"{sysconfig.get_path('purelib', vars={'base': str(folder / 'env')})}/dependencies.pth", "w") as file:
        file.write("\n".join(path for path in sys.path if path.endswith("-packages")))
    colab = folder / "stub" / "google" / "colab" / "__init__.py"
    colab.parent.mkdir(parents=True)
    colab.touch()
    found = "import google.colab, importlib.util; print(importlib.util.find_spec('tmcir_lite'))"
    if process(folder, folder, found).stdout != "None\n":
        pytest.skip("the package is installed beside its dependencies, not as an editable one")
    return folder


def process(environment, folder, code, **variables):
    known = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "GIT_"))}
    known |= {"PYTHONPATH": str(environment / "stub"), "MPLBACKEND": "agg", "HF_HUB_OFFLINE": "1"} | variables
    command = [environment / "env" / "bin" / "python", "-c", code]
    return subprocess.run(command, cwd=folder, env=known, capture_output=True, text=True)


@pytest.fixture
def kernel(environment, address, tmp_path):
    """Runs cells as a new kernel in an empty folder would."""
    (tmp_path / "empty").mkdir()

    def run(*cells, **variables):
        code = "\n".join(cells).replace("%matplotlib inline", "").replace(ADDRESS, address)
        return process(environment, tmp_path / "empty", code, **variables)

    run.folder = tmp_path / "empty"
    return run


def code_cells(name):
    cells = nbformat.read(first_cells.FOLDER / f"{name}.ipynb", as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def passed(done):
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_notebooks_are_up_to_date(capsys):
    assert first_cells.main(["--check"]) == 0, capsys.readouterr().out


def test_links_lead_to_the_notebooks_before_and_after(tmp_path):
    texts = first_cells.updated(address="https://github.com/someone/fork")
    for number, (path, text) in enumerate(texts.items()):
        links, code, *_ = nbformat.reads(text, as_version=4).cells
        assert f"colab.research.google.com/github/someone/fork/blob/main/notebooks/{path.name}" in links.source
        assert ("Before:" in links.source) == (number > 0)
        assert [f"]({name}.ipynb)" in links.source for name in NAMES] == [
            abs(number - other) == 1 for other in range(len(NAMES))
        ]
        assert "git clone --quiet --depth 1 https://github.com/someone/fork tmcir-lite" in code.source


def test_written_again_nothing_changes_and_what_is_an_authors_stays(tmp_path):
    for path in first_cells.notebooks():
        shutil.copy(path, tmp_path)
    for path, text in first_cells.updated(tmp_path, "https://github.com/someone/fork").items():
        own = nbformat.read(path, as_version=4).cells[2:]
        path.write_text(text)
        assert nbformat.read(path, as_version=4).cells[2:] == own
    assert first_cells.updated(tmp_path, ADDRESS) == {
        tmp_path / path.name: path.read_text() for path in first_cells.notebooks()
    }


def test_an_address_that_colab_cannot_open_is_refused(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project.urls]\nRepository = "git@github.com:someone/fork.git"\n')
    with pytest.raises(InputError, match=r"Repository: 'git@github.com:someone/fork.git' is not of the form"):
        first_cells.repository(tmp_path / "pyproject.toml")


def test_exercises_that_the_teacher_is_told_of_are_there():
    told = re.sub(r"(\d)\.(\d) to \1\.(\d)", _all, (first_cells.FOLDER / "TEACHING.md").read_text())
    cells = "".join(path.read_text() for path in first_cells.notebooks())
    there = set(re.findall(r"\*\*Exercise (\d\.\d)\.", cells))
    assert set(re.findall(r"\b\d\.\d\b", told.split("## What students")[0])) - there == set()


def _all(match):
    return " ".join(f"{match[1]}.{number}" for number in range(int(match[2]), int(match[3]) + 1))


@pytest.mark.parametrize("name", NAMES)
def test_alone_in_an_empty_folder_a_notebook_brings_the_package(name, kernel):
    first, cloned = code_cells(name)[0].source, kernel.folder / "tmcir-lite" / "tmcir_lite" / "__init__.py"
    assert passed(kernel(first, first, WHERE)) == f"{cloned}\n"
    assert [path.name for path in kernel.folder.iterdir()] == ["tmcir-lite"]
    if name == NAMES[0]:
        assert passed(kernel(first, WHERE, PATH="")) == f"{cloned}\n"  # the next kernel needs no git


def test_within_a_checkout_nothing_is_cloned(kernel):
    shutil.copytree(ROOT / "tmcir_lite", kernel.folder / "tmcir_lite")
    shutil.copy(ROOT / "pyproject.toml", kernel.folder)
    (kernel.folder / "notebooks").mkdir()
    first = f"import os; os.chdir('notebooks')\n{code_cells(NAMES[0])[0].source}"
    assert passed(kernel(first, WHERE, PATH="")).startswith(f"{kernel.folder}/tmcir_lite/")
    assert not list((kernel.folder / "notebooks").iterdir())


def test_one_line_says_that_git_or_the_network_is_missing(kernel):
    first = code_cells(NAMES[0])[0].source
    no_git = kernel(first, PATH="")
    no_network = kernel(first.replace(ADDRESS, "https://localhost:1/no/where"))
    for done, reason in ((no_git, "not found"), (no_network, "unable to access 'https://localhost:1/no/where/'")):
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert reason in done.stderr
        assert "it needs git and a network" in done.stderr


def wheel(folder, name, version, requires=()):
    """A package of one empty module."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", f"version = {version!r}\n")
        needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.mark.skipif(shutil.which("git") is None or sys.platform == "win32", reason="needs git and a POSIX venv")
def test_only_what_is_missing_is_installed_and_numpy_stays(kernel, tmp_path):
    """The newest of a missing dependency would replace numpy; an older one gets along with what is there."""
    wheel(tmp_path, "numpy", "999")
    wheel(tmp_path, "thing_one", "1", ["numpy"])
    wheel(tmp_path, "thing_one", "2", ["numpy>=999"])
    shutil.copytree(ROOT / "tmcir_lite", kernel.folder / "tmcir_lite")
    project = '[project]\ndependencies = ["numpy>=1", "thing_one>=1"]\n'
    (kernel.folder / "pyproject.toml").write_text(project)
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    first = f"import sys; sys.path.remove('') if '' in sys.path else 0\n{code_cells(NAMES[0])[0].source}"
    seen = "import numpy, thing_one; print(thing_one.version, numpy.__version__ == '999')"
    assert passed(kernel(first, seen, **offline)) == "installing thing_one>=1\n1 False\n"
    assert passed(kernel(first, seen, **offline)) == "1 False\n"  # nothing is missing now

    (kernel.folder / "pyproject.toml").write_text(project.replace("numpy>=1", "numpy>=999"))
    done = kernel(first, **offline)
    assert "numpy>=999 is needed, and " in done.stderr
    assert done.stderr.strip().endswith("restart the kernel and run this cell again")
    (kernel.folder / "pyproject.toml").write_text(project.replace("thing_one", "thing_two"))
    done = kernel(first, **offline)
    assert "pip could not install thing_two>=1: ERROR: No matching distribution found for thing_two>=1" in done.stderr


@pytest.mark.slow
def test_what_every_notebook_imports_can_be_imported_then(kernel):
    """One kernel for all notebooks: they import much the same, and PyTorch takes its time."""
    cells = [cell.source.replace("%", "# %") for name in NAMES for cell in code_cells(name)[1:]]
    imports = {ast.unparse(node) for cell in cells for node in ast.walk(ast.parse(cell))
               if isinstance(node, ast.Import | ast.ImportFrom)}  # fmt: skip
    loaded = "from tmcir_lite.config import load_config; print(load_config('lite').backbone.name)"
    assert passed(kernel(code_cells(NAMES[0])[0].source, *sorted(imports), loaded)) == "local-dir:data/models/clip\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name in ("00_tour", "01_data")])
def test_a_notebook_runs_to_its_end_in_a_kernel_that_had_nothing(name, environment, address, tiny, tmp_path):
    """The tour with its own settings: it shows the models that are shipped."""
    if name == "00_tour" and not (ROOT / "data" / "models" / "trained").is_dir():
        pytest.skip("no trained models are shipped yet")

    class Bare(AsyncKernelManager):
        kernel_spec = KernelSpec(argv=[str(environment / "env" / "bin" / "python"), "-m", "ipykernel_launcher", "-f",
                                       "{connection_file}"], env={"PYTHONPATH": str(environment / "stub")})  # fmt: skip

    notebook = nbformat.read(first_cells.FOLDER / f"{name}.ipynb", as_version=4)
    notebook.cells[1].source = notebook.cells[1].source.replace(ADDRESS, address)
    for cell in notebook.cells:
        if name != "00_tour" and "parameters" in cell.metadata.get("tags", []):
            cell.source = f"profile = 'lite'\noverrides = {[*tiny, f'runs={tmp_path}/runs']}"
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, kernel_manager_class=Bare, resources=where).execute()
    assert (tmp_path / "tmcir-lite" / "tmcir_lite").is_dir()
