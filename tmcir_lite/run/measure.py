"""Measuring: every method of a finished run on val, as a table that names what a number has to name."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from torch import Tensor

from tmcir_lite.config import PROTOCOLS, Config
from tmcir_lite.data.datasets import Split, load_split
from tmcir_lite.data.garments import Garment
from tmcir_lite.data.scenes import Scene
from tmcir_lite.evaluation.cirr_server import write_cirr
from tmcir_lite.evaluation.features import encode_captions, encode_images, encode_queries
from tmcir_lite.evaluation.protocols import evaluate_split
from tmcir_lite.evaluation.results import beside_published, headline
from tmcir_lite.io.files import InputError, atomic, write_text
from tmcir_lite.io.tables import read_table
from tmcir_lite.method.cached import CachedEncoder
from tmcir_lite.method.encoders import Backbone
from tmcir_lite.method.losses import Contrastive
from tmcir_lite.rivals.sums import Baseline, image_only, text_only, weighted_sum
from tmcir_lite.run.choices import tune_weight
from tmcir_lite.run.data import Data, known_contents, prepare_data
from tmcir_lite.run.folder import environment, start_run
from tmcir_lite.run.models import (
    Fusion,
    load_aligned,
    load_cached,
    load_clip4cir,
    load_fusion,
    load_pic2word,
    load_trained,
    plain_sum,
    token_fusion,
    with_cached_images,
    without_merging,
)


def evaluate(cfg: Config, fusions: Mapping[str, Fusion] | None = None) -> pd.DataFrame:
    """Measures every method on val, and on the further val splits; writes `evaluation/results.csv` and `results.md`.

    Every choice (the sum's text weight, the epoch) was or is made on triplets held out of train. What was measured
    before is read from the file.

    Args:
        fusions: your own, by the names under which `stages.train_fusion` trained them; each gets a row of that name.

    Raises:
        InputError: a fusion has the name of one of the run's own methods or folders, or was not trained.
    """
    start_run(cfg)  # refuses another configuration, of which nothing is measured
    taken = sorted(
        (fusions or {}).keys() & {*_FOLDERS, *_FOLDERS.values(), "iacma", "clip4cir", "combiner", "pic2word"}
    )
    if taken:
        raise InputError(f"fusions: {taken[0]!r} is a name of the run's own; train yours under another")
    untrained = [name for name in fusions or {} if not (cfg.run_dir / name / "model").is_dir()]
    if untrained:
        raise InputError(f"fusions: {untrained[0]!r}: not trained; stages.train_fusion does it")
    path = cfg.run_dir / "evaluation" / "results.csv"
    there = [read_table(path, ["method", "layout", "protocol"])] if path.is_file() else []
    before = set(there[0]["method"]) if there else set()
    left = {name: fusion for name, fusion in (fusions or {}).items() if name not in before}
    if there and not left:
        return there[0]
    data, facts = prepare_data(cfg), environment(cfg)
    splits = [data.val, *data.further]
    shown = [known_contents(split) for split in splits]
    tables = []
    for backbone, methods in itertools.chain([] if there else _methods(cfg, data), _composed(cfg, left)):
        for split, known in zip(splits, shown, strict=True):
            tables += _measure(cfg, split, backbone, methods, known)
    measured = pd.concat(tables, ignore_index=True)
    measured = measured.assign(seed=cfg.seed, device=facts["device"], commit=facts["commit"], dirty=facts["dirty"])
    results = pd.concat([*there, measured], ignore_index=True)
    write_text(path.with_name("results.md"), summary(cfg, results))
    if not cfg.drawn:  # a drawn dataset has no published numbers
        write_text(path.with_name("published.md"), beside_published(results, cfg.data.layout))
    with atomic(path) as temporary:  # last, since it says that all is measured
        results.to_csv(temporary, index=False)
    return results


def submit(cfg: Config) -> list[Path]:
    """Writes TMCIR's rankings of CIRR's test1 split, as its server takes them, to `evaluation/submission/`.

    Raises:
        InputError: the profile names no CIRR dataset, its test1 split is not there, or the model is not trained.
    """
    roots = [place.root for place in (cfg.data, *cfg.data.also_evaluate) if place.layout == "cirr"]
    if not roots:
        raise InputError(f"profile {cfg.name}: neither data nor data.also_evaluate has layout: cirr; nothing to submit")
    split = load_split(roots[0], "cirr", "test1", skip_missing=False)
    model, names = load_trained(cfg), split.galleries["all"]
    gallery = encode_images(model.backbone, [split.images[name] for name in names])
    queries = encode_queries(model, split.triplets, split.images, cfg.data.val_captions)
    return write_cirr(split, queries, names, gallery, cfg.run_dir / "evaluation" / "submission")


def summary(cfg: Config, results: pd.DataFrame) -> str:
    """The result table as Markdown, with what a number has to name beside it."""
    lines = []
    for (layout, protocol), rows in results.groupby(["layout", "protocol"], sort=False):
        sizes = rows.query("category == 'mean'").iloc[0]
        lines += [f"**{layout}, protocol {protocol}**: {int(sizes['queries'])} queries, "
                  f"{int(sizes['gallery'])} gallery images", ""]  # fmt: skip
        lines += [headline(results, layout, protocol).round(2).to_markdown(), ""]
    commits, dirty = results["commit"].dropna().unique(), results["dirty"].eq(True).any()
    commit = f"{', '.join(commits) or 'unknown'}{' with local changes' if dirty else ''}"
    devices = " and ".join(results["device"].unique())
    skipped = int(results["skipped"].max())
    weights = results.dropna(subset="text_weight").groupby("method", sort=False)["text_weight"].first()
    lines.append(
        f"Run `{cfg.name}`: seed {cfg.seed}, {devices}, backbone {cfg.backbone.name}, editor "
        f'{cfg.editor.model}, commit {commit}; val captions joined with "{cfg.data.val_captions}"; text weights '
        f"({', '.join(f'{name}: {weight:.2f}' for name, weight in weights.items())}) and "
        f"epochs chosen on {cfg.data.heldout:.0%} of train kept aside; ties count against us; "
        f"{skipped} entries left out for missing pictures."
    )
    return "\n".join(lines) + "\n"


class Method(NamedTuple):
    """A row of the result table: a function of pooled features, or a trained model."""

    name: str
    query: Baseline | Contrastive
    text_weight: float | None = None


_FOLDERS = {"sum": "fine-tuned sum", "control": "TMCIR, merging off", "atf": "TMCIR"}
"""What `stages.train_fusion` leaves in a run by itself: folder -> row of the result table."""


def _methods(cfg: Config, data: Data) -> Iterator[tuple[Backbone | CachedEncoder, list[Method]]]:
    """The method table: yields encoders and the methods on them."""
    pic2word = load_pic2word(cfg)
    start = pic2word.backbone
    weight = tune_weight(cfg, start, data)[0]
    yield (
        start,
        [
            Method("image only", image_only),
            Method("text only", text_only),
            Method("sum", weighted_sum(0.5), 0.5),
            Method("weighted sum", weighted_sum(weight), weight),
            Method("Pic2Word", pic2word),
        ],
    )
    stage1, combined = load_clip4cir(cfg)
    yield combined.backbone, [Method("CLIP4Cir, stage 1", stage1), Method("CLIP4Cir", combined)]
    for epoch, last in (("chosen", False), ("last", True)):
        kept = last == (cfg.iacma.keep == "last")  # its pictures are those of stage 2, and are encoded for both
        aligned = load_cached(cfg, aligned=True) if kept else load_aligned(cfg, last)
        weight = tune_weight(cfg, aligned, data)[0]
        yield aligned, [Method(f"IACMA ({epoch} epoch), weighted sum", weighted_sum(weight), weight)]
    own = {"sum": plain_sum(cfg), "control": without_merging(cfg), "atf": token_fusion(cfg)}
    if cfg.atf.threshold > 1:  # `stages.train_control`: stage 2 is the control
        del own["control"]
    yield from _composed(cfg, own)


def _composed(cfg: Config, fusions: Mapping[str, Fusion]) -> Iterator[tuple[Backbone | CachedEncoder, list[Method]]]:
    """Yields each trained fusion with its encoders."""
    for name, fusion in fusions.items():
        model = with_cached_images(cfg, load_fusion(cfg, name, fusion))
        yield model.backbone, [Method(_FOLDERS.get(name, name), model)]


def _measure(
    cfg: Config, split: Split, backbone: Backbone, methods: list[Method], known: Mapping[str, Garment | Scene] | None
) -> Iterator[pd.DataFrame]:
    names, gallery = gallery_of(split, backbone)
    asked = cfg.evaluation.protocols if split.layout == cfg.data.layout else PROTOCOLS[split.layout]
    for method in methods:
        queries = queries_of(cfg, method, split, backbone, names, gallery)
        table = evaluate_split(queries, names, gallery, split, asked, cfg.evaluation.recall_at, known=known).assign(
            text_weight=method.text_weight, skipped=len(split.skipped)
        )
        table.insert(0, "method", method.name)
        yield table


def gallery_of(split: Split, backbone: Backbone) -> tuple[list[str], Tensor]:
    """Names and features, G D, of all pictures of a split."""
    names = sorted(split.images)
    return names, encode_images(backbone, [split.images[name] for name in names])


def queries_of(
    cfg: Config, method: Method, split: Split, backbone: Backbone, names: list[str], gallery: Tensor
) -> Tensor:
    """Query features of a split's triplets, Q D; the other arguments as `gallery_of` takes and gives them."""
    if isinstance(method.query, Contrastive):
        return encode_queries(method.query, split.triplets, split.images, cfg.data.val_captions)
    row = {name: index for index, name in enumerate(names)}
    references = gallery[[row[triplet.reference_name] for triplet in split.triplets]]
    return method.query(references, encode_captions(backbone, split.triplets, cfg.data.val_captions))
