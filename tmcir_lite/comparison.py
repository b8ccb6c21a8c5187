"""Several runs side by side: do the numbers, and the order of the methods, hold from seed to seed?"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tmcir_lite.files import InputError


def compare(folders: Sequence[Path], measure: str) -> str:
    """Markdown: for each protocol that all runs have, `measure` (mean over categories) of each method in each run.

    Methods are sorted by their mean. `next one` says in how many of the runs a method is ahead of the one below it.

    Raises:
        InputError: fewer than two runs, one without results, an unknown measure, or nothing that all have.
    """
    folders = list(dict.fromkeys(Path(folder).resolve() for folder in folders))
    if len(folders) < 2:
        raise InputError("compare: give the folders of two runs or more, such as runs/lite runs/seed1")
    alike = len({folder.name for folder in folders}) < len(folders)
    tables = {str(folder) if alike else folder.name: _read(folder, measure) for folder in folders}
    table = pd.concat(tables, axis=1, join="inner").dropna(how="all")
    if table.empty:
        raise InputError(f"compare: no method has {measure} under a protocol that all of these runs have")
    lines = []
    for (layout, protocol), rows in table.groupby(level=["layout", "protocol"], sort=False):
        rows = rows.droplevel(["layout", "protocol"])
        rows = rows.loc[rows.mean(axis=1).sort_values(ascending=False).index]
        ahead = (rows > rows.shift(-1)).sum(axis=1).map(lambda n: f"ahead in {n} of {len(folders)}")
        ahead.iloc[-1] = ""
        spread = rows.max(axis=1) - rows.min(axis=1)
        shown = rows.assign(mean=rows.mean(axis=1), spread=spread).round(2).assign(**{"next one": ahead})
        lines += [f"**{layout}, protocol {protocol}, {measure}**", "", shown.to_markdown(), ""]
    return "\n".join(lines)


def _read(folder: Path, measure: str) -> pd.Series:
    path = folder / "evaluation" / "results.csv"
    if not path.is_file():
        raise InputError(f"{path}: no such results; run `evaluate` first")
    try:
        results = pd.read_csv(path).set_index(["category", "layout", "protocol", "method"])
    except (ValueError, KeyError):  # pandas' own errors are of these kinds
        raise InputError(f"{path}: not a table that `evaluate` wrote; remove it and run `evaluate` again") from None
    known = results.select_dtypes("number")
    if measure not in known:
        raise InputError(f"compare: {path} has no {measure}; it has {', '.join(known)}")
    return known[measure].xs("mean") if "mean" in known.index else known[measure].droplevel(0)[:0]
