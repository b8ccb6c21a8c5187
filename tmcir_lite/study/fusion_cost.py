"""What merging saves: tokens, time and memory of the fusion by threshold, each as a ratio to merging off.

`python -m tmcir_lite.study.fusion_cost` measures on an idle machine and writes `data/results/fusion_cost.csv`. Tokens
are random and weights untrained: a quantile merges the same share of any tokens, and cost does not depend on their
values.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from tmcir_lite.io.files import ROOT, atomic
from tmcir_lite.io.tables import read_table
from tmcir_lite.method.atf import ATF, NO_MERGING
from tmcir_lite.method.encoders import ImageFeatures, TextFeatures
from tmcir_lite.run.folder import git_state

COSTS = ROOT / "data" / "results" / "fusion_cost.csv"
SIZES = {"lite CLIP, 64 patches": (128, 64), "ViT-B/16, 196 patches": (512, 196)}
"""Name -> width of a token, number of visual tokens."""
WORDS = (8, 20)
"""Text tokens of a query, drawn evenly: two joined captions of Fashion-IQ have about as many."""
BATCH, ROUNDS = 32, 15
Query = tuple[ImageFeatures, TextFeatures]


def fusion_cost(dim: int, visual: int, thresholds: Sequence[float]) -> pd.DataFrame:
    """A row a threshold, each a ratio to merging off.

    Returns:
        Columns `threshold` (quantile), `tokens` left, `time` of inference, `training time` (forward and backward), and
        `memory`: bytes that training keeps for the backward pass. A time is the median of its ratios in some rounds,
        in each of which all thresholds take their turn: so what slows the machine down slows all of them.
    """
    inputs = _queries(dim, visual)
    modules = {threshold: _fusion(dim, visual, threshold) for threshold in (*thresholds, NO_MERGING)}
    costs = {"tokens": _tokens, "memory": _kept}
    table = pd.DataFrame({name: {threshold: cost(module, inputs) for threshold, module in modules.items()}
                          for name, cost in costs.items()})  # fmt: skip
    runs = {"time": _infer, "training time": _train}
    rounds = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            spent = {threshold: seconds(partial(run, module, inputs)) for threshold, module in modules.items()}
            rounds[name].append(pd.Series(spent) / spent[NO_MERGING])
    medians = {name: pd.DataFrame(ratios).median() for name, ratios in rounds.items()}
    return (table / table.loc[NO_MERGING]).assign(**medians).rename_axis("threshold").reset_index()


def load_cost(path: Path = COSTS) -> pd.DataFrame:
    """Reads the table that `python -m tmcir_lite.study.fusion_cost` left.

    Raises:
        InputError: it is not there, or is no table of it.
    """
    return read_table(path, ["threshold"], made_by="python -m tmcir_lite.study.fusion_cost")


def _queries(dim: int, visual: int) -> Query:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(WORDS[0], WORDS[1] + 1, (BATCH, 1), generator=generator)
    shapes = (BATCH, dim), (BATCH, visual, dim), (BATCH, dim), (BATCH, WORDS[1], dim)
    tokens = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    return ImageFeatures(*tokens[:2]), TextFeatures(*tokens[2:], torch.arange(WORDS[1]) < lengths)


def _fusion(dim: int, visual: int, threshold: float) -> ATF:
    torch.manual_seed(0)
    return ATF(dim, visual, WORDS[1], threshold=threshold)


@torch.no_grad()
def _tokens(module: ATF, inputs: Query) -> float:
    image, text = inputs
    return module.fuse(image.tokens, text.tokens, text.mask).mask.sum().item()


def _kept(module: nn.Module, inputs: Query) -> float:
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module.train()(*inputs)
    given = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *inputs[0], *inputs[1])}
    return sum(size for place, size in kept.items() if place not in given)


def _infer(module: nn.Module, inputs: Query) -> None:
    with torch.no_grad():
        module.eval()(*inputs)


def _train(module: nn.Module, inputs: Query) -> None:
    module.train()(*inputs).sum().backward()


def seconds(run: Callable[[], object]) -> float:
    """How long a call takes; a GPU, which works on behind it, is waited for."""
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    """Measures all sizes, prints and writes them."""
    thresholds = (0.0, 0.25, 0.5, 0.75, 0.9)
    tables = [fusion_cost(*size, thresholds).assign(size=name) for name, size in SIZES.items()]
    commit, dirty = git_state()
    table = pd.concat(tables, ignore_index=True).assign(device="cpu", commit=commit, dirty=dirty)
    with atomic(COSTS) as path:
        table.to_csv(path, index=False, float_format="%.3f")
    print(table.round(2).to_string())


if __name__ == "__main__":
    main()
