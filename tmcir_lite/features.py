"""Features of many pictures and texts, encoded in batches without gradients."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from tmcir_lite.backbone import Backbone
from tmcir_lite.config import CaptionJoin, QueryCaptions
from tmcir_lite.datasets import Triplet, join_captions
from tmcir_lite.transforms import pixels

BATCH = 128


@torch.no_grad()
def encode_images(backbone: Backbone, paths: Sequence[Path]) -> Tensor:
    """Pooled features of picture files, G D, on the CPU."""
    device, transform = _device(backbone), backbone.transform
    chunks = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    return torch.cat([backbone.image(pixels(chunk, transform).to(device)).pooled.float().cpu() for chunk in chunks])


@torch.no_grad()
def encode_texts(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    """Pooled features of texts, Q D, on the CPU."""
    device = _device(backbone)
    chunks = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    return torch.cat([backbone.text(backbone.tokenize(chunk).to(device)).pooled.float().cpu() for chunk in chunks])


@torch.no_grad()
def encode_queries(
    backbone: Backbone,
    query: Callable[[Tensor, Tensor], Tensor],
    triplets: Sequence[Triplet],
    images: dict[str, Path],
    captions: QueryCaptions,
) -> Tensor:
    """Query features of triplets, Q D, on the CPU.

    Args:
        query: (reference pixels B 3 H W, text ids B M) -> B D, such as `Tmcir.query`.
        captions: see `encode_captions`.
    """
    return _mean([_encode_queries(backbone, query, triplets, images, order) for order in _orders(captions)])


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


def _encode_queries(backbone, query, triplets, images, captions: CaptionJoin) -> Tensor:
    device, transform = _device(backbone), backbone.transform
    rows = []
    for start in range(0, len(triplets), BATCH):
        chunk = triplets[start : start + BATCH]
        references = pixels([images[t.reference_name] for t in chunk], transform).to(device)
        ids = backbone.tokenize(joined(chunk, captions)).to(device)
        rows.append(query(references, ids).float().cpu())
    return torch.cat(rows)


def _device(backbone: Backbone) -> torch.device:
    return next(backbone.parameters()).device
