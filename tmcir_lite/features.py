"""Features of many pictures and texts, encoded in batches without gradients."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from tmcir_lite.backbone import Backbone
from tmcir_lite.config import CaptionJoin, QueryCaptions
from tmcir_lite.datasets import Triplet, join_captions
from tmcir_lite.losses import Contrastive
from tmcir_lite.transforms import Reader, load_image

BATCH = 128


@torch.no_grad()
def encode_images(backbone: Backbone, paths: Sequence[Path], read: Reader = load_image) -> Tensor:
    """Pooled features of picture files, G D, on the CPU."""
    device = _device(backbone)
    chunks = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    return torch.cat([backbone.image(backbone.load(chunk, read).to(device)).pooled.float().cpu() for chunk in chunks])


@torch.no_grad()
def encode_texts(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    """Pooled features of texts, Q D, on the CPU."""
    device = _device(backbone)
    chunks = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    return torch.cat([backbone.text(backbone.tokenize(chunk).to(device)).pooled.float().cpu() for chunk in chunks])


@torch.no_grad()
def encode_queries(
    model: Contrastive, triplets: Sequence[Triplet], images: dict[str, Path], captions: QueryCaptions
) -> Tensor:
    """Query features of triplets, Q D, on the CPU.

    Args:
        model: has `query(what its backbone loads for the references, text ids B M) -> B D` and a `template`.
        captions: see `encode_captions`.
    """
    return _mean([_encode_queries(model, triplets, images, order) for order in _orders(captions)])


def encode_captions(backbone: Backbone, triplets: Sequence[Triplet], captions: QueryCaptions) -> Tensor:
    """Pooled features of triplets' captions, Q D, on the CPU.

    Args:
        captions: how they are joined, see `datasets.join_captions`; "both" is the mean of the features of "and" and
            "reversed", each of length 1 (SEARLE).
    """
    return _mean([encode_texts(backbone, joined(triplets, order)) for order in _orders(captions)])


def joined(triplets: Sequence[Triplet], captions: QueryCaptions) -> list[str]:
    """The text of each query; of "both" the first."""
    return [join_captions(triplet.captions, _orders(captions)[0]) for triplet in triplets]


def _orders(captions: QueryCaptions) -> tuple[CaptionJoin, ...]:
    return ("and", "reversed") if captions == "both" else (captions,)


def _mean(features: list[Tensor]) -> Tensor:
    return features[0] if len(features) == 1 else sum(F.normalize(part, dim=1) for part in features) / len(features)


def _encode_queries(model: Contrastive, triplets, images, captions: CaptionJoin) -> Tensor:
    device = _device(model.backbone)
    rows = []
    for start in range(0, len(triplets), BATCH):
        chunk = triplets[start : start + BATCH]
        references = model.backbone.load([images[t.reference_name] for t in chunk]).to(device)
        texts = [model.template.format(text) for text in joined(chunk, captions)]
        rows.append(model.query(references, model.backbone.tokenize(texts).to(device)).float().cpu())
    return torch.cat(rows)


def _device(backbone: Backbone) -> torch.device:
    return backbone.logit_scale.device
