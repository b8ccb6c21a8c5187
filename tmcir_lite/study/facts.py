"""What the study measures beside recall: what a fusion costs; of scenes the kinds of edit, and where words point."""

from collections.abc import Sequence
from functools import partial

import pandas as pd
import torch

from tmcir_lite.config import Config
from tmcir_lite.data.datasets import Split
from tmcir_lite.data.scenes import KINDS, SceneQuery
from tmcir_lite.evaluation.features import joined
from tmcir_lite.evaluation.pointing import naming_words, pointing
from tmcir_lite.io.processes import pick_device
from tmcir_lite.method.atf import ATF, Match
from tmcir_lite.method.model import Composed
from tmcir_lite.run.data import sample, scene_queries
from tmcir_lite.study.fusion_cost import seconds


def kinds_of_edit(split: Split) -> list[str] | None:
    """The kind of each query's edit, in the order of the split's triplets; None outside the world of scenes."""
    queries = scene_queries(split)
    return queries and [queries[triplet.id].kind for triplet in split.triplets]


def recall_by_kind(outcomes: pd.DataFrame, k: int = 1) -> pd.DataFrame:
    """R@k in % over all seeds: cells as rows, kinds of edit (NaN where there is none) and "all" as columns.

    Args:
        outcomes: a row for each query, cell and seed, with its `rank` and `kind`, as the study keeps them.
    """
    hits = outcomes.assign(hit=100.0 * (outcomes["rank"] <= k))
    table = hits.pivot_table(index="cell", columns="kind", values="hit", sort=False).reindex(columns=list(KINDS))
    return table.assign(all=hits.groupby("cell", sort=False)["hit"].mean())


@torch.no_grad()
def beside_recall(cfg: Config, model, split: Split) -> dict[str, float]:
    """Of 512 queries: milliseconds a query for the fusion; of ATF words merged (%), tokens left, where words point."""
    if not isinstance(model, Composed):
        return {}
    some, device = sample(split.triplets, 512, seed=0), pick_device(cfg.device)
    texts = joined(some, cfg.data.val_captions)
    references = model.backbone.load([split.images[t.reference_name] for t in some])
    image = model.backbone.image(references.to(device))
    text = model.backbone.text(model.backbone.tokenize(texts).to(device))
    cost = {"fusion_ms": 1000 * min(seconds(partial(model.fusion, image, text)) for _ in range(3)) / len(some)}
    if not isinstance(model.fusion, ATF):
        return cost
    fused, queries = model.fusion.fuse(image.tokens, text.tokens, text.mask), scene_queries(split)
    if queries is not None:
        words = [model.backbone.words(text) for text in texts]
        cost |= where_words_point(fused.match, words, [queries[t.id] for t in some], model.backbone.grid)
    return cost | {
        "merged": 100 * fused.match.merged.sum().item() / text.mask.sum().item(),
        "tokens": fused.mask.sum().item() / len(some),
    }


def where_words_point(
    match: Match, words: Sequence[Sequence[str]], asked: Sequence[SceneQuery], grid: tuple[int, int]
) -> dict[str, float]:
    """Of some queries in the world of scenes, in %.

    - `pointing`: naming words whose best patch lies on the thing that they name (`evaluation.pointing`).
    - `naming merged`, `others merged`: how many of these words merge, and of all other words.

    Args:
        words, asked: of each query in `match`.
    """
    best, merged = ([row[mask] for row, mask in zip(part, match.text_mask, strict=True)]
                    for part in (match.index, match.merged))  # fmt: skip
    hits = pointing(best, words, asked, grid)
    naming = [{number for number, _ in naming_words(*pair)} for pair in zip(words, asked, strict=True)]
    flags = [(number in names, bool(row[number])) for names, row in zip(naming, merged, strict=True)
             for number in range(len(row))]  # fmt: skip
    share = {name: [m for n, m in flags if n == wanted] for name, wanted in (("naming", True), ("others", False))}
    return {"pointing": _percent(hits), **{f"{name} merged": _percent(each) for name, each in share.items()}}


def _percent(flags: list[bool]) -> float:
    return 100 * sum(flags) / len(flags)
