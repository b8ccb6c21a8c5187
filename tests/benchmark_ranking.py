"""Ranking against the bare matrix product, and its memory as the gallery grows: `python tests/benchmark_ranking.py`.

Prints ratios from one run; the gallery lies on disk, memory-mapped.
"""

import resource
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from tmcir_lite.evaluation import ranking
from tmcir_lite.evaluation.ranking import target_ranks

QUERIES, DIM, REPEATS = 1024, 512, 3


def gallery(folder: Path, count: int) -> torch.Tensor:
    """Random unit vectors in a file."""
    path = folder / f"{count}.npy"
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, DIM))
    numbers = np.random.default_rng(0)
    for start in range(0, count, 10_000):
        block = numbers.standard_normal((min(10_000, count - start), DIM), dtype=np.float32)
        file[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    file.flush()
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def product(queries: torch.Tensor, images: torch.Tensor) -> None:
    """The bare product, in blocks of the same size, its result thrown away."""
    for start in range(0, len(images), ranking.BLOCK):
        queries @ images[start : start + ranking.BLOCK].T


def seconds(run) -> float:
    """The fastest of some runs."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Prints a line for each size of the gallery."""
    queries = torch.nn.functional.normalize(torch.randn(QUERIES, DIM), dim=1)
    with tempfile.TemporaryDirectory() as folder:
        for count in (10_000, 100_000, 1_000_000):
            images, target = gallery(Path(folder), count), torch.arange(QUERIES)
            bare = seconds(partial(product, queries, images))
            ranked = seconds(partial(target_ranks, queries, images, target))
            own = rss_anonymous()
            print(f"gallery {count:>9,}: product {bare:6.2f} s, ranking {ranked:6.2f} s, ratio {ranked / bare:.2f}; "
                  f"memory of our own {own:.2f} GB", flush=True)  # fmt: skip
    print(f"peak with the pages of the file: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def rss_anonymous() -> float:
    """Memory in GB that is not a page of a file (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e6


if __name__ == "__main__":
    main()
