"""On a GPU everything is where it has to be: fake tensors of PyTorch are "on a GPU" on any machine, and do not mix."""

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tmcir_lite.data.datasets import Split
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.evaluation import features
from tmcir_lite.evaluation.features import encode_images, encode_queries, encode_texts
from tmcir_lite.method import atf
from tmcir_lite.method.atf import ATF
from tmcir_lite.method.cached import CachedEncoder
from tmcir_lite.method.encoders import Backbone
from tmcir_lite.method.iacma import Iacma
from tmcir_lite.method.model import Composed
from tmcir_lite.rivals.clip4cir import Combiner, PooledSum
from tmcir_lite.rivals.cross_attention import CrossAttention
from tmcir_lite.rivals.pic2word import Pic2Word
from tmcir_lite.rivals.sums import LearnedSum
from tmcir_lite.run.backbones import load_backbone
from tmcir_lite.study import facts
from tmcir_lite.study.facts import beside_recall
from tmcir_lite.study.variants import WordsToo

TRIPLETS = [Triplet(str(n), "a", "b", ("is red",), "all") for n in range(3)]
IMAGES = {name: Path(name) for name in "ab"}


@pytest.fixture
def backbone(clip_folder):
    return load_backbone(f"local-dir:{clip_folder}").eval()


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU whose tensors have no numbers; pictures are read as on any, onto the CPU."""
    monkeypatch.setattr(Backbone, "load", lambda self, paths, *_: torch.zeros(len(paths), 3, 64, 64))
    monkeypatch.setattr(features, "ahead", map)  # a thread would know of no such GPU
    # How long a text is, and how many tokens are left, are numbers.
    monkeypatch.setattr(Backbone, "tokenize", lambda self, texts: self.tokenizer(list(texts)))
    monkeypatch.setattr(atf, "pack", lambda tokens, weight: (tokens, weight))
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield torch.device("cuda")


def token_fusion(backbone):
    rows, columns = backbone.grid
    return ATF(backbone.dim, rows * columns, backbone.context, threshold=0.5)


MODELS = {
    "ATF": lambda b: Composed(b, token_fusion(b)),
    "ATF, own temperature": lambda b: Composed(b, token_fusion(b), scale=100.0),
    "cross-attention": lambda b: Composed(b, CrossAttention(b.dim, text_weight=0.5)),
    "sum": lambda b: Composed(b, LearnedSum(0.5)),
    "CLIP4Cir, stage 1": lambda b: Composed(b, PooledSum(), scale=100.0, learned=False),
    "Combiner": lambda b: Composed(b, Combiner(b.dim)),
    "on frozen encoders": lambda b: Composed(CachedEncoder(b), CrossAttention(b.dim, text_weight=0.5)),
    "Pic2Word": lambda b: Pic2Word(b, scale=20.0),
    "IACMA": lambda b: Iacma(b, symmetric=True),
    "IACMA, words too": lambda b: WordsToo(b),
}


@pytest.fixture
def model(request, backbone):
    return MODELS[request.param](backbone).eval()  # built before the GPU is there: weights are read onto the CPU


def to(model, device):
    """As the stages do it: a frozen backbone is no part of a model, and is put there by itself."""
    model.to(device)
    if isinstance(model.backbone, CachedEncoder):
        model.backbone.inner.to(device)


@pytest.mark.parametrize("model", [name for name in MODELS if "frozen" not in name], indirect=True)
def test_a_loss_and_its_temperature(model, gpu):
    to(model, gpu)
    pictures, texts = torch.zeros(2, 3, 64, 64, device=gpu), model.backbone.tokenize(["is red"] * 2).to(gpu)
    names = {Iacma: ("pseudo_targets",), WordsToo: ("pseudo_targets",), Pic2Word: ("images",)}.get(
        type(model), ("references", "targets")
    )
    loss = model.loss(*model(**dict.fromkeys(names, pictures), texts=texts))
    model.after_step()
    assert loss.device.type == "cuda"  # the way back cannot be gone without a GPU


@pytest.mark.parametrize("model", [name for name in MODELS if "IACMA" not in name], indirect=True)
def test_queries_and_galleries_end_on_the_cpu(model, gpu):
    to(model, gpu)
    features = [
        encode_queries(model, TRIPLETS, IMAGES, "both"), encode_images(model.backbone, list(IMAGES.values())),
        encode_texts(model.backbone, ["is red"]),
    ]  # fmt: skip
    assert [each.device.type for each in features] == ["cpu"] * 3


@pytest.mark.parametrize("model", ["cross-attention", "on frozen encoders"], indirect=True)
def test_the_study_measures_what_a_fusion_costs(cfg, model, gpu, monkeypatch):
    to(model, gpu)
    monkeypatch.setattr(facts, "pick_device", lambda name: gpu)
    split = Split("fashioniq", "val", Path("."), TRIPLETS, {"all": ["a", "b"]}, IMAGES)
    assert beside_recall(cfg, model, split)["fusion_ms"] > 0
