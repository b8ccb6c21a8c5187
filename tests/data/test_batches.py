"""Batches with hard negatives: every row once an epoch, near ones together."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tmcir_lite.data.batches import near_together, train_loader
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


def test_a_batch_is_made_of_groups():
    kinds = torch.arange(12) % 4
    features = torch.nn.functional.one_hot(kinds).float()
    triplets = [Triplet(str(n), f"r{n}", f"t{n}", ("is red",), "dress") for n in range(12)]
    columns = {"targets": [str(kind) for kind in kinds.tolist()]}

    def read(path):
        return torch.full((3, 1, 1), float(path))

    def tokenize(texts):
        return torch.zeros(len(texts))

    loader = train_loader(columns, triplets, "and", read, tokenize, 6, seed=0, epoch=1, near=(features, 3))
    for batch in loader:
        first, second = batch["targets"][:, 0, 0, 0].split(3)
        assert len(set(first.tolist())) == len(set(second.tolist())) == 1
