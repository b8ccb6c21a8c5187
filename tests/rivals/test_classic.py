"""Concatenation, TIRG and FiLM: each against its formula in NumPy; what batch norm does in training and after it."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from tmcir_lite.config import load_config
from tmcir_lite.evaluation.features import encode_queries
from tmcir_lite.io.files import InputError
from tmcir_lite.method.checkpoint import load_weights, save_weights
from tmcir_lite.method.encoders import ImageFeatures, TextFeatures
from tmcir_lite.method.losses import InfoNCE
from tmcir_lite.rivals.classic import TIRG, Concatenation, FiLM
from tmcir_lite.run.data import prepare_data
from tmcir_lite.run.models import load_aligned, load_fusion, of_width
from tmcir_lite.run.stages import train_fusion
from tmcir_lite.study.variants import FUSIONS

ALL = [Concatenation, TIRG, FiLM]


def inputs(batch=6, dim=8, patches=5, words=4, seed=1):
    """Image features are far from length 1, and the pooled one is not the patches' mean."""
    some = torch.Generator().manual_seed(seed)
    v, patch, t, word = (torch.randn(shape, generator=some) for shape in (
        (batch, dim), (batch, patches, dim), (batch, dim), (batch, words, dim)))  # fmt: skip
    return ImageFeatures(5 * v + 1, 3 * patch), TextFeatures(2 * t, word, torch.ones(batch, words, dtype=torch.bool))


def trained(kind, dim=8):
    """A module as a training leaves it: no weight at its start, and a mean and variance that are not 0 and 1."""
    torch.manual_seed(0)
    module = kind(dim)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    for seed in range(3):
        module.train()(*inputs(seed=seed))
    return module.eval()


class Slow:
    """The layers in NumPy, in double precision, with a module's weights."""

    def __init__(self, module):
        self.of = {name: value.numpy().astype(float) for name, value in module.state_dict().items()}

    def linear(self, x, name):
        return self.of[f"{name}.weight"] @ x + self.of[f"{name}.bias"]

    def batch_norm(self, x, name):
        mean, variance = self.of[f"{name}.running_mean"], self.of[f"{name}.running_var"]
        return (x - mean) / np.sqrt(variance + 1e-5) * self.of[f"{name}.weight"] + self.of[f"{name}.bias"]


def relu(x):
    return np.maximum(x, 0)


def even(x):
    return x / np.sqrt(np.mean(x**2))


def compare(module, query):
    """`query`: v, patches, t of one example -> q of any length."""
    image, text = inputs()
    rows = zip(*(part.numpy().astype(float) for part in (image.pooled, image.tokens, text.pooled)), strict=True)
    slow = np.stack([q / np.linalg.norm(q) for q in (query(*row) for row in rows)])
    np.testing.assert_allclose(module(image, text).detach().numpy(), slow, atol=2e-6)


def test_concatenation_by_hand():
    module = trained(Concatenation)
    slow = Slow(module)

    def query(v, _, t):
        x = relu(slow.batch_norm(np.concatenate([even(v), even(t)]), "layers.0"))
        return slow.linear(relu(slow.batch_norm(slow.linear(x, "layers.2"), "layers.3")), "layers.6")

    compare(module, query)


def test_tirg_by_hand():
    module = trained(TIRG)
    slow = Slow(module)

    def query(v, _, t):
        x = np.concatenate([even(v), even(t)])
        gate = 1 / (1 + np.exp(-slow.linear(relu(slow.batch_norm(x, "gate.0")), "gate.2")))
        hidden = relu(slow.linear(relu(slow.batch_norm(x, "residual.0")), "residual.2"))
        residual = slow.linear(hidden, "residual.4")
        return slow.of["gate_weight"] * gate * even(v) + slow.of["residual_weight"] * residual

    compare(module, query)


def test_film_by_hand():
    module = trained(FiLM)
    slow = Slow(module)

    def query(_, patches, t):
        scale, beta = np.split(slow.linear(even(t), "modulation"), 2)
        total = 0
        for patch in patches:
            h = relu(slow.linear(even(patch), "enter"))
            inner = slow.linear(h, "inner")
            inner = (inner - inner.mean()) / np.sqrt(inner.var() + 1e-5)
            total = total + h + relu((1 + scale) * inner + beta)
        return slow.linear(total / len(patches), "project")

    compare(module, query)


def test_sizes_are_the_public_ones():
    """512 in google/tirg; w_g and w_r start at 1 and 10."""
    shapes = {name: tuple(p.shape) for name, p in TIRG(512).named_parameters() if p.ndim == 2}
    assert shapes == {"gate.2.weight": (512, 1024), "residual.2.weight": (1024, 1024), "residual.4.weight": (512, 1024)}
    assert [tuple(p.shape) for p in Concatenation(512).parameters() if p.ndim == 2] == [(1024, 1024), (512, 1024)]
    assert (TIRG(4).gate_weight.item(), TIRG(4).residual_weight.item()) == (1, 10)


def test_the_residual_is_the_larger_part_at_first():
    torch.manual_seed(0)
    module, (image, text) = TIRG(128), inputs(batch=64, dim=128)
    x = torch.cat([F.rms_norm(side.pooled, (128,)) for side in (image, text)], dim=1)
    kept = module.gate(x).sigmoid() * x[:, :128]
    assert 2 < (10 * module.residual(x).norm() / kept.norm()).item() < 8


def test_an_open_gate_without_a_residual_is_the_image():
    module, (image, text) = trained(TIRG), inputs()
    with torch.no_grad():
        module.residual_weight.zero_()
        module.gate[2].weight.zero_()
        module.gate[2].bias.fill_(50.0)
    torch.testing.assert_close(module(image, text), F.normalize(image.pooled, dim=1))


def test_film_of_nothing_asked_is_the_patches_alone():
    """Without gamma's and beta's weights the text changes nothing; with them it does."""
    module, (image, text) = trained(FiLM), inputs()
    other = text._replace(pooled=text.pooled.roll(1, dims=0))
    assert not torch.allclose(module(image, text), module(image, other))
    with torch.no_grad():
        module.modulation.weight.zero_()
    torch.testing.assert_close(module(image, text), module(image, other))


@pytest.mark.parametrize("kind", ALL)
def test_a_neighbour_in_the_batch_changes_nothing_in_evaluation(kind):
    module, (image, text) = trained(kind), inputs()
    alone = module(ImageFeatures(*(part[:1] for part in image)), TextFeatures(*(part[:1] for part in text)))
    torch.testing.assert_close(module(image, text)[:1], alone)
    torch.testing.assert_close(alone.norm(dim=1), torch.ones(1))


@pytest.mark.parametrize("kind", ALL)
def test_how_long_features_are_does_not_matter(kind):
    module, (image, text) = trained(kind), inputs()
    longer = ImageFeatures(*(7 * part for part in image)), text._replace(pooled=0.1 * text.pooled)
    torch.testing.assert_close(module(*longer), module(image, text))


@pytest.mark.parametrize("kind", ALL)
def test_gradients_reach_every_weight(kind):
    torch.manual_seed(0)
    module, (image, text) = kind(8).train(), inputs()
    InfoNCE()(module(image, text), torch.randn(6, 8), 10.0).backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("kind", ALL)
def test_what_training_kept_is_saved_with_the_weights(kind, tmp_path):
    module, (image, text) = trained(kind), inputs()
    save_weights(module, tmp_path / "x.safetensors")
    other = kind(8)
    load_weights(other, tmp_path / "x.safetensors")
    torch.testing.assert_close(other.eval()(image, text), module(image, text), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ALL)
def test_a_sum_of_two_maps_is_learned(kind):
    """Targets are A v + B t, in batches of 32 drawn anew; judged in evaluation, by the mean and variance kept."""
    torch.manual_seed(0)
    A, B, module = torch.randn(8, 8), torch.randn(8, 8), kind(8)
    optimizer, loss = torch.optim.AdamW(module.parameters(), lr=1e-2), InfoNCE()

    def batch(size):
        v, t = torch.randn(size, 8), torch.randn(size, 8)
        return ImageFeatures(v, v[:, None].repeat(1, 3, 1)), TextFeatures(t, None, None), v @ A + t @ B

    *fixed, target = batch(64)
    start = loss(module.eval()(*fixed), target, 10.0).item()
    for _ in range(60):
        *given, wanted = batch(32)
        loss(module.train()(*given), wanted, 10.0).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        assert loss(module.eval()(*fixed), target, 10.0).item() < 0.5 * start


def test_the_study_knows_them(cfg):
    encoders = load_aligned(cfg)
    for name, kind in {"concatenation": Concatenation, "TIRG": TIRG, "FiLM": FiLM}.items():
        assert isinstance(FUSIONS[name](cfg)(encoders), kind)


@pytest.fixture
def run(cfg, tiny, tmp_path):
    run = load_config("lite", [*tiny, f"runs={tmp_path}", "atf.encoders=none"])
    shutil.copytree(cfg.run_dir / "iacma", run.run_dir / "iacma")
    return run


@pytest.mark.parametrize(
    ("name", "fusion"), [("concatenation", of_width(Concatenation)), ("TIRG", of_width(TIRG)), ("FiLM", of_width(FiLM))]
)
def test_trained_by_the_stage_and_loaded_again(run, name, fusion):
    data = prepare_data(run)
    train_fusion(run, name, fusion, data=data)
    last, steps = load_file(run.run_dir / name / "last.safetensors"), len(data.kept) // run.atf.batch
    counts = {value.item() for key, value in last.items() if key.endswith("num_batches_tracked")}
    assert counts == (set() if name == "FiLM" else {2 * steps})  # measuring adds none
    one, other = (load_fusion(run, name, fusion) for _ in range(2))
    one, other = (encode_queries(m, data.val.triplets, data.val.images, "and") for m in (one, other))
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_batch_with_a_batch_norm_is_not_trained_in_parts(run):
    parted = run.model_copy(update={"atf": run.atf.model_copy(update={"chunk": 4})})
    with pytest.raises(InputError, match=r"TIRG: chunk: 4 .* write chunk: null"):
        train_fusion(parted, "TIRG", of_width(TIRG))
    assert len(train_fusion(parted, "FiLM", of_width(FiLM))) == 3  # which has none
