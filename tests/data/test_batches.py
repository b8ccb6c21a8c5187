"""Orders of an epoch: every row once, near targets or edits of one source together, or at random as ever."""

from collections import Counter
from functools import partial
from itertools import groupby

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tmcir_lite.data.batches import edits_together, near_together, source, train_loader
from tmcir_lite.data.layouts import Triplet


def order_of(features, group, seed=0):
    return near_together(features, group, torch.Generator().manual_seed(seed))


@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 5))
def test_every_row_comes_once(rows, group, seed):
    features = torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows))
    assert sorted(order_of(features, group, seed)) == list(range(rows))


def test_near_rows_by_hand():
    """Rows 0, 2, 4 point one way, 1, 3, 5 the other, whatever their lengths."""
    features = torch.tensor([[1.0, 0.1], [-1, 0.1], [5, 0.2], [-7, 0.0], [2, 0.3], [-1, 0.3]])
    for seed in range(5):
        order = order_of(features, 3, seed)
        assert {row % 2 for row in order[:3]} == {order[0] % 2}
        assert {row % 2 for row in order[3:]} == {order[3] % 2}


def triplet(n, reference=None, target=None, members=()):
    return Triplet(str(n), reference or f"r{n}", target or f"t{n}", ("is red",), "dress", tuple(members))


def batches(order, rows=12, batch=6, epoch=1, seed=0, kinds=None):
    """The epoch's batches as lists of what stands at a target's place: its row, or its kind."""
    columns = {"targets": [str(kind) for kind in (kinds or range(rows))]}

    def read(path):
        return torch.full((3, 1, 1), float(path))

    def tokenize(texts):
        return torch.zeros(len(texts))

    triplets = [triplet(n) for n in range(rows)]
    loader = train_loader(columns, triplets, "and", read, tokenize, batch, seed, epoch, order=order)
    return [batch["targets"][:, 0, 0, 0].int().tolist() for batch in loader]


def test_a_batch_is_made_of_groups():
    kinds = [n % 4 for n in range(12)]
    features = torch.nn.functional.one_hot(torch.tensor(kinds)).float()
    for batch in batches(partial(near_together, features, 3), kinds=kinds):
        assert len(set(batch[:3])) == len(set(batch[3:])) == 1


def test_without_an_order_it_is_the_epochs_own_shuffle():
    """PyTorch's, from a generator that hangs on seed and epoch alone: runs made so far can be repeated."""
    for seed, epoch in [(0, 1), (0, 2), (3, 1)]:
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        plain = DataLoader(range(12), batch_size=5, shuffle=True, drop_last=True, generator=generator)
        assert batches(None, batch=5, epoch=epoch, seed=seed) == [batch.tolist() for batch in plain]


def test_an_order_is_drawn_anew_each_epoch_and_the_same_for_a_seed():
    order = partial(edits_together, [triplet(n, reference=f"r{n % 4}") for n in range(12)], 3)
    first, again, second, other = (
        batches(order, epoch=epoch, seed=seed) for epoch, seed in ((1, 0), (1, 0), (2, 0), (1, 1))
    )
    assert first == again
    assert first != second
    assert first != batches(order, seed=1)


def edits(triplets, group, seed=0):
    return edits_together(triplets, group, torch.Generator().manual_seed(seed))


some_triplets = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=40).map(
    lambda pairs: [triplet(n, f"r{reference}", f"t{target}") for n, (reference, target) in enumerate(pairs)]
)


@given(some_triplets, st.integers(1, 7), st.integers(0, 5))
def test_every_edit_comes_once(triplets, group, seed):
    assert sorted(edits(triplets, group, seed)) == list(range(len(triplets)))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(0, 5))
def test_edits_of_a_source_stand_in_groups(sources, times, group, seed):
    """Where every source has whole groups of edits, the order is made of those alone."""
    triplets = [triplet(n, reference=f"r{n % sources}") for n in range(sources * times * group)]
    order = edits(triplets, group, seed)
    for start in range(0, len(order), group):
        assert len({triplets[row].reference_name for row in order[start : start + group]}) == 1


def test_what_does_not_fill_a_group_stands_together_too():
    """Source 0 has five edits, source 1 two, and the others one: groups of 3, 2, 2 and 1s, in any order."""
    triplets = [triplet(n, reference=f"r{0 if n < 5 else 1 if n < 7 else n}") for n in range(30)]
    first = set()
    for seed in range(20):
        references = [triplets[row].reference_name for row in edits(triplets, 3, seed)]
        runs = Counter((name, len(list(run))) for name, run in groupby(references) if name in ("r0", "r1"))
        assert runs in (Counter({("r0", 3): 1, ("r0", 2): 1, ("r1", 2): 1}), Counter({("r0", 5): 1, ("r1", 2): 1}))
        first.add(references[0])
    assert len(first) > 5  # a large source comes neither first nor last


def test_two_edits_with_one_target_by_hand():
    """Of a source with edits to a, a and b, each group of two has a b or stands alone: never a beside a in a group."""
    triplets = [triplet(0, "r", "a"), triplet(1, "r", "a"), triplet(2, "r", "b"), *(triplet(n) for n in range(3, 40))]
    apart = 0
    for seed in range(20):
        order = edits(triplets, 2, seed)
        at = {row: place for place, row in enumerate(order)}
        assert min(abs(at[2] - at[0]), abs(at[2] - at[1])) == 1
        apart += abs(at[0] - at[1]) > 1
    assert apart > 15  # they may still meet by chance


def test_of_cirr_the_source_is_the_img_set():
    one, other = "abcdef", "ghijkl"
    triplets = [triplet(0, "a", "b", one), triplet(1, "c", "d", one[::-1]), triplet(2, "g", "h", other)]
    assert source(triplets[0]) == source(triplets[1]) != source(triplets[2])
    assert source(triplet(0, "a")) == source(triplet(1, "a")) != source(triplet(2, "b"))
    for seed in range(5):
        assert abs(edits(triplets, 2, seed).index(0) - edits(triplets, 2, seed).index(1)) == 1
