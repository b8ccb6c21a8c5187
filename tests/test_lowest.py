"""The constraints of the lowest versions are those of the package."""

import tomllib

from tmcir_lite.io.files import ROOT


def test_the_constraints_are_the_bounds_of_the_package():
    bounds = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lines = (ROOT / "tests" / "lowest.txt").read_text().splitlines()
    assert [line.replace("==", ">=") for line in lines if not line.startswith("#")] == bounds
