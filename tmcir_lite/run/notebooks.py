"""The driver: papermill through the notebooks in order, one line a notebook, and a report at the end."""

import base64
import contextlib
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
import pandas as pd
import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError

from tmcir_lite.config import as_overrides, load_config
from tmcir_lite.io.files import ROOT, InputError, atomic, read_json, write_text
from tmcir_lite.io.hub import one_line
from tmcir_lite.run.folder import commit_of, start_run

FOLDER = ROOT / "notebooks"
NOTEBOOKS = ("01_data", "02_pseudo_targets", "03_iacma", "04_atf", "05_evaluation", "06_claims")
TOUR = "00_tour"
"""It shows the shipped models, and is no part of a run."""
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
    print(f"\n{times(cfg.run_dir)}", flush=True)
    return report(cfg.run_dir)


def refresh(folder: Path = FOLDER, names: Sequence[str] = NOTEBOOKS) -> None:
    """Executes the notebooks in place with their own defaults, so that the committed outputs are of a real run."""
    check_parameters(folder, names)
    for name in names:
        path = folder / f"{name}.ipynb"
        print(f"{name} ...", flush=True)
        with atomic(path) as temporary:
            _execute(path, temporary, {}, folder)
            write_text(temporary, nbformat.writes(_without_traces(nbformat.read(temporary, as_version=4))) + "\n")


def keep_results(run_dir: Path, folder: Path = FOLDER, out: Path = ROOT / "data" / "results") -> None:
    """Copies the run's result table and times, and notebook 2's figure tagged `readme`, to where the README shows them.

    Times are those of `run`; a run made in another way has none, and those that are there stay.
    """
    if (run_dir / "notebooks").is_dir():
        write_text(out / "time.md", times(run_dir))
    write_text(out / f"{run_dir.name}.md", (run_dir / "evaluation" / "results.md").read_text(encoding="utf-8"))
    cells = nbformat.read(folder / f"{NOTEBOOKS[1]}.ipynb", as_version=4).cells
    figures = [output.data["image/png"] for cell in cells if "readme" in cell.metadata.get("tags", [])
               for output in cell.outputs if "image/png" in output.get("data", {})]  # fmt: skip
    with atomic(out / "pseudo_targets.png") as path:
        path.write_bytes(base64.b64decode(figures[0]))


def check_parameters(folder: Path, names: Sequence[str] = NOTEBOOKS) -> None:
    """Makes sure that notebooks are there and take the driver's parameters, before the first one runs.

    Raises:
        InputError: a notebook is absent, no notebook, or its `parameters` cell has other names.
    """
    for name in names:
        path = Path(folder) / f"{name}.ipynb"
        if not path.is_file():
            raise InputError(f"{path}: no such notebook")
        try:
            found = set(papermill.inspect_notebook(path))
        except Exception as error:  # nbformat's, JSON's, or of whatever its validation stumbles over
            raise InputError(f"{path}: not readable as a notebook ({one_line(error)}); restore it") from None
        if found != PARAMETERS:
            raise InputError(f"{path}: its parameters are {sorted(found)}, the driver gives {sorted(PARAMETERS)}")


_STAGE = re.compile(r"\b(prepare_data|make_pseudo_targets|train_\w+|evaluate)\(")


def times(run_dir: Path) -> str:
    """Where the time of a run went, as Markdown: seconds of each notebook, and of its cells that call a stage."""
    paths = [path for name in NOTEBOOKS if (path := run_dir / "notebooks" / f"{name}.ipynb").is_file()]
    rows = []
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        rows.append((path.stem, "", notebook.metadata.papermill.duration))
        for cell in notebook.cells:
            if cell.cell_type == "code" and (called := dict.fromkeys(_STAGE.findall(cell.source))):
                rows.append(("", ", ".join(called), cell.metadata.papermill.duration))
    rows.append(("in all", "", sum(seconds for name, _, seconds in rows if name)))
    table = pd.DataFrame(rows, columns=["notebook", "of it", "seconds"]).to_markdown(index=False, floatfmt=".0f")
    facts = read_json(run_dir / "environment.json")
    made = f"Run `{run_dir.name}`: {facts['device']}, {facts['cpu_count']} cores, commit {commit_of(facts)}."
    return f"{table}\n\n{made} A stage that was found done took no time.\n"


def report(run_dir: Path) -> Path:
    """Joins the times, the result table and the executed notebooks into one self-contained `report.html`."""
    joined = nbformat.v4.new_notebook()
    joined.cells.append(nbformat.v4.new_markdown_cell(f"# Where the time went\n\n{times(run_dir)}"))
    table = run_dir / "evaluation" / "results.md"
    if table.is_file():
        text = f"# Results of run {run_dir.name}\n\n{table.read_text(encoding='utf-8')}"
        joined.cells.append(nbformat.v4.new_markdown_cell(text))
    for name in NOTEBOOKS:
        path = run_dir / "notebooks" / f"{name}.ipynb"
        if path.is_file():
            for cell in nbformat.read(path, as_version=4).cells:
                joined.cells.append(cell)
                cell.id = f"{name}-{cell.id}"  # the first ones have the same in all notebooks
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


_WIDGET = "application/vnd.jupyter.widget-view+json"


def _without_traces(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drops what says when and where a notebook was executed, which would differ in every commit; and widgets.

    A widget is nothing without its process, and GitHub does not show a notebook that keeps its state.
    """
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = {"tags": tags} if tags else {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs
                            if output.get("name") != "stderr" and _WIDGET not in output.get("data", {})]  # fmt: skip
    return notebook
