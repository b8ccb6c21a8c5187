"""What is compared of the search: ranking a gallery, and how time and memory grow with triplets and galleries."""

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tmcir_lite.data.batches import edits_together, train_loader
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.evaluation import ranking
from tmcir_lite.evaluation.ranking import target_ranks
from tmcir_lite.scale.comparisons import Comparison, Sizes, Taken

_STATUS = Path("/proc/self/status")
_STEPS = (4, 16)


def search_comparisons(sizes: Sizes, folder: Path) -> Iterator[Comparison]:
    """All of them; galleries of a file lie in `folder`."""
    yield from _ranking(sizes.queries, sizes.gallery, sizes.width)
    triplets, gallery = sizes.grown
    yield from _growth("batches of triplets", triplets, _read_triplets)
    yield from _growth("ranking pictures", gallery, partial(_rank, 64, 64))
    if _STATUS.is_file() and hasattr(ctypes.CDLL(None), "malloc_trim"):
        yield _memory(sizes.largest, folder)
    else:
        print("memory of ranking: not measured, this system does not tell it", flush=True)


def _ranking(count: int, size: int, width: int) -> Iterator[Comparison]:
    queries, gallery = _vectors(count, size, width)
    target = torch.arange(count)
    names = np.array([f"B{number:09d}" for number in range(size)])

    def rank() -> Tensor:
        return target_ranks(queries, gallery, target)

    def product() -> None:
        for first in range(0, size, ranking.BLOCK):
            queries @ gallery[first : first + ranking.BLOCK].T

    yield Comparison(f"ranks of {count} queries among {size:,} pictures", "the matrix product", rank, product, 1.2)
    yield Comparison(
        f"ranks of {count} queries among {size:,} pictures", "sorting and comparing names", rank,
        partial(ranks_by_names, queries, gallery, names, names[:count]), 20, quicker=True, same=torch.equal,
        note="both begin with the product: what it takes of the other bounds the ratio",
    )  # fmt: skip


def _vectors(count: int, size: int, width: int) -> tuple[Tensor, Tensor]:
    """Unit queries and gallery; a query's target has its own number, and a cosine of about a quarter with it.

    So it is nearly first, and no other is so near to it that rounding could tell the order.
    """
    generator = torch.Generator().manual_seed(0)
    gallery = F.normalize(torch.randn(size, width, generator=generator), dim=1)
    noise = F.normalize(torch.randn(count, width, generator=generator), dim=1)
    return F.normalize(gallery[:count] + 4.0 * noise, dim=1), gallery


def ranks_by_names(queries: Tensor, gallery: Tensor, names: np.ndarray, targets: np.ndarray, chunk: int = 50) -> Tensor:
    """The ranks as CIR repositories compute them: each query's sorted names, the target's looked for."""
    ranks = []
    for start in range(0, len(queries), chunk):
        order = torch.argsort(1 - queries[start : start + chunk] @ gallery.T, dim=-1)
        found = names[order.numpy()] == targets[start : start + chunk, None]
        ranks.append(1 + torch.from_numpy(found.argmax(axis=1)))
    return torch.cat(ranks)


def _growth(name: str, size: int, prepare: Callable[[int], Callable[[], object]]) -> Iterator[Comparison]:
    """Time for one item where there are more of them, against where there are few."""
    few = prepare(size)
    for times in _STEPS:
        yield Comparison(f"{name}, one of {times * size:,}", f"one of {size:,}", prepare(times * size), few, 1.2,
                         share=times, note="linear if 1")  # fmt: skip


def _read_triplets(count: int) -> Callable[[], object]:
    """An epoch's batches of triplets, four of a reference, in the order of `edits_together`."""
    pixels = torch.zeros(3, 8, 8)
    triplets = [Triplet(f"t{n}", f"r{n // 4}", f"t{n}", ("is red", "is longer"), "dress") for n in range(count)]
    columns = {"references": [Path(triplet.reference_name) for triplet in triplets]}

    def read() -> int:
        loader = train_loader(
            columns, triplets, "random", lambda path: pixels, lambda texts: torch.zeros(len(texts), 8), 50, 0, 1,
            order=partial(edits_together, triplets, 4),
        )  # fmt: skip
        return sum(len(batch["texts"]) for batch in loader)

    return read


def _rank(count: int, width: int, size: int) -> Callable[[], Tensor]:
    queries, gallery = _vectors(count, size, width)
    return partial(target_ranks, queries, gallery, torch.arange(count))


def _memory(largest: int, folder: Path) -> Comparison:
    """The most memory that ranking takes of its own, the gallery being a file."""
    smallest, width = min(10_000, largest // 4), 128
    queries, some = _vectors(256, smallest, width)

    def on_disk(size: int) -> Tensor:
        file = folder / f"{size}.npy"
        array = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(size, width))
        for first in range(0, size, smallest):
            array[first : first + smallest] = some[: size - first]
        array.flush()
        del array
        return torch.from_numpy(np.load(file, mmap_mode="c"))

    def most(gallery: Tensor) -> Taken:
        times = largest // len(gallery)  # as many looks at the memory for few pictures as for many
        return _own_memory(lambda: [target_ranks(queries, gallery, torch.arange(len(queries))) for _ in range(times)])

    few, many = on_disk(smallest), on_disk(largest)
    return Comparison(
        f"memory of ranking {largest:,} pictures of a file", f"of {smallest:,}", lambda: most(many), lambda: most(few),
        1.1, unit="MB", note="constant if 1; without the gallery's own pages",
    )  # fmt: skip


def _own_memory(run: Callable[[], object]) -> Taken:
    """What a call takes at most, in MB, beyond what there was."""
    ctypes.CDLL(None).malloc_trim(0)  # else it is served from what an earlier call has freed, and seems to take nothing
    before, most, over = _anonymous(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.is_set():
            most = max(most, _anonymous())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = run()
    finally:
        over.set()
        watcher.join()
    return Taken(result, max(most - before, 0.1))


def _anonymous() -> float:
    """Memory of this process that is no page of a file, in MB (Linux)."""
    return next(int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith("RssAnon")) / 1e3
