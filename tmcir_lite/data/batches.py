"""Training batches of pictures and texts, read from files."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from tmcir_lite.config import CaptionJoin
from tmcir_lite.data.captions import join_captions
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.io.files import InputError


class Examples(Dataset):
    """Item i: one picture from each column, (3, H, W), and a text's ids, (M,)."""

    def __init__(self, columns: Mapping[str, Sequence[Path]], texts: Tensor, read: Callable[[Path], Tensor]):
        self._columns, self._texts, self._read = columns, texts, read

    def __len__(self):
        return len(self._texts)

    def __getitem__(self, index):
        pictures = {name: self._read(paths[index]) for name, paths in self._columns.items()}
        return {**pictures, "texts": self._texts[index]}


def train_loader(
    columns: Mapping[str, Sequence[Path]],
    triplets: Sequence[Triplet],
    captions: CaptionJoin,
    read: Callable[[Path], Tensor],
    tokenize: Callable[[list[str]], Tensor],
    batch: int,
    seed: int,
    epoch: int,
    workers: int = 0,
    near: tuple[Tensor, int] | None = None,
) -> DataLoader:
    """The shuffled batches of one epoch, `{column: (B, 3, H, W), ..., "texts": (B, M) ids}`, without a short last one.

    Order and joining of captions depend on `seed` and `epoch` only, not on the number of reading processes (`workers`).

    Args:
        read: a picture's path to the encoder's pixels, 3 H W (`picture_cache.picture_reader`).
        near: for batches with hard negatives, a feature of each triplet, T D, and the size of the groups of near ones
            that a batch is made of (see `near_together`); None: at random.

    Raises:
        InputError: fewer triplets than one batch.
    """
    if len(triplets) < batch:
        raise InputError(f"batch: {batch} is more than the {len(triplets)} triplets to train on; choose a smaller one")
    texts = [join_captions(t.captions, captions, random.Random(f"{seed}/{epoch}/{t.id}")) for t in triplets]
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    return DataLoader(  # whose dataset goes to the reading processes whole, so that it had better not hold the model
        Examples(columns, tokenize(texts), read),
        batch_size=batch,
        shuffle=near is None,
        sampler=near and near_together(*near, generator),
        drop_last=True,
        generator=generator,
        num_workers=workers,
    )


def near_together(features: Tensor, group: int, generator: torch.Generator) -> list[int]:
    """An order of all rows: one drawn at random, the `group` - 1 nearest to it of those not taken yet, and so on.

    In a batch of such groups the negatives of a pair are partly hard ones.

    Args:
        features: T D.
    """
    features = F.normalize(features, dim=1)
    free = torch.ones(len(features), dtype=torch.bool)
    order = []
    for row in torch.randperm(len(features), generator=generator).tolist():
        if free[row]:
            free[row] = False
            cosines = (features @ features[row]).masked_fill(~free, -torch.inf)
            others = cosines.topk(min(group - 1, int(free.sum()))).indices
            free[others] = False
            order += [row, *others.tolist()]
    return order
