"""Published numbers beside ours, each with its protocol: numbers of different protocols are not comparable."""

import pandas as pd

from tmcir_lite.files import ROOT

TABLE = ROOT / "data" / "published.csv"
MEANS = {"fashioniq": ("R@10", "R@50"), "cirr": ("R@5", "Rs@1")}
"""What a dataset's headline number is the mean of."""


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
