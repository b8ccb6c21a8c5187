"""What the library's own work costs beside the bare computation: `python -m tmcir_lite bench` writes a table of ratios.

Each row compares two things that take turns in one run, so that what slows the machine down slows both. Where both are
to compute the same, this is made sure of first. Models are the lite profile's, pictures those of a small drawn world.
"""

import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from tmcir_lite.config import load_config
from tmcir_lite.io.files import ROOT, write_text
from tmcir_lite.run.folder import commit_of, environment
from tmcir_lite.scale.bench_models import model_comparisons
from tmcir_lite.scale.bench_search import search_comparisons
from tmcir_lite.scale.comparisons import Sizes, measure

TABLE = ROOT / "data" / "results" / "bench.md"


_SIZES = Sizes()


def bench(sizes: Sizes = _SIZES, changes: tuple[str, ...] = (), table: Path = TABLE) -> pd.DataFrame:
    """Measures everything, prints each row, and writes the table.

    Args:
        changes: of the lite profile, as on the command line.

    Raises:
        RuntimeError: two things that are to compute the same do not.
    """
    with tempfile.TemporaryDirectory() as folder:
        cfg = load_config("lite", [f"runs={folder}", "name=bench", *_world(Path(folder), sizes), *changes])
        facts, rows, began = environment(cfg), [], time.perf_counter()
        for comparisons in (model_comparisons(cfg, sizes), search_comparisons(sizes, Path(folder))):
            for comparison in comparisons:
                rows.append(measure(comparison, sizes))
                print("  ".join(rows[-1].values()), flush=True)
    rows = pd.DataFrame(rows)
    head = (f"{facts['device']}, {facts['cpu_count']} cores, {torch.get_num_threads()} threads, torch "
            f"{facts['packages']['torch']}, commit {commit_of(facts)}, {facts['time']}, "
            f"{time.perf_counter() - began:.0f} s in all.")  # fmt: skip
    write_text(table, f"{_HEADING}\n\n{head}\n\n{rows.to_markdown(index=False, disable_numparse=True)}\n")
    return rows


_HEADING = """# What the library's own work costs

Made by `python -m tmcir_lite bench`. Each row: two things that took turns in one run, the median of their ratios over
the rounds, and the quartiles of those. Goals say at most (\u2264) or, of how many times quicker, at least (\u2265)."""


def _world(folder: Path, sizes: Sizes) -> list[str]:
    """A world just large enough: of train a tenth is held out."""
    train = max(-(-sizes.steps * load_config("lite").atf.batch * 10 // 8), sizes.pictures // 2 + 3)
    return [
        f"garments.root={folder}/world", f"data.root={folder}/world/fashioniq", "data.also_evaluate=[]",
        f"garments.train={train}", "garments.val=3", "garments.gallery=4", "garments.cirr_train=2",
        "garments.cirr_val=2",
    ]  # fmt: skip
