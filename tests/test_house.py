"""Ten subjects or so, each in its folder; arrows go one way; every name once. What a newcomer may rely on."""

import ast
import collections
import functools
import os
import re
import shutil
import subprocess
import sys
import traceback

import pytest

from tmcir_lite.config import load_config
from tmcir_lite.io.files import ROOT
from tmcir_lite.method import atf
from tmcir_lite.run.models import token_fusion
from tmcir_lite.run.stages import train_fusion

PACKAGE = ROOT / "tmcir_lite"

# What each subject may import of the others, from the ground up: a line names subjects (or modules) of lines before it.
MAY_IMPORT = {
    "io": "",
    "config": "io",
    "data": "io config",
    "method": "io data.pictures",  # the paper: it knows no profile, no run and no dataset, only how a picture is read
    "rivals": "io data method",
    "evaluation": "io config data method",
    "pseudo_targets": "io config data method evaluation",
    "pretrain": "io config data method evaluation pseudo_targets",
    "run": "io config data method rivals evaluation pseudo_targets",
    "figures": "io config data method rivals evaluation pseudo_targets run",
    "scale": "io config data method rivals evaluation pseudo_targets pretrain run figures",
    "study": "io config data method rivals evaluation pseudo_targets run figures",
    "course": "io config data method rivals evaluation pseudo_targets pretrain run figures scale",
}
MOST_FILES, MOST_LINES = 10, 300
SHORTER = {"tmcir_lite/method/atf.py": 220}  # the paper's own module is read from top to bottom


def none_of(problems):
    if problems := sorted(problems):
        pytest.fail("\n".join(problems), pytrace=False)


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def name(path):
    return path.relative_to(ROOT).as_posix()


def dotted(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def subject(path):
    """The folder of a module; for one that lies in none, its name."""
    return path.relative_to(PACKAGE).parts[0]


@functools.cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path):
    """(line, dotted name, name it has here) of all that a file imports, also within a function."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, alias.asname or alias.name
        elif isinstance(node, ast.ImportFrom):
            folder = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            for alias in node.names:
                whole = ".".join([*folder, *filter(None, [node.module]), alias.name])
                yield node.lineno, whole, alias.asname or alias.name


def imported_here(path):
    """As `imported`, of the package alone and without its name in front."""
    for line, whole, here in imported(path):
        if whole.startswith("tmcir_lite."):
            yield line, whole.removeprefix("tmcir_lite."), here


def is_private(word):
    return word.startswith("_") and not word.endswith("__")


def entries(folder):
    return {path.name for path in folder.iterdir() if path.name != "__pycache__" and not path.name.startswith(".")}


def test_the_package_holds_its_subjects_and_nothing_else():
    none_of(
        f"tmcir_lite/{entry}: is not there, or not in MAY_IMPORT of tests/test_house.py; put a module into the folder "
        "of its subject, and write a new subject down there"
        for entry in entries(PACKAGE) ^ {*MAY_IMPORT, "__init__.py", "__main__.py"}
    )


def test_tests_lie_in_folders_named_after_the_subjects():
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()} - {"__pycache__"}
    none_of(f"tests/{folder}: name it after a subject of tmcir_lite" for folder in folders - set(MAY_IMPORT))


def test_no_folder_is_crowded():
    counts = collections.Counter(path.parent for top in (PACKAGE, ROOT / "tests") for path in top.rglob("*.py"))
    none_of(
        f"{name(folder)}: {count} modules, at most {MOST_FILES}; part it into two subjects"
        for folder, count in counts.items() if count > MOST_FILES
    )  # fmt: skip


def test_no_module_is_long():
    counts = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in modules()}
    none_of(
        f"{file}: {count} lines, at most {SHORTER.get(file, MOST_LINES)}; part it by what it is about"
        for file, count in counts.items() if count > SHORTER.get(file, MOST_LINES)
    )  # fmt: skip


def test_every_module_says_what_it_is_for():
    none_of(f"{name(path)}: begin it with a docstring" for path in modules() if not ast.get_docstring(tree(path)))


def test_a_subject_may_import_only_what_stands_before_it():
    below = set()
    for upper, allowed in MAY_IMPORT.items():
        none_of(f"MAY_IMPORT, {upper}: {lower} stands after it; arrows go one way"
                for lower in allowed.split() if lower.split(".")[0] not in below)  # fmt: skip
        below.add(upper)


def test_arrows_go_one_way():
    """The command line alone may import everything."""
    may = {upper: (upper, *allowed.split()) for upper, allowed in MAY_IMPORT.items()}
    none_of(
        f"{name(path)}, line {line}: imports tmcir_lite.{whole}; {subject(path)} may import "
        f"{MAY_IMPORT.get(subject(path)) or 'nothing of the package'}. Hand it over as an argument, or move one of them"
        for path in modules() if subject(path) != "__main__.py"
        for line, whole, _ in imported_here(path)
        if not any(f"{whole}.".startswith(f"{prefix}.") for prefix in may.get(subject(path), ()))
    )  # fmt: skip


def test_private_names_stay_in_their_module():
    none_of(
        f"{name(path)}, line {line}: uses tmcir_lite.{whole}; give it a public name there, or ask for what it does"
        for path in modules() for line, whole in private_names(path)
    )  # fmt: skip


def private_names(path):
    """Of `from tmcir_lite.x import _y` and of `x._y`, where x is a module of the package."""
    own = {here: whole for _, whole, here in imported_here(path) if is_module(whole)}
    for line, whole, _ in imported_here(path):
        if any(map(is_private, whole.split("."))):
            yield line, whole
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and ast.unparse(node.value) in own:
            yield node.lineno, f"{own[ast.unparse(node.value)]}.{node.attr}"


def is_module(whole):
    path = PACKAGE.joinpath(*whole.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_every_class_has_a_name_of_its_own():
    places = collections.defaultdict(list)
    for path in modules():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name(path))
    none_of(f"class {word}: in {' and in '.join(found)}; rename one" for word, found in places.items() if found[1:])


def test_importing_the_figures_leaves_matplotlib_as_it_was():
    drawing = [dotted(path) for path in modules()
               if any(whole.split(".")[0] in ("matplotlib", "seaborn") for _, whole, _ in imported(path))]  # fmt: skip
    assert drawing
    code = f"""
import importlib, matplotlib
before = dict(matplotlib.rcParams)
for module in {drawing}:
    importlib.import_module(module)
    now = dict(matplotlib.rcParams)
    other = [key for key in now if now[key] != before.get(key)]
    if other:
        print(f"{{module}}: importing it sets rcParams {{', '.join(other[:3])}} ...; set them while it draws")
    before = now
"""
    environment = os.environ | {"MPLBACKEND": "agg"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    none_of(done.stdout.splitlines())


@pytest.mark.parametrize("page", ["README.md", "data/README.md"])
def test_what_the_pages_name_is_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    files = re.findall(r"\b(?:tmcir_lite|tests|notebooks)/[\w./]*\w", text)
    none_of(f"{page}: {file} is named and is not there; write where it is now"
            for file in files if not (ROOT / file).exists())  # fmt: skip
    none_of(f"{page}: {module} is named and is not there; write where it is now"
            for module in re.findall(r"-m tmcir_lite\.([\w.]*\w)", text) if not is_module(module))  # fmt: skip
    none_of(
        f"{page}: {word} is said to be in {file} and is not; write where it is now"
        for file, words in re.findall(r"`(tmcir_lite/[\w/]+\.py)`((?:(?:,| and) `\w+`)+)", text)
        for word in re.findall(r"\w+(?=`)", words)
        if not re.search(rf"^(def|class) {word}\b", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    )


def test_a_training_step_is_seven_calls_from_the_stage_to_the_maths(cfg, tiny, monkeypatch):
    stacks, match = [], atf.match

    def watched(*inputs):
        stacks.append([frame.name for frame in traceback.extract_stack() if frame.filename.startswith(str(PACKAGE))])
        return match(*inputs)

    monkeypatch.setattr(atf, "match", watched)
    run = load_config("lite", [*tiny, "name=depth", "atf.epochs=1"])
    shutil.copytree(cfg.run_dir / "iacma", run.run_dir / "iacma")
    train_fusion(run, "atf", token_fusion(run))
    steps = [[*stack, "match"] for stack in stacks if "heldout_recall" not in stack]
    assert steps
    assert max(steps, key=len) == ["train_fusion", "train", "fit", "forward", "forward", "fuse", "match"]
