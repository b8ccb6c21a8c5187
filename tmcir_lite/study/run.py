"""The study: every cell of the plan with several seeds, resumable, as one table; then the effects, with intervals.

`python -m tmcir_lite study` leaves in `data/results/`: `study.csv` (a row a cell, seed and layout), `outcomes.csv.gz`
(a row a query of each), `claims.csv`, `changes.csv` (every other cell against its base), of scenes
`kinds.csv` (each kind of edit for itself) and, to be read, `study.md`.
"""

import gzip
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from tmcir_lite.config import Config, load_config
from tmcir_lite.data.datasets import Split
from tmcir_lite.evaluation.intent import intent
from tmcir_lite.evaluation.protocols import answers, evaluate_split
from tmcir_lite.io.files import InputError, atomic, read_json, resolve, write_text
from tmcir_lite.io.tables import read_table
from tmcir_lite.method.cached import CachedEncoder
from tmcir_lite.method.checkpoint import read_history
from tmcir_lite.method.encoders import Backbone
from tmcir_lite.method.iacma import Iacma
from tmcir_lite.rivals.sums import image_only, text_only, weighted_sum
from tmcir_lite.run import choices, stages
from tmcir_lite.run.data import Data, known_attributes, known_contents, prepare_data, sample, target_images
from tmcir_lite.run.folder import environment
from tmcir_lite.run.measure import Method, gallery_of, queries_of
from tmcir_lite.run.models import load_cached, load_clip4cir, load_fusion, load_pic2word, with_cached_images
from tmcir_lite.study.effects import changes, claims
from tmcir_lite.study.facts import beside_recall, kinds_of_edit, recall_by_kind
from tmcir_lite.study.known_edits import draw_known_edits
from tmcir_lite.study.plan import (
    PLAN,
    TUNING,
    Cell,
    Plan,
    alignment_config,
    cell_config,
    chosen_cells,
    finished_runs,
    load_plan,
    pictures_config,
    slug,
    world_rules,
)
from tmcir_lite.study.report import RESULTS, load_study, markdown
from tmcir_lite.study.variants import FUSIONS, WordsToo

PROTOCOL = {"fashioniq": "original-masked", "cirr": "cirr"}
"""One protocol a layout: with the reference in the gallery, a ranking says more of the protocol than of the method."""


def run_study(
    profile: str,
    overrides: Sequence[str],
    seeds: Sequence[int],
    parts: Sequence[str],
    out: Path = RESULTS,
    plan_file: Path = PLAN,
) -> None:
    """Runs what is missing of the plan's parts; writes the tables after every seed.

    Raises:
        InputError: an unknown part; one that needs drawn pictures, for a dataset of real ones; `out` has the tables of
            another dataset; or as the stages.
    """
    plan, cfg = load_plan(plan_file), load_config(profile, overrides)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"study: --out {out}: no folder to write to ({error.strerror}); name another") from None
    wanted = chosen_cells(plan, parts, cfg)
    _check_tables(out, _data_name(cfg))
    for cell in wanted:  # a bad one is found before the first is run
        cell_config(plan, cell, profile, overrides, seeds[0])
    for seed in seeds:
        for name in plan.alignments:  # cells of one alignment in a row: they share its pictures' features
            for cell in (cell for cell in wanted if cell.aligned == name):
                _run_cell(plan, cell, profile, overrides, seed)
        collect(plan, profile, overrides, out)
        write_report(out, plan_file)


def _data_name(cfg: Config) -> str:
    if cfg.scenes is not None:
        return "world of scenes"
    return "garment world" if cfg.garments is not None else resolve(cfg.data.root).name


def _check_tables(out: Path, name: str) -> None:
    """Makes sure, before the work, that its rows can be added to the tables that are there."""
    table, outcomes = out / "study.csv", out / "outcomes.csv.gz"
    if outcomes.is_file():
        read_table(outcomes, ["cell", "seed"], rows=1)  # the rest is not there while only trials were run
    there = set(read_table(table, ["cell", "seed", "data"])["data"]) - {name} if table.is_file() else ()
    if there:
        raise InputError(f"{table}: is of {min(there)}, not of {name}; give the study another folder with --out")


def collect(plan: Plan, profile: str, overrides: Sequence[str], out: Path) -> pd.DataFrame:
    """Joins what has been run of all cells with what `out` has of other cells and seeds, and tests the claims.

    So a study can grow: further seeds, on whatever machine, are added to the tables that are there. `outcomes.csv.gz`
    has the rank of every query's target, and what its first answer changed and kept; intervals come from these.
    """
    rows, outcomes = [], []
    cfg = load_config(profile, overrides)
    dataset = _data_name(cfg)
    for cell in plan.cells:
        for path in finished_runs(cfg, cell):
            row = read_table(path, ["seed"])
            rows.append(row.assign(data=dataset))
            if path.with_name("outcomes.csv").is_file():
                each = read_table(path.with_name("outcomes.csv"), ["rank"])
                outcomes.append(each.assign(cell=cell.name, seed=row["seed"].iloc[0]))
    table, answered = _added(rows, out / "study.csv"), _added(outcomes, out / "outcomes.csv.gz")
    tables = {"study.csv": table, "outcomes.csv.gz": answered, "claims.csv": claims(plan, answered),
              "changes.csv": changes(plan, answered)}  # fmt: skip
    if "kind" in answered:
        tables["kinds.csv"] = recall_by_kind(answered).reset_index()
    for name, part in tables.items():
        data = part.to_csv(index=False, float_format="%.5g").encode()
        with atomic(out / name) as path:  # no time of writing in it: the same table is the same file
            path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return table


def write_report(out: Path, plan_file: Path = PLAN) -> None:
    """Writes `study.md` from the tables in `out`."""
    write_text(out / "study.md", markdown(load_study(out, plan_file)))


def _added(new: list[pd.DataFrame], path: Path) -> pd.DataFrame:
    """The new rows, and of those in the file the ones of other cells and seeds."""
    joined = pd.concat([pd.DataFrame(columns=["cell", "seed"]), *new], ignore_index=True)
    if path.is_file():
        there = read_table(path, ["cell", "seed"])
        keys = set(zip(joined["cell"], joined["seed"], strict=True))
        kept = [key not in keys for key in zip(there["cell"], there["seed"], strict=True)]
        joined = pd.concat([there[kept], joined], ignore_index=True)
    return joined.sort_values(["cell", "seed"], kind="stable")


def _run_cell(plan: Plan, cell: Cell, profile: str, overrides: Sequence[str], seed: int) -> None:
    cfg = cell_config(plan, cell, profile, overrides, seed)
    if (cfg.run_dir / "result.csv").is_file():
        return
    print(f"study: seed {seed}, {cell.part}: {cell.name}", flush=True)
    aligned = _align(plan, cell.aligned, profile, overrides, seed)
    _link(cfg.run_dir / "iacma", aligned / "iacma")
    if cell.models:
        for folder in ("clip4cir", "combiner"):
            _link(cfg.run_dir / folder, cfg.run_dir.with_name(slug(cell.models)) / folder)
    count = cell.triplets or plan.alignments[cell.aligned].triplets or plan.triplets
    data = _data(cfg, count, cell.world)._replace(neighbours=cell.neighbours)
    if cell.targets == "pseudo":
        data = towards_pictures(data, aligned / "pseudo_targets")
    backbone, method, facts = _train(cfg, cell, data)
    splits = [data.val, *data.further]
    measured = [] if cell.part == TUNING else [_measure(cfg, method, split, backbone) for split in splits]
    rows, outcomes = [row for row, _ in measured], [outcome for _, outcome in measured]
    where = environment(cfg)
    result = pd.concat(rows or [pd.DataFrame(index=[0])], ignore_index=True).assign(
        part=cell.part, cell=cell.name, x=cell.x, aligned=cell.aligned, **facts,
        **beside_recall(cfg, method.query, splits[0]), seed=seed, device=where["device"], commit=where["commit"],
        dirty=where["dirty"],
    )  # fmt: skip
    if outcomes:
        with atomic(cfg.run_dir / "outcomes.csv") as path:
            pd.concat(outcomes).to_csv(path, index=False, float_format="%.5g")
    with atomic(cfg.run_dir / "result.csv") as path:
        result.to_csv(path, index=False)


def _data(cfg: Config, triplets: int | str, world: Mapping[str, float] | None) -> Data:
    """The dataset of a cell or an alignment, with as many of the triplets to learn from, drawn by the seed."""
    data = prepare_data(cfg, world_rules(world))
    return data if triplets == "all" else data._replace(kept=sample(data.kept, triplets, cfg.seed))


def towards_pictures(data: Data, folder: Path) -> Data:
    """The same data, whose triplets to learn from have the picture `<id>.png` of a folder as their target.

    So stage 2 reads IACMA otherwise: the *composed* query, not the caption alone, is brought to the pseudo-target.
    """
    names = {triplet.id: f"pseudo-target {triplet.id}" for triplet in data.kept}
    images = data.train.images | {name: folder / f"{of}.png" for of, name in names.items()}
    kept = [replace(triplet, target_name=names[triplet.id]) for triplet in data.kept]
    return data._replace(train=replace(data.train, images=images), kept=kept)


def _measure(
    cfg: Config, method: Method, split: Split, backbone: Backbone | CachedEncoder
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The row of the result table for one val split, and a row for each of its queries."""
    protocol, known = PROTOCOL[split.layout], known_contents(split)
    names, gallery = gallery_of(split, backbone)
    queries = queries_of(cfg, method, split, backbone, names, gallery)
    table = evaluate_split(queries, names, gallery, split, [protocol], cfg.evaluation.recall_at, known=known)
    ranks, first = answers(queries, names, gallery, split, protocol)
    outcome = pd.DataFrame({"layout": split.layout, "query": range(len(ranks)), "rank": ranks.tolist()})
    if known:
        each = [intent([t], [answer], known) for t, answer in zip(split.triplets, first, strict=True)]
        outcome = outcome.join(pd.DataFrame(each))
    if kinds := kinds_of_edit(split):
        outcome["kind"] = kinds
    return table.query("category == 'mean'"), outcome


def _align(plan: Plan, name: str, profile: str, overrides: Sequence[str], seed: int) -> Path:
    """The run's folder of an alignment; runs IACMA if that is missing."""
    cfg, alignment = alignment_config(plan, name, profile, overrides, seed), plan.alignments[name]
    if stages.is_done(cfg, "iacma", cfg.iacma):
        return cfg.run_dir
    data = _data(cfg, alignment.triplets or plan.triplets, alignment.world)
    pictures, images = cfg.run_dir / "pseudo_targets", None
    if alignment.edits is not None and not pictures.is_dir():
        known = known_attributes(data.train)
        draw_known_edits(data.train.triplets, known, pictures, alignment.edits.spoil, alignment.edits.share, seed)
    elif alignment.pictures == "real":
        images = target_images(data)
    elif cfg.iacma.epochs and not pictures.exists():
        drawn = pictures_config(plan, name, profile, overrides)
        stages.make_pseudo_targets(drawn)
        _link(pictures, drawn.run_dir / "pseudo_targets")
    model = partial(WordsToo, weight=alignment.words) if alignment.words else Iacma
    stages.train_iacma(cfg, data, images, model)
    return cfg.run_dir


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.exists():
        return
    try:
        link.symlink_to(target.resolve(), target_is_directory=True)
    except OSError:  # not every file system has links
        shutil.copytree(target, link.with_name(f"{link.name}.partial"), dirs_exist_ok=True)
        link.with_name(f"{link.name}.partial").rename(link)


def _train(cfg: Config, cell: Cell, data: Data) -> tuple[Backbone | CachedEncoder, Method, dict[str, float]]:
    """Trains what a cell needs; returns the encoders of the gallery, the method, and facts of its training."""
    if cell.method == "TMCIR":
        fusion = FUSIONS[cell.fusion](cfg)
        stages.train_fusion(cfg, "atf", fusion, data=data)
        model = with_cached_images(cfg, load_fusion(cfg, "atf", fusion))
        return model.backbone, Method(cell.name, model), _spent(cfg, "atf")
    if cell.method.startswith("CLIP4Cir"):
        stages.train_clip4cir(cfg, data)
        stage1, combined = load_clip4cir(cfg)
        model, trainings = (stage1, ("clip4cir",)) if "stage 1" in cell.method else (combined, ("combiner", "clip4cir"))
        return model.backbone, Method(cell.name, model), _spent(cfg, *trainings)
    if cell.method == "Pic2Word":
        stages.train_pic2word(cfg, data)
        model = load_pic2word(cfg)
        return model.backbone, Method(cell.name, model), _spent(cfg, "pic2word")
    backbone = load_cached(cfg, aligned=True)
    if cell.method == "weighted sum":
        weight, score, _ = choices.tune_weight(cfg, backbone, data)
        return backbone, Method(cell.name, weighted_sum(weight), weight), {"heldout": score, "parameters": 1}
    query = image_only if cell.method == "image only" else text_only
    return backbone, Method(cell.name, query), {"parameters": 0}


def _spent(cfg: Config, *trainings: str) -> dict[str, float]:
    """Held-out recall (of the first training), seconds of all epochs, and most parameters trained at once."""
    histories = [read_history(cfg.run_dir / name) for name in trainings]
    metrics = [read_json(cfg.run_dir / name / "metrics.json") for name in trainings]
    return {
        "heldout": next(value for name, value in metrics[0].items() if name.startswith("heldout_")),
        "seconds": sum(history["seconds"].sum() for history in histories),
        "parameters": max(entry["parameters"] for entry in metrics),
    }
