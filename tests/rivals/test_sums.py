import pytest
import torch
from torch.nn import functional as F

from tmcir_lite.io.files import InputError
from tmcir_lite.rivals.sums import image_only, sum_query, text_only, weighted_sum
from tmcir_lite.run.choices import choose_weight


def features(rows, seed, dim=6):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


IMAGE, TEXT = features(8, 1), features(8, 2)


def test_worked_by_hand():
    image, text = torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 0.1]])
    torch.testing.assert_close(sum_query(image, text, 0.8), torch.tensor([[0.2, 0.8]]) / (0.2**2 + 0.8**2) ** 0.5)
    torch.testing.assert_close(image_only(image, text), torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(text_only(image, text), torch.tensor([[0.0, 1.0]]))


@pytest.mark.parametrize("baseline", [image_only, text_only, weighted_sum(0.3)])
def test_queries_have_length_1_whatever_the_features_length(baseline):
    q = baseline(IMAGE, TEXT)
    torch.testing.assert_close(q.norm(dim=1), torch.ones(8))
    torch.testing.assert_close(baseline(40 * IMAGE, TEXT / 7), q)


def test_the_ends_of_the_weighted_sum_are_the_single_modalities():
    torch.testing.assert_close(weighted_sum(0)(IMAGE, TEXT), image_only(IMAGE, TEXT))
    torch.testing.assert_close(weighted_sum(1)(IMAGE, TEXT), text_only(IMAGE, TEXT))


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_refuses_weights_that_are_none(weight):
    with pytest.raises(InputError, match="from 0 to 1"):
        weighted_sum(weight)


def test_the_sweep_finds_the_weight_the_targets_were_made_with():
    """In the plane, images at 0, texts at 90 degrees: the target lies at the sum's angle, decoys around it."""
    image, text = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    gallery = torch.cat([sum_query(image, text, weight) for weight in (0.7, 0.62, 0.78, 0.0, 1.0)])
    weight, sweep = choose_weight(image, text, gallery, torch.tensor([0]), k=1)
    assert weight == 0.7
    assert sweep.set_index("weight")["R@1"].drop(0.7).max() == 0
    assert len(sweep) == 19


def test_the_reference_can_be_masked():
    gallery = torch.cat([F.normalize(IMAGE, dim=1), sum_query(IMAGE, TEXT, 0.2)])
    target, reference = torch.arange(8, 16), torch.arange(8)
    kept = choose_weight(IMAGE, TEXT, gallery, target, weights=[0.05], k=1)[1]
    masked = choose_weight(IMAGE, TEXT, gallery, target, reference, weights=[0.05], k=1)[1]
    assert kept["R@1"].item() < masked["R@1"].item()


def test_of_equal_weights_the_smallest_is_chosen_in_any_order():
    gallery = F.normalize(IMAGE[:1], dim=1)
    weight, sweep = choose_weight(IMAGE[:1], TEXT[:1], gallery, torch.tensor([0]), weights=[0.9, 0.1, 0.5])
    assert weight == 0.1
    assert sweep["weight"].tolist() == [0.1, 0.5, 0.9]
