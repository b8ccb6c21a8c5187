"""Features of many pictures and texts, encoded in batches without gradients."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tmcir_lite.backbone import Backbone
from tmcir_lite.config import CaptionJoin
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
    captions: CaptionJoin,
) -> Tensor:
    """Query features of triplets, Q D, on the CPU.

    Args:
        query: (reference pixels B 3 H W, text ids B M) -> B D, such as `Tmcir.query`.
    """
    device, transform = _device(backbone), backbone.transform
    rows = []
    for start in range(0, len(triplets), BATCH):
        chunk = triplets[start : start + BATCH]
        references = pixels([images[t.reference_name] for t in chunk], transform).to(device)
        ids = backbone.tokenize(joined(chunk, captions)).to(device)
        rows.append(query(references, ids).float().cpu())
    return torch.cat(rows)


def joined(triplets: Sequence[Triplet], captions: CaptionJoin) -> list[str]:
    """The text of each query."""
    return [join_captions(triplet.captions, captions) for triplet in triplets]


def _device(backbone: Backbone) -> torch.device:
    return next(backbone.parameters()).device
