"""The stages of a run. Each reads what the former wrote under the run's folder, and skips what is already there."""

import pandas as pd
import torch

from tmcir_lite.config import AtfSettings, BackboneSettings, Config, RivalSettings, TrainingSettings
from tmcir_lite.data.batches import train_loader
from tmcir_lite.data.picture_cache import picture_reader
from tmcir_lite.evaluation.features import encode_images
from tmcir_lite.io.files import resolve, write_json
from tmcir_lite.io.processes import main_first, main_only, pick_device
from tmcir_lite.method.checkpoint import is_complete, load_weights, read_history
from tmcir_lite.method.encoders import Backbone
from tmcir_lite.method.frozen import Frozen
from tmcir_lite.method.iacma import Iacma
from tmcir_lite.method.model import Composed
from tmcir_lite.method.training import Schedule, decay_groups, fit
from tmcir_lite.pseudo_targets.editors import load_editor
from tmcir_lite.pseudo_targets.generate import generate, jobs_for
from tmcir_lite.rivals.clip4cir import CLIP4CIR_SCALE, Combiner, PooledSum
from tmcir_lite.rivals.pic2word import Pic2Word
from tmcir_lite.run.choices import heldout, heldout_recall, kept_epoch, score_name, scored, start_weight, tune_weight
from tmcir_lite.run.data import iacma_images, prepare_data
from tmcir_lite.run.folder import start_run
from tmcir_lite.run.models import (
    build_fusion,
    combined_backbone,
    fusion_settings,
    load_aligned,
    load_frozen,
    load_start,
)


def make_pseudo_targets(cfg: Config) -> list[dict]:
    """Draws the pseudo-targets of the train triplets; returns the manifest's records."""
    data, device = prepare_data(cfg), pick_device(cfg.device)
    chosen = data.train.triplets[: cfg.editor.limit]
    jobs = jobs_for(chosen, data.train.images, cfg.seed)
    return generate(lambda: load_editor(cfg.editor, device), jobs, cfg.editor, cfg.run_dir / "pseudo_targets", device)


def train_iacma(cfg: Config) -> pd.DataFrame:
    """Stage 1. Leaves the encoders of chosen and last epoch in `iacma/model`, `iacma/model_last`; returns the history.

    An epoch is chosen on held-out train (`training.chosen_epoch`) and may be 0: then none was better than none.
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
        return {**scored(cfg, data, score), "text_weight": weight}

    groups = decay_groups(model, cfg.iacma.weight_decay)
    return _train(cfg, "iacma", "IACMA", cfg.iacma, model, columns, kept, groups, validate, saved=backbone)


def train_atf(cfg: Config) -> pd.DataFrame:
    """Stage 2. Leaves the chosen epoch's model in `atf/model`; returns the history."""
    return _train_fusion(cfg, "atf", "ATF")


def train_control(cfg: Config) -> pd.DataFrame:
    """Stage 2 once more with merging off, in `control/`: what it reaches is not the merging's doing."""
    return _train_fusion(cfg, "control", "control")


def train_sum(cfg: Config) -> pd.DataFrame:
    """Stage 2 once more with a mere sum for the fusion, in `sum/`: what it reaches is the fine-tuning's doing."""
    return _train_fusion(cfg, "sum", "sum")


def _train_fusion(cfg: Config, name: str, title: str) -> pd.DataFrame:
    settings = fusion_settings(cfg, name)
    if _is_done(cfg, name, settings):
        return read_history(cfg.run_dir / name)
    if settings.encoders == "none":
        backbone = load_frozen(cfg, aligned=True)
    else:
        backbone = load_aligned(cfg)
        backbone.limit_training(_unlocked(cfg, settings))
    torch.manual_seed(cfg.seed)
    model = Composed(backbone, build_fusion(backbone, settings, start_weight(cfg)))
    groups = model.groups(settings.weight_decay, settings.lr, settings.fusion_lr)
    return _train_composed(cfg, name, title, settings, model, groups)


def _unlocked(cfg: Config, settings: AtfSettings) -> BackboneSettings:
    """The backbone's settings, with the encoders locked that the fusion is not to train."""
    locked = {"both": (), "image": ("unlocked_text_layers",), "text": ("unlocked_image_groups",), "none": ()}
    return cfg.backbone.model_copy(update=dict.fromkeys(locked[settings.encoders], 0))


def train_clip4cir(cfg: Config) -> pd.DataFrame:
    """The rival CLIP4Cir: its stage 1 in `clip4cir/`, then its Combiner in `combiner/`, whose history is returned."""
    if not _is_done(cfg, "clip4cir", cfg.clip4cir):
        backbone = load_start(cfg)
        model = Composed(backbone, PooledSum(), **_temperature(cfg.clip4cir, backbone))
        groups = decay_groups(model, cfg.clip4cir.weight_decay)
        _train_composed(cfg, "clip4cir", "CLIP4Cir", cfg.clip4cir, model, groups)
    if _is_done(cfg, "combiner", cfg.combiner):
        return read_history(cfg.run_dir / "combiner")
    torch.manual_seed(cfg.seed)
    backbone = combined_backbone(cfg)
    model = Composed(backbone, Combiner(backbone.dim), **_temperature(cfg.combiner, backbone))
    groups = decay_groups(model, cfg.combiner.weight_decay)
    return _train_composed(cfg, "combiner", "Combiner", cfg.combiner, model, groups)


def _temperature(settings: RivalSettings, backbone: Backbone | Frozen) -> dict:
    """CLIP4Cir's 1 / tau: 100 as published, or learned from the backbone's own."""
    learned = settings.temperature == "learned"
    return {"scale": backbone.logit_scale.item() if learned else CLIP4CIR_SCALE, "learned": learned}


def train_pic2word(cfg: Config) -> pd.DataFrame:
    """The rival Pic2Word, on the pictures of the train triplets, in `pic2word/`; returns the history."""
    if _is_done(cfg, "pic2word", cfg.pic2word):
        return read_history(cfg.run_dir / "pic2word")
    data = prepare_data(cfg)
    torch.manual_seed(cfg.seed)
    backbone = load_frozen(cfg)
    model = Pic2Word(backbone, backbone.logit_scale.item() if cfg.pic2word.temperature == "learned" else None)
    shown = {n: triplet for triplet in data.kept for n in (triplet.reference_name, triplet.target_name)}
    columns = {"images": [data.train.images[name] for name in shown]}
    groups = decay_groups(model, cfg.pic2word.weight_decay)
    return _train(cfg, "pic2word", "Pic2Word", cfg.pic2word, model, columns, [*shown.values()], groups,
                  lambda: heldout_recall(cfg, model, data))  # fmt: skip


def _train_composed(
    cfg: Config, name: str, title: str, settings: TrainingSettings, model: Composed, groups
) -> pd.DataFrame:
    """Trains a composed query towards the real targets."""
    data = prepare_data(cfg)
    columns = {
        "references": [data.train.images[triplet.reference_name] for triplet in data.kept],
        "targets": [data.train.images[triplet.target_name] for triplet in data.kept],
    }
    return _train(cfg, name, title, settings, model, columns, data.kept, groups,
                  lambda: heldout_recall(cfg, model, data))  # fmt: skip


def _train(
    cfg: Config,
    name: str,
    title: str,
    settings: TrainingSettings,
    model,
    columns,
    triplets,
    groups,
    validate,
    saved=None,
) -> pd.DataFrame:
    """Trains `model` in the run's folder `name`; leaves the chosen epoch of `saved` (it or a part) and metrics."""
    folder, device = cfg.run_dir / name, pick_device(cfg.device)
    history = fit(
        model, _loaders(cfg, columns, triplets, model.backbone, settings.batch), _schedule(settings), folder,
        device=device, seed=cfg.seed, validate=validate, score=score_name(cfg), title=title, groups=groups,
        chunk=settings.chunk,
    )  # fmt: skip
    with main_only(device) as writes:
        if writes:
            if name == "iacma":  # whose last epoch is measured too
                load_weights(model, folder / "last.safetensors")
                (saved or model).save(folder / "model_last")
            load_weights(model, folder / "chosen.safetensors")
            (saved or model).save(folder / "model")
            epoch = kept_epoch(history)
            trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
            score = float(heldout(history)[history["epoch"] == epoch].item())
            metrics = {"epoch": epoch, score_name(cfg): score, "parameters": trained}
            write_json(folder / "metrics.json", metrics)
    return history


def _is_done(cfg: Config, name: str, settings: TrainingSettings) -> bool:
    with main_first(pick_device(cfg.device)):
        start_run(cfg)  # refuses another configuration, of which nothing is done
    folder = cfg.run_dir / name
    return (folder / "metrics.json").is_file() and is_complete(folder, settings.epochs)


def _schedule(settings: TrainingSettings) -> Schedule:
    decay = settings.decay if isinstance(settings, RivalSettings) else "cosine"
    return Schedule(settings.epochs, settings.lr, settings.weight_decay, settings.warmup, decay)


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
