"""The driver: papermill through the notebooks in order, one line a notebook, and a report at the end."""

import base64
import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError

from tmcir_lite.config import as_overrides, load_config
from tmcir_lite.io.files import ROOT, InputError, atomic, write_text
from tmcir_lite.io.hub import one_line
from tmcir_lite.run.folder import start_run

FOLDER = ROOT / "notebooks"
NOTEBOOKS = ("01_data", "02_pseudo_targets", "03_iacma", "04_atf", "05_evaluation", "06_claims")
PARAMETERS = {"profile", "overrides"}


class StageError(RuntimeError):
    """A notebook stopped; the message names it, the cell and the reason."""


class OwnKernel(AsyncKernelManager):
    """Starts the interpreter that the driver runs in, whatever kernel is installed as "python3".

    Its figures go into the notebook, whatever backend the environment names.
    """

    @property
    def kernel_spec(self) -> KernelSpec:
        """Of this interpreter."""
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python",
                          env={"MPLBACKEND": "module://matplotlib_inline.backend_inline"})  # fmt: skip


def run(profile: str, overrides: Sequence[str] | str = (), resume: bool = False, folder: Path = FOLDER) -> Path:
    """Executes the notebooks in order into `<run>/notebooks` and returns the path of the report.

    Args:
        resume: go on with a run of this name: finished notebooks are skipped.

    Raises:
        InputError: a bad configuration or notebook, or a run of this name that exists while `resume` is false.
        StageError: a cell failed; the notebooks before it stay, and so does what the stages finished.
    """
    overrides = as_overrides(overrides)
    cfg = load_config(profile, overrides)
    check_parameters(folder)
    done = cfg.run_dir / "notebooks"
    if done.is_dir() and not resume:
        raise InputError(f"{cfg.run_dir}: this run exists; go on with --resume, choose another name= or remove it")
    start_run(cfg)
    done.mkdir(exist_ok=True)
    for number, name in enumerate(NOTEBOOKS, 1):
        output = done / f"{name}.ipynb"
        print(f"[{number}/{len(NOTEBOOKS)}] {name:<18}", end=" ", flush=True)
        if output.is_file():
            print("was done", flush=True)
            continue
        started = time.perf_counter()
        parameters = {"profile": str(profile), "overrides": overrides}
        _execute(folder / f"{name}.ipynb", output, parameters, folder)
        print(f"done in {time.perf_counter() - started:.0f} s", flush=True)
    return report(cfg.run_dir)


def refresh(folder: Path = FOLDER) -> None:
    """Executes the notebooks in place with their own defaults, so that the committed outputs are of a real run."""
    check_parameters(folder)
    for name in NOTEBOOKS:
        path = folder / f"{name}.ipynb"
        print(f"{name} ...", flush=True)
        with atomic(path) as temporary:
            _execute(path, temporary, {}, folder)
            write_text(temporary, nbformat.writes(_without_traces(nbformat.read(temporary, as_version=4))) + "\n")


def keep_results(run_dir: Path, folder: Path = FOLDER, out: Path = ROOT / "data" / "results") -> None:
    """Copies the run's result table and the first figure of notebook 2 to where the README shows them."""
    write_text(out / f"{run_dir.name}.md", (run_dir / "evaluation" / "results.md").read_text(encoding="utf-8"))
    cells = nbformat.read(folder / f"{NOTEBOOKS[1]}.ipynb", as_version=4).cells
    figures = [output.data["image/png"] for cell in cells for output in cell.get("outputs", [])
               if "image/png" in output.get("data", {})]  # fmt: skip
    with atomic(out / "pseudo_targets.png") as path:
        path.write_bytes(base64.b64decode(figures[0]))


def check_parameters(folder: Path) -> None:
    """Makes sure that all notebooks are there and take the driver's parameters, before the first one runs.

    Raises:
        InputError: a notebook is absent, no notebook, or its `parameters` cell has other names.
    """
    for name in NOTEBOOKS:
        path = Path(folder) / f"{name}.ipynb"
        if not path.is_file():
            raise InputError(f"{path}: no such notebook")
        try:
            found = set(papermill.inspect_notebook(path))
        except Exception as error:  # nbformat's, JSON's, or of whatever its validation stumbles over
            raise InputError(f"{path}: not readable as a notebook ({one_line(error)}); restore it") from None
        if found != PARAMETERS:
            raise InputError(f"{path}: its parameters are {sorted(found)}, the driver gives {sorted(PARAMETERS)}")


def report(run_dir: Path) -> Path:
    """Joins the result table and the executed notebooks into one self-contained `report.html`."""
    joined = nbformat.v4.new_notebook()
    table = run_dir / "evaluation" / "results.md"
    if table.is_file():
        text = f"# Results of run {run_dir.name}\n\n{table.read_text(encoding='utf-8')}"
        joined.cells.append(nbformat.v4.new_markdown_cell(text))
    for name in NOTEBOOKS:
        path = run_dir / "notebooks" / f"{name}.ipynb"
        if path.is_file():
            joined.cells += nbformat.read(path, as_version=4).cells
    page, _ = HTMLExporter(embed_images=True).from_notebook_node(joined)
    write_text(run_dir / "report.html", page)
    return run_dir / "report.html"


def _execute(source: Path, output: Path, parameters: dict, folder: Path) -> None:
    unfinished = output.with_name(f"{output.stem}.failed.ipynb")
    try:
        with _named_errors(source.stem):
            papermill.execute_notebook(
                source, unfinished, parameters, kernel_name="python3", cwd=folder, progress_bar=False,
                kernel_manager_class=OwnKernel,
                extra_arguments=["--IPKernelApp.log_level=40"],  # a new kernel's warnings are not the run's
            )  # fmt: skip
    except BaseException:
        print("stopped", flush=True)
        raise
    unfinished.replace(output)


@contextlib.contextmanager
def _named_errors(notebook: str) -> Iterator[None]:
    try:
        yield
    except PapermillExecutionError as error:
        last = str(error.evalue).strip() or error.ename
        raise StageError(f"{notebook}, cell {error.cell_index}: {error.ename}: {last}") from None
    except RuntimeError as error:  # jupyter_client's, or nbclient's once the notebook runs
        if "Kernel died before" in str(error):
            raise StageError(f"{notebook}: no process to run it; try {sys.executable} -m ipykernel --version") from None
        if "Kernel died" not in str(error):
            raise
        raise StageError(
            f"{notebook}: its process was killed: most likely memory ran out, or a disk is full; free some, or lower "
            "what is done at once (editor.batch, a training's chunk, data.workers), and go on with --resume"
        ) from None


def _without_traces(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drops what says when and where a notebook was executed, which would differ in every commit."""
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = {"tags": tags} if tags else {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook
