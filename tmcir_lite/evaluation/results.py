"""The result table told: its headline rows, its intent measures, and the published numbers beside it."""

import pandas as pd

from tmcir_lite.evaluation.intent import MEASURES
from tmcir_lite.io.files import ROOT

TABLE = ROOT / "data" / "published.csv"
MEANS = {"fashioniq": ("R@10", "R@50"), "cirr": ("R@5", "Rs@1")}
"""What a dataset's headline number is the mean of."""


def headline(results: pd.DataFrame, layout: str, protocol: str) -> pd.DataFrame:
    """The rows averaged over categories of one protocol, one method a row, with recall columns only."""
    rows = results.query("layout == @layout and protocol == @protocol and category == 'mean'")
    recalls = [column for column in rows if column.startswith("R") and rows[column].notna().any()]
    return rows.set_index("method")[recalls]


def intent_table(results: pd.DataFrame, layout: str, protocol: str) -> pd.DataFrame | None:
    """Of the same rows the measures of intent; None where the attributes of the pictures are not known."""
    rows = results.query("layout == @layout and protocol == @protocol and category == 'mean'")
    return rows.set_index("method")[list(MEASURES)] if "kept" in rows and rows["kept"].notna().all() else None


def beside_published(results: pd.DataFrame, layout: str) -> str:
    """Markdown: the published numbers on a dataset and ours, by their mean.

    Args:
        results: what `measure.evaluate` returns, of a run on the real dataset.
        layout: "fashioniq" (val) or "cirr" (ours on val, the published ones on the test server).
    """
    first, second = MEANS[layout]
    if not {first, second} <= set(results):
        return (
            f"No published numbers here: they are means of {first} and {second}, and evaluation.recall_at lacks one.\n"
        )
    ours = results.query("layout == @layout and category == 'mean'")
    ours = ours.assign(
        method=ours["method"] + " (ours)",
        protocol=ours["protocol"].replace("cirr", "cirr val"),
        mean=(ours[first] + ours[second]) / 2,
    )
    published = pd.read_csv(TABLE).query("dataset == @layout")
    table = pd.concat([published, ours], ignore_index=True).sort_values("mean", ascending=False, na_position="last")
    shown = [name for name in ("R@1", "R@5", "R@10", "R@50", "Rs@1") if table[name].notna().any()]
    table = table[["method", "protocol", *shown, "mean"]].round(2)
    heading = f"**{layout}**: mean of {first} and {second}; compare within a protocol only; empty: not published"
    return f"{heading}\n\n{table.astype(object).where(table.notna(), '').to_markdown(index=False)}\n"
