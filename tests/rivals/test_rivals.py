"""The rivals, each against a case computed by hand; and what Pic2Word's word does to a text."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tmcir_lite.evaluation.features import encode_images, encode_queries
from tmcir_lite.io.files import InputError
from tmcir_lite.method.cached import CachedEncoder
from tmcir_lite.method.encoders import ImageFeatures, TextFeatures
from tmcir_lite.method.model import Composed
from tmcir_lite.rivals.clip4cir import Combiner, PooledSum
from tmcir_lite.rivals.cross_attention import CrossAttention
from tmcir_lite.rivals.pic2word import Pic2Word
from tmcir_lite.rivals.sums import LearnedSum
from tmcir_lite.run.backbones import load_backbone
from tmcir_lite.run.data import prepare_data
from tmcir_lite.run.models import load_cached, load_clip4cir, load_stage1, load_trained
from tmcir_lite.study.variants import FUSIONS


@pytest.fixture
def backbone(clip_folder):
    return load_backbone(f"local-dir:{clip_folder}").eval()


def inputs(batch=3, dim=8, patches=5, words=4):
    torch.manual_seed(1)
    mask = torch.tensor([[True] * words, [True, True] + [False] * (words - 2), [True] + [False] * (words - 1)])
    image = ImageFeatures(torch.randn(batch, dim), torch.randn(batch, patches, dim))
    return image, TextFeatures(torch.randn(batch, dim), torch.randn(batch, words, dim), mask[:batch])


def test_stage_1_adds_features_as_they_are():
    """(3, 0) + (1, 3) = (4, 3), which has length 5."""
    image, text = torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 3.0]])
    q = PooledSum()(ImageFeatures(image, None), TextFeatures(text, None, None))
    torch.testing.assert_close(q, torch.tensor([[0.8, 0.6]]))


def test_combiner_by_hand():
    """The published formula, written out in NumPy from the module's own weights."""
    torch.manual_seed(0)
    combiner, (image, text) = Combiner(8).eval(), inputs()
    w = {name: tensor.detach().numpy().astype(float) for name, tensor in combiner.named_parameters()}

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def relu(x):
        return np.maximum(x, 0)

    v, t = image.pooled.numpy().astype(float), text.pooled.numpy().astype(float)
    x = np.concatenate([relu(linear(t, "text_projection.0")), relu(linear(v, "image_projection.0"))], axis=1)
    mixed = linear(relu(linear(x, "combination.0.0")), "combination.1")
    share = 1 / (1 + np.exp(-linear(relu(linear(x, "text_share.0.0")), "text_share.1")))
    q = mixed + share * t + (1 - share) * v
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    np.testing.assert_allclose(combiner(image, text).detach().numpy(), q, atol=1e-6)


def test_combiner_has_the_published_proportions():
    """640, 2560, 5120 in the original."""
    shapes = {name: tuple(p.shape) for name, p in Combiner(640).named_parameters() if name.endswith("weight")}
    assert shapes == {
        "text_projection.0.weight": (2560, 640), "image_projection.0.weight": (2560, 640),
        "combination.0.0.weight": (5120, 5120), "combination.1.weight": (640, 5120),
        "text_share.0.0.weight": (5120, 5120), "text_share.1.weight": (1, 5120),
    }  # fmt: skip


def test_cross_attention_starts_at_the_sum_and_ignores_padding():
    torch.manual_seed(0)
    fusion, (image, text) = CrossAttention(8, text_weight=0.25, heads=2), inputs()
    start = fusion(image, text)
    expected = F.normalize(0.25 * F.normalize(text.pooled, dim=1) + 0.75 * F.normalize(image.pooled, dim=1), dim=1)
    torch.testing.assert_close(start, expected)
    torch.nn.init.eye_(fusion.head.project.weight)
    changed = text._replace(tokens=text.tokens.masked_fill(~text.mask[..., None], 7.0))
    one, other = (fusion(image, some) for some in (text, changed))
    torch.testing.assert_close(one, other)
    assert not torch.allclose(one, start)


def test_learned_sum_is_atf_without_what_fusion_adds():
    torch.manual_seed(0)
    start, (image, text) = LearnedSum(0.25), inputs()
    q = start(image, text)
    torch.testing.assert_close(q, CrossAttention(8, text_weight=0.25, heads=2)(image, text))
    q.sum().backward()
    assert start.text_logit.grad.abs() > 0


def test_cross_attention_is_as_large_as_token_fusion(cfg):
    ours = load_trained(cfg)
    other = FUSIONS["cross-attention"](cfg)(ours.backbone)
    sizes = [sum(p.numel() for p in fusion.parameters()) for fusion in (ours.fusion, other)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.15)


def test_pic2word_puts_its_word_where_the_marker_stands(backbone):
    model = Pic2Word(backbone)
    (pixels,) = torch.rand(1, 1, 3, 64, 64)
    ids = backbone.tokenize([model.template.format("is red")])
    with torch.no_grad():
        feature = model.eval().query(pixels, ids)
        vector = model.mapping(backbone.image(pixels).pooled)
        table = backbone.clip.token_embedding.weight
        marker = backbone.tokenize(["*"])[0, 1]
        table[marker] = vector[0]  # the same by another way: the word's own embedding is overwritten
        torch.testing.assert_close(feature, backbone.text(ids).pooled)


def test_a_marker_in_the_caption_stays_a_word(backbone):
    model, pixels = Pic2Word(backbone).eval(), torch.rand(1, 3, 64, 64)
    ids = backbone.tokenize(["a photo of * , 5 * wide"])
    marker = backbone.tokenize(["*"])[0, 1]
    places = (ids == marker).nonzero()
    assert len(places) == 2
    first = torch.zeros_like(ids, dtype=torch.bool)
    first[tuple(places[0])] = True
    with torch.no_grad():
        word = model.mapping(backbone.image(pixels).pooled)
        torch.testing.assert_close(model.query(pixels, ids), backbone.text(ids, (first, word)).pooled)


def test_pic2word_trains_its_mapping_only(backbone):
    model = Pic2Word(backbone)
    model.loss(*model(images=torch.rand(4, 3, 64, 64), texts=backbone.tokenize(["x"] * 4))).backward()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None} == {"mapping"}


def test_pic2word_without_a_marker_in_the_tokenizer_is_refused(backbone, monkeypatch):
    tokenize = type(backbone).tokenize
    monkeypatch.setattr(type(backbone), "tokenize", lambda self, texts: tokenize(self, [t + " red" for t in texts]))
    with pytest.raises(InputError, match="not one token"):
        Pic2Word(backbone)


def test_a_frozen_backbone_says_the_same_and_looks_once(cfg, backbone, monkeypatch):
    split = prepare_data(cfg).val
    paths, frozen = list(split.images.values())[:5], CachedEncoder(backbone)
    torch.testing.assert_close(encode_images(frozen, paths), encode_images(backbone, paths))
    with torch.no_grad():
        one, other = backbone.image(backbone.load(paths)), frozen.image(frozen.load(paths))
    torch.testing.assert_close(one.tokens, other.tokens)
    monkeypatch.setattr(type(backbone), "load", lambda *_: pytest.fail("looked again"))
    frozen.load(paths[::-1])


def test_where_pooled_features_are_fused_no_tokens_are_kept(cfg, backbone):
    """For 45,000 pictures and a ViT-L-14 they would be 36 GB."""
    paths = list(prepare_data(cfg).val.images.values())[:5]
    whole, pooled = CachedEncoder(backbone), CachedEncoder(backbone, tokens=False)
    assert pooled.load(paths).shape == (5, 1, backbone.dim)
    torch.testing.assert_close(pooled.image(pooled.load(paths)).pooled, whole.image(whole.load(paths)).pooled)
    assert load_stage1(cfg).load(paths).shape[1] == 1
    assert load_cached(cfg).load(paths).shape[1] == 1
    assert load_cached(cfg, aligned=True).load(paths).shape[1] > 1


def test_a_fusion_on_a_frozen_backbone_is_the_fusion(cfg):
    """Trained rivals give the same queries through remembered features as through pictures."""
    split, (_, model) = prepare_data(cfg).val, load_clip4cir(cfg)
    plain = Composed(model.backbone.inner, model.fusion)
    some = split.triplets[:5]
    one, other = (encode_queries(m, some, split.images, "and") for m in (model, plain))
    torch.testing.assert_close(one, other)


def test_a_frozen_backbone_is_no_part_of_the_weights(backbone):
    model = Composed(CachedEncoder(backbone), Combiner(backbone.dim))
    assert not [name for name in model.state_dict() if name.startswith("backbone")]
    assert not any(p.requires_grad for p in backbone.parameters())


def test_of_an_encoder_whose_text_is_trained_pictures_are_looked_at_once(cfg, backbone, tmp_path, monkeypatch):
    paths, cached = list(prepare_data(cfg).val.images.values())[:5], CachedEncoder(backbone)
    trained = cached.to_train(text_layers=None)
    before = cached.load(paths)
    monkeypatch.setattr(type(backbone), "load", lambda *_: pytest.fail("looked again"))
    assert torch.equal(trained.load(paths), before)
    names = {name for name, p in trained.named_parameters() if p.requires_grad}
    assert names == {name for name in backbone.state_dict() if ".visual." not in name}
    ids = backbone.tokenize(["is red"])
    old = cached.text(ids).pooled.clone()
    with torch.no_grad():
        next(p for p in trained.parameters() if p.requires_grad).add_(1.0)
    assert torch.equal(cached.text(ids).pooled, old)
    assert not torch.equal(trained.text(ids).pooled, old)
    trained.save(tmp_path)
    again = load_backbone(f"local-dir:{tmp_path}").eval()
    torch.testing.assert_close(again.text(ids).pooled, trained.text(ids).pooled)
    assert torch.equal(cached.beside(again).load(paths), before)
