import math
import tempfile

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from tmcir_lite.method.losses import LARGEST_SCALE, Contrastive, InfoNCE
from tmcir_lite.study.variants import late_interaction

# Forking is quick, but fails once autograd has started its CUDA threads.
START = "spawn" if torch.cuda.is_available() else "fork"


def features(rows, seed, dim=4):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def by_hand(a, b, scale):
    """The formula, one pair at a time."""
    total = 0.0
    for i in range(len(a)):
        cosines = [F.cosine_similarity(a[i], b[j], dim=0) for j in range(len(b))]
        total -= math.log(math.exp(scale * cosines[i]) / sum(math.exp(scale * c) for c in cosines))
    return total / len(a)


def test_two_orthogonal_pairs_worked_by_hand():
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert InfoNCE()(a, a, 1.0).item() == pytest.approx(-math.log(math.e / (math.e + 1)))


def test_equals_the_formula_and_ignores_lengths():
    a, b = features(5, 1), features(5, 2)
    assert InfoNCE()(a, b, 3.0).item() == pytest.approx(by_hand(a, b, 3.0), rel=1e-5)
    assert InfoNCE()(7 * a, b / 9, 3.0).item() == pytest.approx(by_hand(a, b, 3.0), rel=1e-5)


def test_negatives_are_the_second_argument_only():
    """A copy of a_1 as a_2 is no negative of b_1, but it is one when the loss is symmetric."""
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    b = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    one_way = InfoNCE()
    assert one_way(a, b, 2.0).item() == pytest.approx(by_hand(a, b, 2.0), rel=1e-5)
    assert one_way(a, b, 2.0).item() != pytest.approx(one_way(b, a, 2.0).item())
    both = (by_hand(a, b, 2.0) + by_hand(b, a, 2.0)) / 2
    assert InfoNCE(symmetric=True)(a, b, 2.0).item() == pytest.approx(both, rel=1e-5)


def test_the_temperature_learns():
    log_scale = torch.tensor(1.0, requires_grad=True)
    InfoNCE()(features(4, 1), features(4, 2), log_scale.exp()).backward()
    assert log_scale.grad.abs() > 0


class Identity(nn.Module):
    """A backbone whose features are given; its 1 / tau stands at 100, as in pretrained weights."""

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(100)))

    @property
    def logit_scale(self):
        return self.log_scale.exp()


class Given(Contrastive):
    def forward(self, a, b):
        return a, b, self.logit_scale


@pytest.mark.parametrize("own", [None, 100.0])
def test_a_scale_of_100_can_be_learned_and_is_the_largest(own):
    """Pairs that do not match ask for a smaller 1 / tau, pairs that match for a larger one."""
    model, a = Given(Identity(), scale=own), torch.eye(4)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    scales = []
    for b in (a.roll(1, 0), a + 0.9):
        optimizer.zero_grad()
        model.loss(*model(a=a, b=b)).backward()
        optimizer.step()
        model.after_step()
        scales.append(model.logit_scale.item())
    assert scales[0] < 99
    for _ in range(200):
        optimizer.zero_grad()
        (-model.logit_scale).backward()
        optimizer.step()
        model.after_step()
    assert model.logit_scale.item() == pytest.approx(LARGEST_SCALE)


def test_a_fixed_scale_stays_and_the_backbones_own_is_not_trained():
    model = Given(Identity(), scale=50.0, learned=False)
    assert not [p for p in model.parameters() if p.requires_grad]
    assert model.logit_scale.item() == pytest.approx(50)


def test_mixed_precision_does_not_round_the_logits():
    a, b = features(6, 1), features(6, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = InfoNCE()(a, b, 100.0)
    assert mixed.item() == pytest.approx(InfoNCE()(a, b, 100.0).item(), rel=1e-6)


def test_refuses_what_are_no_pairs():
    with pytest.raises(ValueError, match="pairs"):
        InfoNCE()(features(3, 1), features(4, 2), 1.0)


def _one_of_two(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mine = slice(3 * rank, 3 * rank + 3)
    a, b = features(6, 1)[mine].requires_grad_(), features(6, 2)[mine].requires_grad_()
    loss = InfoNCE(symmetric=True)(a, b, 5.0)
    loss.backward()
    save_file({"loss": loss.detach(), "a": a.grad, "b": b.grad}, f"{folder}/{rank}.safetensors")
    dist.destroy_process_group()


def test_two_processes_give_the_loss_and_gradient_of_the_whole_batch():
    a, b = features(6, 1).requires_grad_(), features(6, 2).requires_grad_()
    loss = InfoNCE(symmetric=True)(a, b, 5.0)
    loss.backward()
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_one_of_two, args=(folder,), nprocs=2, start_method=START)
        parts = [load_file(f"{folder}/{rank}.safetensors") for rank in (0, 1)]
    assert (parts[0]["loss"] + parts[1]["loss"]).item() / 2 == pytest.approx(loss.item(), rel=1e-5)
    # The processes' gradients are averaged, hence half of each process's own.
    torch.testing.assert_close(torch.cat([part["a"] for part in parts]) / 2, a.grad)
    torch.testing.assert_close(torch.cat([part["b"] for part in parts]) / 2, b.grad)


def test_late_interaction_by_hand():
    """Text 0 has two words, whose best patches in image 0 have cosines 1 and 0.6; text 1 has none that count."""
    V = torch.tensor([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 2.0], [0.0, -1.0]]])
    T = torch.tensor([[[3.0, 0.0], [-0.8, 0.6]], [[1.0, 0.0], [1.0, 0.0]]])
    mask = torch.tensor([[True, True], [False, False]])
    scores = late_interaction(V, T, mask)
    # image 0: max(1, .6) = 1 and max(-.8, 0) = 0; image 1: max(0, 0) = 0 and max(.6, -.6) = .6
    torch.testing.assert_close(scores, torch.tensor([[0.5, 0.0], [0.3, 0.0]]))


def test_late_interaction_is_slow_loops():
    rng = torch.Generator().manual_seed(0)
    V, T = torch.randn(3, 4, 5, generator=rng), torch.randn(2, 6, 5, generator=rng)
    mask = torch.tensor([[True] * 6, [True, False, True, False, False, False]])
    scores = late_interaction(V, T, mask)
    for i in range(3):
        for k in range(2):
            best = [max(F.cosine_similarity(v, t, dim=0).item() for v in V[i]) for t in T[k][mask[k]]]
            assert scores[i, k].item() == pytest.approx(sum(best) / len(best), abs=1e-6)
