"""Training batches of pictures and texts, read from files."""

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from tmcir_lite.config import CaptionJoin
from tmcir_lite.data.captions import join_captions
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.io.files import InputError

Order = Callable[[torch.Generator], Sequence[int]]
"""An epoch's random numbers -> the order in which rows are taken: `near_together`, `edits_together`, all else given."""


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
    order: Order | None = None,
) -> DataLoader:
    """The shuffled batches of one epoch, `{column: (B, 3, H, W), ..., "texts": (B, M) ids}`, without a short last one.

    Order and joining of captions depend on `seed` and `epoch` only, not on the number of reading processes (`workers`).

    Args:
        read: a picture's path to the encoder's pixels, 3 H W (`picture_cache.picture_reader`).
        order: of the triplets, drawn with the epoch's generator; None: at random.

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
        shuffle=order is None,
        sampler=order and order(generator),
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


def edits_together(triplets: Sequence[Triplet], group: int, generator: torch.Generator) -> list[int]:
    """An order of all triplets in which those of one `source` stand side by side, at most `group` of them; else random.

    In a batch of such groups the negatives of a pair are partly what other texts make of the same picture (of CIRR: of
    one much like it), so that only its own text tells its target from theirs.

    Which of a source's triplets come together is drawn anew each epoch. Two with the same target never do, since each
    would be the other's negative; those that find no company stand alone. Where a batch ends it may part a group.

    Args:
        group: 1 is an order at random, though not the one that PyTorch draws.
    """
    groups: list[list[int]] = []
    open_groups: dict[Hashable, list[list[int]]] = defaultdict(list)  # by source: those with room
    for row in torch.randperm(len(triplets), generator=generator).tolist():
        mine, target = open_groups[source(triplets[row])], triplets[row].target_name
        rows = next((rows for rows in mine if all(triplets[other].target_name != target for other in rows)), None)
        if rows is None:
            rows = []
            groups.append(rows)
            mine.append(rows)
        rows.append(row)
        if len(rows) == group:
            mine.remove(rows)
    return [row for index in torch.randperm(len(groups), generator=generator).tolist() for row in groups[index]]


def source(triplet: Triplet) -> Hashable:
    """What a triplet's edit starts from: its reference or, of CIRR, the img_set that it was written about."""
    return frozenset(triplet.group_members) or triplet.reference_name
