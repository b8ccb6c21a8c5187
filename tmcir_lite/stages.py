"""The stages of a run. Each reads what the former wrote under the run's folder, and skips what is already there."""

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from tmcir_lite.atf import NO_MERGING
from tmcir_lite.backbone import Backbone, load_backbone
from tmcir_lite.baselines import choose_weight
from tmcir_lite.batches import train_loader
from tmcir_lite.composed import Composed, build_fusion, load_composed
from tmcir_lite.config import Atf, Config, Training, pick_device
from tmcir_lite.config import Backbone as BackboneSettings
from tmcir_lite.datasets import Split, Triplet, hold_out, load_split, union
from tmcir_lite.editors import load_editor
from tmcir_lite.evaluation import recall, target_ranks
from tmcir_lite.features import encode_captions, encode_images, encode_queries
from tmcir_lite.files import InputError, resolve, write_json
from tmcir_lite.frozen import Frozen
from tmcir_lite.garments import Garment, Picture, World, build_world, read_attributes
from tmcir_lite.iacma import Iacma
from tmcir_lite.losses import Contrastive
from tmcir_lite.pic2word import Pic2Word, load_pic2word
from tmcir_lite.picture_cache import picture_reader
from tmcir_lite.processes import main_first, main_only
from tmcir_lite.pseudo_targets import generate, jobs_for
from tmcir_lite.rivals import Combiner, PooledSum
from tmcir_lite.run_folder import start_run
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
    kept, held = hold_out(train, cfg.data.heldout, cfg.seed)
    return Data(train, val, sample(kept, cfg.data.triplets, cfg.seed) if cfg.data.triplets else kept, held)


def make_pseudo_targets(cfg: Config) -> list[dict]:
    """Draws the pseudo-targets of the train triplets; returns the manifest's records."""
    data, device = prepare_data(cfg), pick_device(cfg.device)
    chosen = data.train.triplets[: cfg.editor.limit]
    jobs = jobs_for(chosen, data.train.images, cfg.seed)
    return generate(lambda: load_editor(cfg.editor, device), jobs, cfg.editor, cfg.run_dir / "pseudo_targets", device)


def train_iacma(cfg: Config) -> pd.DataFrame:
    """Stage 1. Leaves the encoders of best and last epoch in `iacma/model` and `iacma/model_last`; returns the history.

    The best epoch is chosen on held-out train and may be 0: then no epoch was better than the encoders at the start.
    """
    if _is_done(cfg, "iacma", cfg.iacma):
        return read_history(cfg.run_dir / "iacma")
    data, backbone = prepare_data(cfg), load_start(cfg)
    images = iacma_images(cfg, data) if cfg.iacma.epochs else {}  # without an epoch there is nothing to look at
    kept = [triplet for triplet in data.kept if triplet.id in images]
    model = Iacma(backbone, cfg.iacma.symmetric, cfg.iacma.token_weight)
    columns = {"pseudo_targets": [images[triplet.id] for triplet in kept]}

    def validate():
        weight, score, _ = tune_weight(cfg, backbone, data)
        return {_score(cfg): score, "text_weight": weight}

    groups = decay_groups(model, cfg.iacma.weight_decay)
    return _train(cfg, "iacma", "IACMA", cfg.iacma, model, columns, kept, groups, validate, saved=backbone)


def train_atf(cfg: Config) -> pd.DataFrame:
    """Stage 2. Leaves best and last epoch's models in `atf/model` and `atf/model_last`; returns the history."""
    return _train_fusion(cfg, "atf", "ATF")


def train_control(cfg: Config) -> pd.DataFrame:
    """Stage 2 once more with merging off, in `control/`: what it reaches is not the merging's doing."""
    return _train_fusion(cfg, "control", "control")


def train_sum(cfg: Config) -> pd.DataFrame:
    """Stage 2 once more with a mere sum for the fusion, in `sum/`: what it reaches is the fine-tuning's doing."""
    return _train_fusion(cfg, "sum", "sum")


def _fusion_settings(cfg: Config, name: str) -> Atf:
    """Those of stage 2, or of the control in the folder `name`, which differs from it in one thing."""
    changes = {"atf": {}, "control": {"threshold": NO_MERGING}, "sum": {"fusion": "sum"}}
    return cfg.atf.model_copy(update=changes[name])


def _train_fusion(cfg: Config, name: str, title: str) -> pd.DataFrame:
    settings = _fusion_settings(cfg, name)
    if _is_done(cfg, name, settings):
        return read_history(cfg.run_dir / name)
    if settings.encoders == "none":
        backbone = load_frozen(cfg, aligned=True)
    else:
        backbone = load_aligned(cfg)
        backbone.limit_training(_unlocked(cfg, settings))
    torch.manual_seed(cfg.seed)
    model = Composed(backbone, build_fusion(backbone, settings, start_weight(cfg)), settings.logit_scale)
    groups = model.groups(settings.weight_decay, settings.lr, settings.fusion_lr)
    return _train_composed(cfg, name, title, settings, model, groups)


def _unlocked(cfg: Config, settings: Atf) -> BackboneSettings:
    """The backbone's settings, with the encoders locked that the fusion is not to train."""
    locked = {"both": (), "image": ("unlocked_text_layers",), "text": ("unlocked_image_groups",), "none": ()}
    return cfg.backbone.model_copy(update=dict.fromkeys(locked[settings.encoders], 0))


def train_clip4cir(cfg: Config) -> pd.DataFrame:
    """The rival CLIP4Cir: its stage 1 in `clip4cir/`, then its Combiner in `combiner/`, whose history is returned."""
    if not _is_done(cfg, "clip4cir", cfg.clip4cir):
        model = Composed(load_start(cfg), PooledSum())
        groups = decay_groups(model, cfg.clip4cir.weight_decay)
        _train_composed(cfg, "clip4cir", "CLIP4Cir", cfg.clip4cir, model, groups)
    if _is_done(cfg, "combiner", cfg.combiner):
        return read_history(cfg.run_dir / "combiner")
    torch.manual_seed(cfg.seed)
    backbone = _combined_backbone(cfg)
    model = Composed(backbone, Combiner(backbone.dim))
    groups = decay_groups(model, cfg.combiner.weight_decay)
    return _train_composed(cfg, "combiner", "Combiner", cfg.combiner, model, groups)


def _sum(backbone: Backbone) -> PooledSum:
    return PooledSum()


def _combined_backbone(cfg: Config) -> Frozen:
    return _frozen(_local(cfg.run_dir / "clip4cir" / "model"), None, cfg.backbone.target_pad, pick_device(cfg.device))


def train_pic2word(cfg: Config) -> pd.DataFrame:
    """The rival Pic2Word, on the pictures of the train triplets, in `pic2word/`; returns the history."""
    if _is_done(cfg, "pic2word", cfg.pic2word):
        return read_history(cfg.run_dir / "pic2word")
    data = prepare_data(cfg)
    torch.manual_seed(cfg.seed)
    model = Pic2Word(load_frozen(cfg))
    shown = {n: triplet for triplet in data.kept for n in (triplet.reference_name, triplet.target_name)}
    columns = {"images": [data.train.images[name] for name in shown]}
    groups = decay_groups(model, cfg.pic2word.weight_decay)
    return _train(cfg, "pic2word", "Pic2Word", cfg.pic2word, model, columns, [*shown.values()], groups,
                  lambda: {_score(cfg): heldout_recall(cfg, model, data)})  # fmt: skip


def _train_composed(cfg: Config, name: str, title: str, settings: Training, model: Composed, groups) -> pd.DataFrame:
    """Trains a composed query towards the real targets."""
    data = prepare_data(cfg)
    columns = {
        "references": [data.train.images[triplet.reference_name] for triplet in data.kept],
        "targets": [data.train.images[triplet.target_name] for triplet in data.kept],
    }
    return _train(cfg, name, title, settings, model, columns, data.kept, groups,
                  lambda: {_score(cfg): heldout_recall(cfg, model, data)})  # fmt: skip


def _train(
    cfg: Config, name: str, title: str, settings: Training, model, columns, triplets, groups, validate, saved=None
) -> pd.DataFrame:
    """Trains `model` in the run's folder `name`; leaves best and last epoch of `saved` (it, or a part) and metrics."""
    folder, device = cfg.run_dir / name, pick_device(cfg.device)
    history = fit(
        model, _loaders(cfg, columns, triplets, model.backbone, settings.batch), _schedule(settings), folder,
        device=device, seed=cfg.seed, validate=validate, score=_score(cfg), title=title, groups=groups,
        chunk=settings.chunk,
    )  # fmt: skip
    with main_only(device) as writes:
        if writes:
            for weights, kept in (("last", "model_last"), ("best", "model")):
                load_weights(model, folder / f"{weights}.safetensors")
                (saved or model).save(folder / kept)
            best = best_epoch(history)
            trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
            metrics = {"best_epoch": best, _score(cfg): float(heldout(history).max()), "parameters": trained}
            write_json(folder / "metrics.json", metrics)
    return history


def _is_done(cfg: Config, name: str, settings: Training) -> bool:
    folder = cfg.run_dir / name
    return (folder / "metrics.json").is_file() and is_complete(folder, settings.epochs)


def load_start(cfg: Config) -> Backbone:
    """The pretrained backbone that the run starts from, on the run's device."""
    return _ready(cfg, load_backbone(cfg.backbone.name, cfg.backbone.pretrained, cfg.backbone.target_pad))


def load_aligned(cfg: Config, last: bool | None = None) -> Backbone:
    """The backbone after IACMA: of its best epoch on held-out train or its last one; None: as `iacma.keep` says."""
    last = cfg.iacma.keep == "last" if last is None else last
    return _ready(cfg, load_backbone(_aligned(cfg, last), target_pad=cfg.backbone.target_pad))


def load_frozen(cfg: Config, aligned: bool = False) -> Frozen:
    """The backbone that the run starts from, or the one after IACMA that `iacma.keep` says, not to be trained.

    The latest ones are remembered, with the features of all pictures that they have seen.
    """
    name = _aligned(cfg, cfg.iacma.keep == "last") if aligned else cfg.backbone.name
    pretrained = None if aligned else cfg.backbone.pretrained
    return _frozen(name, pretrained, cfg.backbone.target_pad, pick_device(cfg.device))


@functools.lru_cache(maxsize=2)
def _frozen(name: str, pretrained: str | None, target_pad: float, device: torch.device) -> Frozen:
    return Frozen(load_backbone(name, pretrained, target_pad).to(device))


def _aligned(cfg: Config, last: bool) -> str:
    return _local(cfg.run_dir / "iacma" / ("model_last" if last else "model"))


def _local(folder: Path) -> str:
    return f"local-dir:{folder.resolve()}"


def _ready(cfg: Config, backbone: Backbone) -> Backbone:
    backbone.limit_training(cfg.backbone)
    return backbone.to(pick_device(cfg.device)).eval()


def start_weight(cfg: Config) -> float:
    """The text's weight in the sum that stage 2 starts from: the best on held-out train after IACMA."""
    history = read_history(cfg.run_dir / "iacma")
    epoch = best_epoch(history) if cfg.iacma.keep == "best" else history["epoch"].max()
    return float(history.set_index("epoch").loc[epoch, "text_weight"])


def load_trained(cfg: Config, backbone: Frozen | None = None) -> Composed:
    """TMCIR after both stages: the best epoch on held-out train.

    Args:
        backbone: to be taken where the encoders were not trained with the fusion; None: loaded again.
    """
    return _load_fusion(cfg, "atf", backbone)


def load_control(cfg: Config) -> Composed:
    """The control, merging off: its best epoch."""
    return _load_fusion(cfg, "control")


def load_sum(cfg: Config) -> Composed:
    """The control without a fusion: its best epoch."""
    return _load_fusion(cfg, "sum")


def _load_fusion(cfg: Config, name: str, backbone: Frozen | None = None) -> Composed:
    settings = _fusion_settings(cfg, name)
    untrained = settings.encoders == "none"
    backbone = (backbone or load_aligned(cfg)) if untrained else None  # None: the folder has those that were trained
    return _load(cfg, name, lambda encoders: build_fusion(encoders, settings), backbone)


def load_clip4cir(cfg: Config) -> tuple[Composed, Composed]:
    """CLIP4Cir after its stage 1, and with its Combiner: the best epochs. Their encoders are the same."""
    return (
        _load(cfg, "clip4cir", _sum, _combined_backbone(cfg)),
        _load(cfg, "combiner", lambda backbone: Combiner(backbone.dim), _combined_backbone(cfg)),
    )


def _load(cfg: Config, name: str, fusion: Callable[[Backbone], torch.nn.Module], backbone) -> Composed:
    folder = cfg.run_dir / name / "model"
    return load_composed(folder, fusion, cfg.backbone.target_pad, backbone).to(pick_device(cfg.device)).eval()


def load_trained_pic2word(cfg: Config) -> Pic2Word:
    """Pic2Word on the backbone that the run started from: its best epoch."""
    return load_pic2word(cfg.run_dir / "pic2word" / "model", load_frozen(cfg)).to(pick_device(cfg.device)).eval()


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


def known_garments(split: Split) -> dict[str, Garment] | None:
    """The same without the nuisance."""
    attributes = known_attributes(split)
    return attributes and {name: picture.garment for name, picture in attributes.items()}


def tune_weight(cfg: Config, backbone: Backbone, data: Data) -> tuple[float, float, pd.DataFrame]:
    """The weighted sum's text weight on held-out train: (weight, its recall, the sweep of recalls)."""
    gallery, target, reference = _heldout_gallery(data)
    features = encode_images(backbone, [data.train.images[name] for name in gallery])
    texts = encode_captions(backbone, data.held, cfg.data.val_captions)
    k = cfg.evaluation.choose_at
    weight, sweep = choose_weight(features[reference], texts, features, target, reference, k=k)
    return weight, float(sweep[f"R@{k}"].max()), sweep


def heldout_recall(cfg: Config, model: Contrastive, data: Data) -> float:
    """Recall of a model's queries on held-out train: its references and targets the gallery, the reference masked."""
    gallery, target, reference = _heldout_gallery(data)
    features = encode_images(model.backbone, [data.train.images[name] for name in gallery])
    queries = encode_queries(model, data.held, data.train.images, cfg.data.val_captions)
    return recall(target_ranks(queries, features, target, reference), cfg.evaluation.choose_at)


def iacma_images(cfg: Config, data: Data) -> dict[str, Path]:
    """Triplet id -> the picture that IACMA pairs with its text."""
    real = {triplet.id: data.train.images[triplet.target_name] for triplet in data.train.triplets}
    if cfg.iacma.images == "real":
        return real
    folder = cfg.run_dir / "pseudo_targets"
    images = {triplet.id: folder / f"{triplet.id}.png" for triplet in data.train.triplets[: cfg.editor.limit]}
    missing = [path for path in images.values() if not path.is_file()]
    if missing:
        raise InputError(f"{missing[0]}: no such pseudo-target ({len(missing)} missing); run `pseudo-targets` first")
    if cfg.iacma.images == "mixed":
        images |= {name: real[name] for name in images if random.Random(f"{cfg.seed}/{name}").random() < 0.5}
    return images


def _heldout_gallery(data: Data) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    gallery = union(data.held)
    row = {name: index for index, name in enumerate(gallery)}
    target = torch.tensor([row[triplet.target_name] for triplet in data.held])
    reference = torch.tensor([row[triplet.reference_name] for triplet in data.held])
    return gallery, target, reference


def _schedule(settings) -> Schedule:
    return Schedule(settings.epochs, settings.lr, settings.weight_decay, settings.warmup)


def _loaders(cfg: Config, columns, triplets, backbone: Backbone | Frozen, batch: int):
    cache, workers = resolve(cfg.data.cache) if cfg.data.cache else None, cfg.data.workers
    paths = [path for column in columns.values() for path in column]
    if isinstance(backbone, Frozen):
        encode_images(backbone, paths)  # batches of them, rather than one by one when first asked for
        read, workers = lambda path: backbone.load([path])[0], 0
    else:
        with main_first(pick_device(cfg.device)):
            read = picture_reader(paths, backbone.transform, cache)

    near = None
    if cfg.data.neighbours > 1 and "targets" in columns:
        near = encode_images(backbone, columns["targets"]), cfg.data.neighbours

    def loader(epoch):
        return train_loader(
            columns, triplets, cfg.data.train_captions, read, backbone.tokenize, batch, cfg.seed, epoch, workers, near
        )

    return loader


def sample(triplets: list[Triplet], count: int, seed: int) -> list[Triplet]:
    """Triplets to show, drawn by a fixed rule and not by hand."""
    return random.Random(seed).sample(triplets, min(count, len(triplets)))
