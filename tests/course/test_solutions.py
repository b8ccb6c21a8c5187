"""Every exercise of the notebooks: it has its form, unsolved it says so, and its solution is right."""

import contextlib
import io
import re
import shutil

import pytest

from tests.notebook_cells import cells_of, execute, tags
from tmcir_lite.config import load_config
from tmcir_lite.run.notebooks import FOLDER

COURSE = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
UNSOLVED = "answer = ..."


def exercises(notebook):
    """(question, the cell to solve, solution) of each."""
    cells = cells_of(notebook)
    places = [place for place, cell in enumerate(cells) if "exercise" in tags(cell)]
    return [tuple(cells[place - 1 : place + 2]) for place in places]


WITH_EXERCISES = [notebook for notebook in COURSE if exercises(notebook)]
STAGES = [notebook for notebook in WITH_EXERCISES if notebook != "00_tour"]  # see test_tour


@pytest.mark.parametrize("notebook", WITH_EXERCISES)
def test_an_exercise_is_a_question_a_cell_to_solve_and_a_folded_solution(notebook):
    assert len(exercises(notebook)) >= 3
    for number, (question, cell, solution) in enumerate(exercises(notebook), 1):
        exercise = f"Exercise {int(notebook[:2])}.{number}"
        assert question.cell_type == solution.cell_type == "markdown", exercise
        assert question.source.startswith(f"**{exercise}.**"), exercise
        assert cell.source.splitlines().count(UNSOLVED) == 1, exercise
        assert "check(answer, " in cell.source, exercise
        assert solution.source.startswith("<details><summary>Solution</summary>\n\n"), exercise
        assert solution.source.count("</details>") == 1, exercise  # what follows it may begin the next section
        blocks = BLOCK.findall(solution.source)
        assert len(blocks) == 1, exercise
        assert re.search(r"^answer = (?!\.\.\.$)", blocks[0], re.MULTILINE), exercise


@pytest.mark.slow
@pytest.mark.parametrize("notebook", STAGES)
def test_unsolved_it_says_so_and_the_solution_is_right(notebook, tiny, cfg, tmp_path):
    """On a tiny run of its own. Cells run once, but an exercise's as it stands and then with its solution."""
    overrides = [*tiny, f"runs={tmp_path}"]
    shutil.copytree(cfg.run_dir, load_config("lite", overrides).run_dir)
    solutions = {cell.id: BLOCK.findall(solution.source)[0] for _, cell, solution in exercises(notebook)}
    names, said = {}, {}
    for cell in cells_of(notebook):
        if cell.id not in solutions:
            execute(notebook, cell, names, overrides)
            continue
        unsolved = printed(notebook, cell, names, overrides)
        cell.source = cell.source.replace(UNSOLVED, solutions[cell.id].strip(), 1)
        said[cell.id] = unsolved, printed(notebook, cell, names, overrides)
    verdicts = {cell: ("not answered yet" in before, "right" in after) for cell, (before, after) in said.items()}
    assert verdicts == {cell: (True, True) for cell in solutions}


def printed(notebook, cell, names, overrides):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        execute(notebook, cell, names, overrides)
    return out.getvalue().splitlines()  # an exercise may print more than its verdict
