"""Installs what a notebook's kernel lacks. It runs before anything else is there: the standard library has to do."""

import importlib
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
LEFT_ALONE = ("torch", "torchvision", "numpy")
"""What Colab and GPU machines bring in a build of their own: where it is installed, it stays as it is."""


def install_missing(pyproject: Path = PYPROJECT) -> None:
    """Installs the package's dependencies that are not there, for the kernel that runs; does nothing if all are.

    Raises:
        SystemExit: Python or something of `LEFT_ALONE` is too old, or pip failed; a notebook shows it as one line.
    """
    try:
        import tomllib
    except ModuleNotFoundError:
        older = sys.version.split()[0]
        raise SystemExit(f"Python 3.11 or newer is needed, and this kernel is {older}; choose another") from None

    lacking = missing(tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"])
    if not lacking:
        return
    kept = {name: installed for name in LEFT_ALONE if (installed := _version(name))}
    for requirement in lacking:
        if requirement.name in kept:
            raise SystemExit(f"{requirement} is needed, and {kept[requirement.name]} is installed, which is left as it "
                             "is; upgrade it, restart the kernel and run this cell again")  # fmt: skip
    print("installing", *lacking, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "installed.txt"
        constraints.write_text("".join(f"{name}=={installed}\n" for name, installed in kept.items()))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, "--constraint", constraints, *map(str, lacking)], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SystemExit(f"pip could not install {', '.join(map(str, lacking))}: {reason}; is there a network?")
    if site.ENABLE_USER_SITE:  # where pip installs if the environment is not the user's; it may be new
        site.addsitedir(site.getusersitepackages())
    importlib.invalidate_caches()


def missing(requirements: Iterable[str]) -> list:
    """Those that are not installed, or in a version that they exclude, as `packaging` requirements."""
    from packaging.requirements import Requirement  # every kernel has it: ipykernel depends on it

    parsed = map(Requirement, requirements)
    return [each for each in parsed if not each.specifier.contains(_version(each.name) or "", prereleases=True)]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
