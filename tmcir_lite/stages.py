"""The stages of a run. Each reads what the former wrote under the run's folder, and skips what is already there."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from tmcir_lite.backbone import Backbone, load_backbone
from tmcir_lite.baselines import Baseline, choose_weight, image_only, text_only, weighted_sum
from tmcir_lite.batches import train_loader
from tmcir_lite.config import Atf, Config, environment, pick_device, start_run
from tmcir_lite.datasets import PROTOCOLS, Split, Triplet, hold_out, load_split, union
from tmcir_lite.editors import load_editor
from tmcir_lite.evaluation import evaluate_split, recall, target_ranks
from tmcir_lite.features import encode_captions, encode_images, encode_queries
from tmcir_lite.files import InputError, atomic, read_json, resolve, write_json, write_text
from tmcir_lite.garments import Garment, Picture, World, build_world, read_attributes
from tmcir_lite.iacma import Iacma
from tmcir_lite.intent import MEASURES
from tmcir_lite.picture_cache import picture_reader
from tmcir_lite.processes import main_first, main_only
from tmcir_lite.pseudo_targets import generate, jobs_for
from tmcir_lite.published import beside_published
from tmcir_lite.submission import write_cirr
from tmcir_lite.tmcir import Tmcir, build_tmcir, load_tmcir
from tmcir_lite.training import Schedule, decay_groups, fit, is_complete, load_weights, read_history


class Data(NamedTuple):
    """The main dataset: its splits, and train parted into what is learned from and what choices are made on."""

    train: Split
    val: Split
    kept: list[Triplet]
    held: list[Triplet]


def prepare_data(cfg: Config) -> Data:
    """Draws the garment world if the profile has one, then loads and checks the dataset.

    Raises:
        InputError: see `garments.build_world` and `datasets.load_split`.
    """
    with main_first(pick_device(cfg.device)):
        start_run(cfg)
        if cfg.garments is not None:
            settings = cfg.garments.model_dump()
            root = resolve(settings.pop("root"))
            build_world(World(**settings), root)
    train, val = (
        load_split(cfg.data.root, cfg.data.layout, name, cfg.data.categories, cfg.data.skip_missing)
        for name in ("train", "val")
    )
    return Data(train, val, *hold_out(train, cfg.data.heldout, cfg.seed))


def make_pseudo_targets(cfg: Config) -> list[dict]:
    """Draws the pseudo-targets of the train triplets; returns the manifest's records."""
    data, device = prepare_data(cfg), pick_device(cfg.device)
    chosen = data.train.triplets[: cfg.editor.limit]
    jobs = jobs_for(chosen, data.train.images, cfg.seed)
    return generate(lambda: load_editor(cfg.editor, device), jobs, cfg.editor, cfg.run_dir / "pseudo_targets")


def train_iacma(cfg: Config) -> pd.DataFrame:
    """Stage 1. Leaves the encoders of best and last epoch in `iacma/model` and `iacma/model_last`; returns the history.

    The best epoch is chosen on held-out train and may be 0: then no epoch was better than the encoders at the start.
    """
    folder = cfg.run_dir / "iacma"
    if (folder / "metrics.json").is_file() and is_complete(folder, cfg.iacma.epochs):
        return read_history(folder)
    data, backbone = prepare_data(cfg), load_start(cfg)
    images = _iacma_images(cfg, data)
    kept = [triplet for triplet in data.kept if triplet.id in images]
    model = Iacma(backbone, cfg.iacma.symmetric)
    columns = {"pseudo_targets": [images[triplet.id] for triplet in kept]}

    def validate():
        weight, score, _ = tune_weight(cfg, backbone, data)
        return {_score(cfg): score, "text_weight": weight}

    history = fit(
        model, _loaders(cfg, columns, kept, backbone, cfg.iacma.batch), _schedule(cfg.iacma), folder,
        device=pick_device(cfg.device), seed=cfg.seed, validate=validate, score=_score(cfg), title="IACMA",
        groups=decay_groups(model, cfg.iacma.weight_decay), chunk=cfg.iacma.chunk,
    )  # fmt: skip
    with main_only(pick_device(cfg.device)) as writes:
        if writes:
            _keep_both(model, backbone, folder)
            write_json(folder / "metrics.json", validate() | {"best_epoch": best_epoch(history)})
    return history


def _keep_both(model: torch.nn.Module, saved: Backbone | Tmcir, folder: Path) -> None:
    """Saves last and best epoch as models; `model` is left with the best epoch's weights."""
    for weights, name in (("last", "model_last"), ("best", "model")):
        load_weights(model, folder / f"{weights}.safetensors")
        saved.save(folder / name)


def train_atf(cfg: Config) -> pd.DataFrame:
    """Stage 2. Leaves best and last epoch's models in `atf/model` and `atf/model_last`; returns the history."""
    return _train_fusion(cfg, cfg.atf, cfg.run_dir / "atf", "ATF")


def train_control(cfg: Config) -> pd.DataFrame:
    """Stage 2 once more with merging off, in `control/`: what it reaches is not the merging's doing."""
    return _train_fusion(cfg, _without_merging(cfg), cfg.run_dir / "control", "control")


def _without_merging(cfg: Config) -> Atf:
    return cfg.atf.model_copy(update={"threshold": 2.0})


def _train_fusion(cfg: Config, settings: Atf, folder: Path, title: str) -> pd.DataFrame:
    if (folder / "metrics.json").is_file() and is_complete(folder, settings.epochs):
        return read_history(folder)
    data, backbone = prepare_data(cfg), load_aligned(cfg)
    torch.manual_seed(cfg.seed)
    model = build_tmcir(
        backbone, settings, text_weight=read_json(cfg.run_dir / "iacma" / "metrics.json")["text_weight"]
    )
    images = data.train.images
    columns = {
        "references": [images[triplet.reference_name] for triplet in data.kept],
        "targets": [images[triplet.target_name] for triplet in data.kept],
    }
    history = fit(
        model, _loaders(cfg, columns, data.kept, backbone, settings.batch), _schedule(settings), folder,
        device=pick_device(cfg.device), seed=cfg.seed, score=_score(cfg), title=title,
        groups=model.groups(settings), validate=lambda: {_score(cfg): heldout_recall(cfg, model, data)},
        chunk=settings.chunk,
    )  # fmt: skip
    with main_only(pick_device(cfg.device)) as writes:
        if writes:
            _keep_both(model, model, folder)
            best = {"best_epoch": best_epoch(history), _score(cfg): float(heldout(history).max())}
            write_json(folder / "metrics.json", best)
    return history


def load_start(cfg: Config) -> Backbone:
    """The pretrained backbone that the run starts from, on the run's device."""
    backbone = load_backbone(cfg.backbone.name, cfg.backbone.pretrained, cfg.backbone.target_pad)
    backbone.limit_training(cfg.backbone)
    return backbone.to(pick_device(cfg.device)).eval()


def load_aligned(cfg: Config, last: bool = False) -> Backbone:
    """The backbone after IACMA: the best epoch on held-out train, or the last one."""
    name = f"local-dir:{cfg.run_dir / 'iacma' / ('model_last' if last else 'model')}"
    backbone = load_backbone(name, target_pad=cfg.backbone.target_pad)
    backbone.limit_training(cfg.backbone)
    return backbone.to(pick_device(cfg.device)).eval()


def load_trained(cfg: Config, last: bool = False) -> Tmcir:
    """TMCIR after both stages: the best epoch on held-out train, or the last one."""
    return _load_fusion(cfg, cfg.run_dir / "atf" / ("model_last" if last else "model"), cfg.atf)


def _load_fusion(cfg: Config, folder: Path, settings: Atf) -> Tmcir:
    return load_tmcir(folder, settings, cfg.backbone.target_pad).to(pick_device(cfg.device)).eval()


def best_epoch(history: pd.DataFrame) -> int:
    """The epoch whose weights `fit` kept as best: the latest of those with the highest held-out recall."""
    scores = heldout(history)
    return int(history["epoch"][scores == scores.max()].max())


def heldout(history: pd.DataFrame) -> pd.Series:
    """A history's held-out recall; the series is named for it, such as "heldout_R@10"."""
    return history[next(column for column in history if column.startswith("heldout_R@"))]


def _score(cfg: Config) -> str:
    return f"heldout_R@{cfg.evaluation.choose_at}"


def known_attributes(split: Split) -> dict[str, Picture] | None:
    """What every picture of a garment world shows; None for a dataset of real pictures."""
    return read_attributes(split.root) if (split.root / "attributes.jsonl").is_file() else None


def tune_weight(cfg: Config, backbone: Backbone, data: Data) -> tuple[float, float, pd.DataFrame]:
    """The weighted sum's text weight on held-out train: (weight, its recall, the sweep of recalls)."""
    gallery, target, reference = _heldout_gallery(data)
    features = encode_images(backbone, [data.train.images[name] for name in gallery])
    texts = encode_captions(backbone, data.held, cfg.data.val_captions)
    k = cfg.evaluation.choose_at
    weight, sweep = choose_weight(features[reference], texts, features, target, reference, k=k)
    return weight, float(sweep[f"R@{k}"].max()), sweep


def heldout_recall(cfg: Config, model: Tmcir, data: Data) -> float:
    """Recall of TMCIR's queries on held-out train; the gallery is its references and targets, the reference masked."""
    gallery, target, reference = _heldout_gallery(data)
    features = encode_images(model.backbone, [data.train.images[name] for name in gallery])
    queries = encode_queries(model.backbone, model.query, data.held, data.train.images, cfg.data.val_captions)
    return recall(target_ranks(queries, features, target, reference), cfg.evaluation.choose_at)


def evaluate(cfg: Config) -> pd.DataFrame:
    """Measures every method on val, and on the further val splits; writes `evaluation/results.csv` and `results.md`.

    Every choice (the sum's text weight, the epoch) was or is made on triplets held out of train.
    """
    path = cfg.run_dir / "evaluation" / "results.csv"
    if path.is_file():
        return pd.read_csv(path)
    data = prepare_data(cfg)
    tables = []
    splits = _val_splits(cfg, data)
    shown = [_known_garments(split) for split in splits]
    for backbone, methods in _methods(cfg, data):
        for split, known in zip(splits, shown, strict=True):
            tables += _measure(cfg, split, backbone, methods, known)
    facts = environment(cfg)
    results = pd.concat(tables, ignore_index=True)
    results = results.assign(seed=cfg.seed, device=facts["device"], commit=facts["commit"], dirty=facts["dirty"])
    with atomic(path) as temporary:
        results.to_csv(temporary, index=False)
    write_text(path.with_name("results.md"), summary(cfg, results))
    if cfg.garments is None:  # a drawn dataset has no published numbers
        write_text(path.with_name("published.md"), beside_published(results, cfg.data.layout))
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
    queries = encode_queries(model.backbone, model.query, split.triplets, split.images, cfg.data.val_captions)
    return write_cirr(split, queries, names, gallery, cfg.run_dir / "evaluation" / "submission")


def headline(results: pd.DataFrame, layout: str, protocol: str) -> pd.DataFrame:
    """The rows averaged over categories of one protocol, one method a row, with recall columns only."""
    rows = results.query("layout == @layout and protocol == @protocol and category == 'mean'")
    recalls = [column for column in rows if column.startswith("R") and rows[column].notna().any()]
    return rows.set_index("method")[recalls]


def intent_table(results: pd.DataFrame, layout: str, protocol: str) -> pd.DataFrame | None:
    """Of the same rows the measures of intent; None where the attributes of the pictures are not known."""
    rows = results.query("layout == @layout and protocol == @protocol and category == 'mean'")
    return rows.set_index("method")[list(MEASURES)] if "kept" in rows and rows["kept"].notna().all() else None


def summary(cfg: Config, results: pd.DataFrame) -> str:
    """The result table as Markdown, with what a number has to name beside it."""
    facts = environment(cfg)
    lines = []
    for (layout, protocol), rows in results.groupby(["layout", "protocol"], sort=False):
        sizes = rows.query("category == 'mean'").iloc[0]
        lines += [f"**{layout}, protocol {protocol}**: {int(sizes['queries'])} queries, "
                  f"{int(sizes['gallery'])} gallery images", ""]  # fmt: skip
        lines += [headline(results, layout, protocol).round(2).to_markdown(), ""]
    commit = f"{facts['commit'] or 'unknown'}{' with local changes' if facts['dirty'] else ''}"
    skipped = int(results["skipped"].max())
    weights = results.dropna(subset="text_weight").groupby("method", sort=False)["text_weight"].first()
    lines.append(
        f"Run `{cfg.name}`: seed {cfg.seed}, {facts['device']}, backbone {cfg.backbone.name}, editor "
        f'{cfg.editor.model}, commit {commit}; val captions joined with "{cfg.data.val_captions}"; text weights '
        f"({', '.join(f'{name}: {weight:.2f}' for name, weight in weights.items())}) and "
        f"epochs chosen on {cfg.data.heldout:.0%} of train kept aside; ties count against us; "
        f"{skipped} entries left out for missing pictures."
    )
    return "\n".join(lines) + "\n"


class Method(NamedTuple):
    """A row of the result table: a function of pooled features, or a trained model."""

    name: str
    query: Baseline | Tmcir
    text_weight: float | None = None


def _methods(cfg: Config, data: Data) -> Iterator[tuple[Backbone, list[Method]]]:
    """Yields a backbone and the methods on it."""
    start = load_start(cfg)
    weight = tune_weight(cfg, start, data)[0]
    yield (
        start,
        [
            Method("image only", image_only),
            Method("text only", text_only),
            Method("sum", weighted_sum(0.5), 0.5),
            Method("weighted sum", weighted_sum(weight), weight),
        ],
    )
    for epoch, last in (("best", False), ("last", True)):
        aligned = load_aligned(cfg, last)
        weight = tune_weight(cfg, aligned, data)[0]
        yield aligned, [Method(f"IACMA ({epoch} epoch), weighted sum", weighted_sum(weight), weight)]
    control = _load_fusion(cfg, cfg.run_dir / "control" / "model", _without_merging(cfg))
    yield control.backbone, [Method("TMCIR, merging off (best epoch)", control)]
    for name, last in (("TMCIR (best epoch)", False), ("TMCIR (last epoch)", True)):
        model = load_trained(cfg, last)
        yield model.backbone, [Method(name, model)]


def _val_splits(cfg: Config, data: Data) -> list[Split]:
    further = [load_split(other.root, other.layout, "val", skip_missing=cfg.data.skip_missing)
               for other in cfg.data.also_evaluate]  # fmt: skip
    return [data.val, *further]


def _known_garments(split: Split) -> dict[str, Garment] | None:
    attributes = known_attributes(split)
    return attributes and {name: picture.garment for name, picture in attributes.items()}


def _measure(
    cfg: Config, split: Split, backbone: Backbone, methods: list[Method], known: dict[str, Garment] | None
) -> Iterator[pd.DataFrame]:
    names = sorted(split.images)
    row = {name: index for index, name in enumerate(names)}
    gallery = encode_images(backbone, [split.images[name] for name in names])
    references = gallery[[row[triplet.reference_name] for triplet in split.triplets]]
    texts = encode_captions(backbone, split.triplets, cfg.data.val_captions)
    asked = cfg.evaluation.protocols if split.layout == cfg.data.layout else PROTOCOLS[split.layout]
    for method, query, weight in methods:
        if isinstance(query, Tmcir):
            queries = encode_queries(backbone, query.query, split.triplets, split.images, cfg.data.val_captions)
        else:
            queries = query(references, texts)
        table = evaluate_split(
            queries, names, gallery, split, asked, cfg.evaluation.recall_at, cfg.evaluation.chunk, known
        ).assign(text_weight=weight, skipped=len(split.skipped))
        table.insert(0, "method", method)
        yield table


def _iacma_images(cfg: Config, data: Data) -> dict[str, Path]:
    """Triplet id -> the picture that IACMA pairs with its text."""
    if cfg.iacma.images == "real":
        return {triplet.id: data.train.images[triplet.target_name] for triplet in data.train.triplets}
    folder = cfg.run_dir / "pseudo_targets"
    images = {triplet.id: folder / f"{triplet.id}.png" for triplet in data.train.triplets[: cfg.editor.limit]}
    missing = [path for path in images.values() if not path.is_file()]
    if missing:
        raise InputError(f"{missing[0]}: no such pseudo-target ({len(missing)} missing); run `pseudo-targets` first")
    return images


def _heldout_gallery(data: Data) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    gallery = union(data.held)
    row = {name: index for index, name in enumerate(gallery)}
    target = torch.tensor([row[triplet.target_name] for triplet in data.held])
    reference = torch.tensor([row[triplet.reference_name] for triplet in data.held])
    return gallery, target, reference


def _schedule(settings) -> Schedule:
    return Schedule(settings.epochs, settings.lr, settings.weight_decay, settings.warmup)


def _loaders(cfg: Config, columns, triplets, backbone: Backbone, batch: int):
    cache = resolve(cfg.data.cache) if cfg.data.cache else None
    with main_first(pick_device(cfg.device)):
        read = picture_reader([path for paths in columns.values() for path in paths], backbone.transform, cache)

    def loader(epoch):
        return train_loader(
            columns, triplets, cfg.data.train_captions, read, backbone.tokenize, batch, cfg.seed, epoch,
            cfg.data.workers,
        )  # fmt: skip

    return loader


def sample(triplets: list[Triplet], count: int, seed: int) -> list[Triplet]:
    """Triplets to show, drawn by a fixed rule and not by hand."""
    return random.Random(seed).sample(triplets, min(count, len(triplets)))
