"""What is compared of the models: encoding, training, fusing, editing."""

import contextlib
import io
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor

from tmcir_lite.config import Config
from tmcir_lite.data.captions import join_captions
from tmcir_lite.data.pictures import load_image
from tmcir_lite.evaluation.features import BATCH, encode_images
from tmcir_lite.io.processes import pick_device
from tmcir_lite.method.atf import ATF, TEMPERATURE, Match, match, merge, similarity
from tmcir_lite.method.cached import CachedEncoder
from tmcir_lite.method.encoders import Backbone, ImageFeatures, TextFeatures
from tmcir_lite.method.model import Composed
from tmcir_lite.method.training import Schedule, fit
from tmcir_lite.pseudo_targets.editors import edit, load_editor
from tmcir_lite.pseudo_targets.generate import jobs_for
from tmcir_lite.run import stages
from tmcir_lite.run.data import Data, prepare_data
from tmcir_lite.run.models import load_start
from tmcir_lite.scale.comparisons import Comparison, Sizes, Taken


def model_comparisons(cfg: Config, sizes: Sizes) -> Iterator[Comparison]:
    """All of them, on the profile's own models but for the one architecture that `sizes` names."""
    data = prepare_data(cfg)
    yield from _encoding(load_start(cfg), [*data.train.images.values()][: sizes.pictures])
    yield _epoch(cfg, data, sizes.steps)
    paths = [data.train.images[triplet.reference_name] for triplet in data.kept]
    texts = [join_captions(triplet.captions, "and") for triplet in data.kept]
    backbone = load_start(cfg)
    yield from _fusing(backbone, "lite CLIP", paths[: cfg.atf.batch], texts)
    backbone = _random(sizes.architecture, cfg)
    yield from _fusing(backbone, sizes.architecture, paths[: sizes.pairs], texts, goal=0.05)
    del backbone
    yield _editing(cfg, data, sizes.edits)
    yield _merging(sizes)


def _encoding(backbone: Backbone, paths: list[Path]) -> Iterator[Comparison]:
    pixels = backbone.load(paths).to(backbone.logit_scale.device)
    parts = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]

    @torch.no_grad()
    def tower() -> Tensor:
        return torch.cat([backbone.clip.encode_image(part).cpu() for part in pixels.split(BATCH)])

    note = "decoding and tower share the cores: the less of them, the nearer to the sum of both"
    yield Comparison("encoding picture files", "the visual tower on tensors", lambda: encode_images(backbone, paths),
                     tower, 1.1, same=_close, note=note)  # fmt: skip
    yield Comparison("decoding them alone", "the visual tower on tensors",
                     lambda: [backbone.load(part) for part in parts], tower)  # fmt: skip


def _epoch(cfg: Config, data: Data, steps: int) -> Comparison:
    """The loop with its loader against its steps alone; time of a whole epoch, without what is held out."""
    settings, encoder = cfg.atf, CachedEncoder(load_start(cfg)).to_train(None)
    model = Composed(encoder, _fusion(encoder, cfg.atf.threshold))
    triplets = data.kept[: steps * settings.batch]
    columns = {
        "references": [data.train.images[triplet.reference_name] for triplet in triplets],
        "targets": [data.train.images[triplet.target_name] for triplet in triplets],
    }
    loader = stages.loaders(cfg, columns, triplets, encoder, settings.batch, None)
    model.to(pick_device(cfg.device))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    schedule = Schedule(1, settings.lr, settings.weight_decay, warmup=0.0, decay="none")
    held = [{name: value.to(pick_device(cfg.device)) for name, value in batch.items()} for batch in loader(1)]

    def fresh() -> list[dict]:
        model.load_state_dict(start)
        return model.groups(settings.weight_decay, settings.lr, settings.fusion_lr)

    def whole() -> Taken:
        groups, marks, folder = fresh(), [], Path(tempfile.mkdtemp(dir=cfg.run_dir))

        def mark(epoch: int | None = None):
            marks.append(time.perf_counter())
            return loader(epoch) if epoch else {"score": 0.0}

        with contextlib.redirect_stdout(io.StringIO()):
            fit(model, mark, schedule, folder, device=pick_device(cfg.device), seed=0, validate=mark, score="score",
                loss=model.loss, groups=groups)  # fmt: skip
        shutil.rmtree(folder)
        _, began, ended = marks  # validated, the epoch's loader asked for, validated
        return Taken(_weights(model), ended - began)

    def bare() -> Taken:
        optimizer = torch.optim.AdamW(fresh(), lr=settings.lr)
        model.train()
        began = time.perf_counter()
        for batch in held:
            model.loss(*model(**batch)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            model.after_step()
            optimizer.zero_grad()
        return Taken(_weights(model), time.perf_counter() - began)

    return Comparison(
        f"an epoch of stage 2, {len(held)} steps", "its steps on tensors in memory", whole, bare, 1.05, same=_close,
        note="beside the steps: texts are joined and tokenised anew, features gathered into batches",
    )  # fmt: skip


def _weights(model: torch.nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten().float().cpu() for value in model.parameters() if value.requires_grad])


def _fusion(backbone: Backbone | CachedEncoder, threshold: float) -> ATF:
    torch.manual_seed(0)
    return ATF(backbone.dim, math.prod(backbone.grid), backbone.context, threshold=threshold)


def _random(architecture: str, cfg: Config) -> Backbone:
    torch.manual_seed(0)
    logging.disable(logging.WARNING)  # open_clip warns that weights are random
    clip, tokenizer = open_clip.create_model(architecture), open_clip.get_tokenizer(architecture)
    logging.disable(logging.NOTSET)
    return Backbone(clip, tokenizer, {}, cfg.backbone.target_pad).to(pick_device(cfg.device))


def _fusing(
    backbone: Backbone, name: str, paths: list[Path], texts: list[str], goal: float | None = None
) -> Iterator[Comparison]:
    """ATF's forward and backward pass, the gradient of the trained encoders' outputs too, against the encoders' own."""
    device = backbone.logit_scale.device
    pixels, ids = backbone.load(paths).to(device), backbone.tokenize(texts[: len(paths)]).to(device)
    fusion = _fusion(backbone, 0.5).to(device)
    with torch.no_grad():
        image, text = backbone.image(pixels), backbone.text(ids)
    words = TextFeatures(_leaf(text.pooled), _leaf(text.tokens), text.mask)
    trained = ImageFeatures(*map(_leaf, image))

    def fuse(image: ImageFeatures) -> None:
        fusion(image, words).sum().backward()

    def encode_text() -> None:
        out = backbone.text(ids)
        (out.pooled.sum() + out.tokens.sum()).backward()

    def encode_both() -> None:
        references = backbone.image(pixels)
        (references.pooled.sum() + references.tokens.sum() + backbone.image(pixels).pooled.sum()).backward()
        encode_text()

    note = "references and targets are encoded"
    yield Comparison(
        f"ATF, {name}, forward and backward", "both encoders'", partial(fuse, trained), encode_both, goal, note=note
    )
    note = "the fusion takes the patches beside the words"
    yield Comparison(
        f"ATF, {name}, forward and backward", "the text encoder's alone", partial(fuse, image), encode_text, note=note
    )


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.clone().requires_grad_()


def _editing(cfg: Config, data: Data, count: int) -> Comparison:
    """`edit` against its own calls of UNet and autoencoder, recorded and made again."""
    pipeline = load_editor(cfg.editor, pick_device(cfg.device))
    jobs = jobs_for(data.kept[:count], data.train.images, cfg.seed)
    images = [load_image(job.reference) for job in jobs]
    calls: list[tuple[Callable, tuple, dict]] = []

    def draw() -> list[Image.Image]:
        return edit(pipeline, images, [job.prompt for job in jobs], [job.seed for job in jobs], cfg.editor)

    watched = [(pipeline.unet, "forward"), (pipeline.vae, "encode"), (pipeline.vae, "decode")]
    bare = [getattr(*place) for place in watched]
    for (module, name), call in zip(watched, bare, strict=True):
        setattr(module, name, _recorded(call, calls))
    draw()
    for (module, name), call in zip(watched, bare, strict=True):
        setattr(module, name, call)

    @torch.no_grad()
    def again() -> Tensor:
        return [call(*arguments, **named) for call, arguments, named in calls][-1][0]

    def same(pictures: list[Image.Image], decoded: Tensor) -> bool:
        drawn = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
        return torch.allclose(drawn, (decoded.float().cpu() / 2 + 0.5).clamp(0, 1), atol=1 / 255)

    return Comparison(
        f"editing {count} pictures", "its UNet and autoencoder alone", draw, again, 1.1, same=same,
        note="beside them: the texts are encoded, and pictures turned into tensors and back",
    )  # fmt: skip


def _recorded(call: Callable, calls: list[tuple[Callable, tuple, dict]]) -> Callable:
    def recorded(*arguments, **named):
        calls.append((call, arguments, named))
        return call(*arguments, **named)

    return recorded


def _merging(sizes: Sizes) -> Comparison:
    B, N, M, D = sizes.merged
    generator = torch.Generator().manual_seed(0)
    V, T = torch.randn(B, N, D, generator=generator), torch.randn(B, M, D, generator=generator)
    matched = match(similarity(V, T), torch.ones(B, M, dtype=torch.bool), 0.5, "quantile")
    return Comparison(
        f"merging, {B} x ({N} + {M}) tokens", "a loop over tokens", lambda: merge(V, T, matched).tokens,
        lambda: merge_by_loops(V, T, matched), 100, quicker=True, same=_close,
    )  # fmt: skip


def merge_by_loops(V: Tensor, T: Tensor, matched: Match) -> Tensor:
    """`atf.merge` token by token; B (N+M) D."""
    rows = []
    for b in range(len(V)):
        row = []
        for i in range(V.shape[1]):
            total = math.exp(1 / TEMPERATURE)
            token = total * V[b, i]
            for j in range(T.shape[1]):
                if matched.merged[b, j] and matched.index[b, j] == i:
                    weight = math.exp(matched.score[b, j] / TEMPERATURE)
                    total, token = total + weight, token + weight * T[b, j]
            row.append(token / total)
        rows.append(torch.stack([*row, *T[b]]))
    return torch.stack(rows)


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5)
