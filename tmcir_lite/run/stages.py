"""The stages of a run. Each reads what the former wrote under the run's folder, and skips what is already there.

A fusion of your own is trained by `train_fusion`, as ATF, its controls and CLIP4Cir are.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch.utils.data import DataLoader

from tmcir_lite.config import Config, RivalSettings, TrainingSettings
from tmcir_lite.data.batches import Order, edits_together, near_together, train_loader
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.data.picture_cache import picture_reader
from tmcir_lite.evaluation.features import encode_images
from tmcir_lite.io.files import InputError, resolve, write_json
from tmcir_lite.io.processes import main_first, main_only, pick_device
from tmcir_lite.method.cached import CachedEncoder
from tmcir_lite.method.checkpoint import is_complete, load_weights, read_history
from tmcir_lite.method.encoders import Backbone
from tmcir_lite.method.iacma import Iacma
from tmcir_lite.method.losses import Contrastive
from tmcir_lite.method.model import Composed
from tmcir_lite.method.training import Schedule, fit
from tmcir_lite.pseudo_targets.editors import load_editor
from tmcir_lite.pseudo_targets.generate import generate, jobs_for
from tmcir_lite.rivals.clip4cir import CLIP4CIR_SCALE
from tmcir_lite.rivals.pic2word import Pic2Word
from tmcir_lite.run.choices import heldout, heldout_recall, kept_epoch, score_name, scored, tune_weight
from tmcir_lite.run.data import Data, iacma_images, prepare_data
from tmcir_lite.run.folder import start_run
from tmcir_lite.run.models import (
    Fusion,
    combiner,
    load_aligned,
    load_cached,
    load_stage1,
    load_start,
    plain_sum,
    pooled_sum,
    token_fusion,
    without_merging,
)


def make_pseudo_targets(cfg: Config) -> list[dict]:
    """Draws the pseudo-targets of the train triplets; returns the manifest's records."""
    data, device = prepare_data(cfg), pick_device(cfg.device)
    chosen = data.train.triplets[: cfg.editor.limit]
    jobs = jobs_for(chosen, data.train.images, cfg.seed)
    return generate(lambda: load_editor(cfg.editor, device), jobs, cfg.editor, cfg.run_dir / "pseudo_targets", device)


def train_iacma(
    cfg: Config, data: Data | None = None, images: Mapping[str, Path] | None = None,
    model: Callable[..., Contrastive] = Iacma,
) -> pd.DataFrame:  # fmt: skip
    """Stage 1. Leaves the encoders of chosen and last epoch in `iacma/model`, `iacma/model_last`; returns the history.

    An epoch is chosen on held-out train (`checkpoint.chosen_epoch`) and may be 0: then none was better than none.

    Args:
        data: None: as `prepare_data` gives it.
        images: triplet id -> the picture that its text is paired with; None: the run's pseudo-targets.
        model: (encoders, symmetric) -> what is trained.
    """
    if is_done(cfg, "iacma", cfg.iacma):
        return read_history(cfg.run_dir / "iacma")
    data, backbone = data or prepare_data(cfg), load_start(cfg)
    if images is None:  # without an epoch there is nothing to look at
        images = iacma_images(cfg, data) if cfg.iacma.epochs else {}
    kept = [triplet for triplet in data.kept if triplet.id in images]
    columns = {"pseudo_targets": [images[triplet.id] for triplet in kept]}

    def validate() -> dict[str, float]:
        weight, score, _ = tune_weight(cfg, backbone, data)
        return {**scored(cfg, data, score), "text_weight": weight}

    made = model(backbone, cfg.iacma.symmetric)
    return train(cfg, "iacma", cfg.iacma, made, columns, kept, validate, {"model_last": "last", "model": "chosen"})


def train_atf(cfg: Config) -> pd.DataFrame:
    """Stage 2. Leaves the chosen epoch's model in `atf/model`; returns the history."""
    return train_fusion(cfg, "atf", token_fusion(cfg))


def train_control(cfg: Config) -> pd.DataFrame:
    """Stage 2 once more with merging off, in `control/`: what it reaches is not the merging's doing.

    Where the profile's own threshold merges nothing, stage 2 is this control, and is not trained twice.
    """
    if cfg.atf.threshold > 1:
        return train_atf(cfg)
    return train_fusion(cfg, "control", without_merging(cfg))


def train_sum(cfg: Config) -> pd.DataFrame:
    """Stage 2 once more with a mere sum for the fusion, in `sum/`: what it reaches is the fine-tuning's doing."""
    return train_fusion(cfg, "sum", plain_sum(cfg))


def train_clip4cir(cfg: Config, data: Data | None = None) -> pd.DataFrame:
    """The rival CLIP4Cir: its stage 1 in `clip4cir/`, then its Combiner in `combiner/`, whose history is returned."""
    start = partial(_unlocked, cfg, cfg.clip4cir.encoders, aligned=False)
    train_fusion(cfg, "clip4cir", pooled_sum, cfg.clip4cir, start, data)
    return train_fusion(cfg, "combiner", combiner, cfg.combiner, partial(load_stage1, cfg), data)


def train_fusion(
    cfg: Config,
    name: str,
    fusion: Fusion,
    settings: TrainingSettings | None = None,
    encoders: Callable[[], Backbone | CachedEncoder] | None = None,
    data: Data | None = None,
) -> pd.DataFrame:
    """Stage 2 with any fusion: trains encoders and fusion so that a composed query is near its real target.

    Leaves the chosen epoch in `<name>/model`; returns the history. `measure.evaluate` puts it into the result table.

    Args:
        name: the folder in the run.
        fusion: the encoders -> a module that takes their outputs of B images and of B texts (`ImageFeatures`,
            `TextFeatures`) and returns query features, B D. A class whose constructor takes the encoders will do.
        settings: of the training; None: those of `atf`.
        encoders: loads what the fusion stands on; None: the encoders after IACMA, of which `atf.encoders` are trained.
        data: None: as `prepare_data` gives it.
    """
    settings = settings or cfg.atf
    if is_done(cfg, name, settings):
        return read_history(cfg.run_dir / name)
    data = data or prepare_data(cfg)
    backbone = encoders() if encoders else _unlocked(cfg, cfg.atf.encoders, aligned=True)
    torch.manual_seed(cfg.seed)  # now, since to load encoders draws numbers too, and to remember them draws none
    model = Composed(backbone, fusion(backbone), **_temperature(settings, backbone))
    columns = {
        "references": [data.train.images[triplet.reference_name] for triplet in data.kept],
        "targets": [data.train.images[triplet.target_name] for triplet in data.kept],
    }
    order = _order(cfg, data, lambda: encode_images(backbone, columns["targets"]))
    return train(cfg, name, settings, model, columns, data.kept, lambda: heldout_recall(cfg, model, data), order=order)


def _order(cfg: Config, data: Data, targets: Callable[[], torch.Tensor]) -> Order | None:
    """How the triplets of stage 2 come into batches: None is at random. `targets` are their pooled features."""
    if data.neighbours > 1 and cfg.data.edits_together > 1:
        raise InputError(f"data.edits_together: {cfg.data.edits_together}: batches cannot have groups of near targets "
                         "as well (`neighbours` of the study); write 1")  # fmt: skip
    if data.neighbours > 1:
        return partial(near_together, targets(), data.neighbours)
    return partial(edits_together, data.kept, cfg.data.edits_together) if cfg.data.edits_together > 1 else None


def _unlocked(cfg: Config, trained: str, aligned: bool) -> Backbone | CachedEncoder:
    """The encoders after IACMA or those of the start, locked but for those that are trained with a fusion."""
    limits = cfg.backbone
    if trained == "none":
        return load_cached(cfg, aligned)
    if trained == "text":
        return load_cached(cfg, aligned).to_train(limits.unlocked_text_layers, limits.gradient_checkpointing)
    backbone = load_aligned(cfg) if aligned else load_start(cfg)
    if trained == "image":
        backbone.limit(limits.unlocked_image_groups, 0, limits.gradient_checkpointing)
    return backbone


def _temperature(settings: TrainingSettings, backbone: Backbone | CachedEncoder) -> dict:
    """1 / tau: the backbone's own; of CLIP4Cir 100 as published, or learned from the backbone's."""
    if not isinstance(settings, RivalSettings):
        return {}
    learned = settings.temperature == "learned"
    return {"scale": backbone.logit_scale.item() if learned else CLIP4CIR_SCALE, "learned": learned}


def train_pic2word(cfg: Config, data: Data | None = None) -> pd.DataFrame:
    """The rival Pic2Word, on the pictures of the train triplets, in `pic2word/`; returns the history."""
    if is_done(cfg, "pic2word", cfg.pic2word):
        return read_history(cfg.run_dir / "pic2word")
    data = data or prepare_data(cfg)
    backbone = load_cached(cfg)
    torch.manual_seed(cfg.seed)  # as in `train_fusion`
    model = Pic2Word(backbone, backbone.logit_scale.item() if cfg.pic2word.temperature == "learned" else None)
    shown = {n: triplet for triplet in data.kept for n in (triplet.reference_name, triplet.target_name)}
    columns = {"images": [data.train.images[name] for name in shown]}
    return train(cfg, "pic2word", cfg.pic2word, model, columns, [*shown.values()],
                 lambda: heldout_recall(cfg, model, data))  # fmt: skip


def train(
    cfg: Config,
    name: str,
    settings: TrainingSettings,
    model: Contrastive,
    columns: Mapping[str, Sequence[Path]],
    triplets: Sequence[Triplet],
    validate: Callable[[], dict[str, float]],
    saved: Mapping[str, str] | None = None,
    order: Order | None = None,
) -> pd.DataFrame:
    """Trains `model` in the run's folder `name`; leaves its models and `metrics.json`, and returns the history.

    Args:
        columns, triplets, order: see `batches.train_loader`.
        validate: see `training.fit`.
        saved: folder -> which weights, "chosen" or "last", in order; None: the chosen ones in `model`.

    Raises:
        InputError: the batch is to be trained in parts, which a batch norm in the model would tell from the whole.
    """
    if (settings.chunk or settings.batch) < settings.batch and any(map(_is_batch_norm, model.modules())):
        raise InputError(f"{name}: chunk: {settings.chunk} would be another training: this model has a batch norm, "
                         "whose mean is over the whole batch; write chunk: null, or a smaller batch")  # fmt: skip
    folder, device = cfg.run_dir / name, pick_device(cfg.device)
    decay = settings.decay if isinstance(settings, RivalSettings) else "cosine"
    schedule = Schedule(settings.epochs, settings.lr, settings.weight_decay, settings.warmup, decay)
    groups = model.groups(settings.weight_decay, settings.lr, getattr(settings, "fusion_lr", settings.lr))
    history = fit(
        model, loaders(cfg, columns, triplets, model.backbone, settings.batch, order), schedule, folder,
        device=device, seed=cfg.seed, validate=validate, score=score_name(cfg), loss=model.loss, title=name,
        groups=groups, chunk=settings.chunk,
    )  # fmt: skip
    with main_only(device) as writes:
        if writes:
            for place, which in (saved or {"model": "chosen"}).items():
                load_weights(model, folder / f"{which}.safetensors")
                model.save(folder / place)
            epoch = kept_epoch(history)
            trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
            score = float(heldout(history)[history["epoch"] == epoch].item())
            write_json(folder / "metrics.json", {"epoch": epoch, score_name(cfg): score, "parameters": trained})
    return history


def _is_batch_norm(module: torch.nn.Module) -> bool:
    return isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.SyncBatchNorm))


def is_done(cfg: Config, name: str, settings: TrainingSettings) -> bool:
    """Whether the training in the run's folder `name` has run all its epochs and left its model.

    Raises:
        InputError: the run was started with another configuration.
    """
    with main_first(pick_device(cfg.device)):
        start_run(cfg)  # refuses another configuration, of which nothing is done
    folder = cfg.run_dir / name
    return (folder / "metrics.json").is_file() and is_complete(folder, settings.epochs)


def loaders(
    cfg: Config, columns: Mapping[str, Sequence[Path]], triplets: Sequence[Triplet],
    backbone: Backbone | CachedEncoder, batch: int, order: Order | None,
) -> Callable[[int], DataLoader]:  # fmt: skip
    """Epoch (from 1) -> its batches for `fit`; columns, triplets and order as `batches.train_loader` takes them."""
    cache, workers = resolve(cfg.data.cache) if cfg.data.cache else None, cfg.data.workers
    paths = [path for column in columns.values() for path in column]
    if isinstance(backbone, CachedEncoder):
        encode_images(backbone, paths)  # batches of them, rather than one by one when first asked for
        read, workers = lambda path: backbone.load([path])[0], 0
    else:
        with main_first(pick_device(cfg.device)):
            read = picture_reader(paths, backbone.transform, cache)

    def loader(epoch):
        return train_loader(
            columns, triplets, cfg.data.train_captions, read, backbone.tokenize, batch, cfg.seed, epoch, workers, order
        )

    return loader
