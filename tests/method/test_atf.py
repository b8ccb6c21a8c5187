import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tmcir_lite.method import atf
from tmcir_lite.method.atf import ATF, match, merge, merge_weights, pool, similarity
from tmcir_lite.method.encoders import ImageFeatures, TextFeatures
from tmcir_lite.study.variants import (
    Gated,
    GatedHead,
    GatedSum,
    PooledByMean,
    WithoutPositions,
    WithoutResidual,
)

quickly = settings(max_examples=25)


@st.composite
def token_batches(draw):
    """Visual tokens B N D, text tokens B M D, text mask B M (the first tokens count, at least one)."""
    B, N, M, D = (draw(st.integers(1, 4)) for _ in range(4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    lengths = torch.randint(1, M + 1, (B,), generator=generator)
    V, T = torch.randn(B, N, D, generator=generator), torch.randn(B, M, D, generator=generator)
    return V, T, torch.arange(M) < lengths[:, None]


thresholds = st.one_of(
    st.tuples(st.sampled_from([-1.0, -0.5, 0.0, 0.3, 0.9, 1.001]), st.just("absolute")),
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 1.001]), st.just("quantile")),
)


def fuse(V, T, mask, threshold, threshold_is):
    return merge(V, T, match(similarity(V, T), mask, threshold, threshold_is))


def one_sample_by_loops(V, T, mask, threshold, threshold_is):
    """The slow, obvious reference for one sample: the list of fused tokens."""
    found = {}
    for j in range(len(T)):
        if mask[j]:
            cosines = [F.cosine_similarity(v, T[j], dim=0).item() for v in V]
            found[j] = (max(cosines), cosines.index(max(cosines)))
    bar = threshold
    if threshold_is == "quantile":
        ordered = sorted(score for score, _ in found.values())
        bar = ordered[round(threshold * (len(ordered) - 1))] if threshold <= 1 else math.inf
    fused = []
    for i, v in enumerate(V):
        parts = [(1.0, v)] + [(score, T[j]) for j, (score, best) in found.items() if best == i and score >= bar]
        exponentials = [math.exp(score / atf.TEMPERATURE) for score, _ in parts]
        fused.append(sum(e / sum(exponentials) * token for e, (_, token) in zip(exponentials, parts, strict=True)))
    return torch.stack(fused + [T[j] for j, (score, _) in found.items() if score < bar])


def module(kind=ATF, dim=8, num_visual=5, num_text=6, trained=True, **changes):
    """An ATF in evaluation mode; `trained` moves every weight away from its start."""
    torch.manual_seed(0)
    made = kind(dim, num_visual, num_text, **({"threshold": 0.5, "heads": 2} | changes)).eval()
    if trained:
        with torch.no_grad():
            for weight in made.parameters():
                weight += weight.requires_grad * 0.3 * torch.randn_like(weight)
    return made


def tower_outputs(B=3, N=5, M=6, D=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shapes = (B, D), (B, N, D), (B, D), (B, M, D)
    mask = torch.arange(M) < torch.tensor([M, 2, 4, 1][:B])[:, None]
    image, patches, text, words = (torch.randn(shape, generator=generator) for shape in shapes)
    return ImageFeatures(image, patches), TextFeatures(text, words, mask)


class TestMergeOfTokens:
    def test_worked_by_hand(self):
        """Two visual and three text tokens: one text token merges, one is kept, one is padding."""
        V = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])
        T = torch.tensor([[[3.0, 4.0], [-1.0, 0.0], [5.0, 5.0]]])
        S = similarity(V, T)
        torch.testing.assert_close(S[0, :, :2], torch.tensor([[0.6, -1.0], [0.8, 0.0]]))
        matched = match(S, torch.tensor([[True, True, False]]), 0.5, "absolute")
        assert matched.index[0, 0] == 1  # the second visual token, cosine 0.8
        assert matched.merged.tolist() == [[True, False, False]]
        assert matched.kept.tolist() == [[False, True, False]]
        fused = merge(V, T, matched)
        assert fused.mask.tolist() == [[True, True, False, True, False]]
        w = math.exp(0.8 / atf.TEMPERATURE) / (math.exp(1 / atf.TEMPERATURE) + math.exp(0.8 / atf.TEMPERATURE))
        expected = torch.tensor([[2.0, 0.0], [3 * w, 1 - w + 4 * w], [-1.0, 0.0]])
        torch.testing.assert_close(fused.tokens[fused.mask], expected)

    @quickly
    @given(token_batches(), thresholds)
    def test_equals_a_loop_over_tokens(self, tokens, threshold):
        fused = fuse(*tokens, *threshold)
        for b, sample in enumerate(zip(*tokens, strict=True)):
            expected = one_sample_by_loops(*sample, *threshold)
            torch.testing.assert_close(fused.tokens[b][fused.mask[b]], expected, rtol=1e-4, atol=1e-5)

    @quickly
    @given(token_batches(), st.sampled_from(["absolute", "quantile"]))
    def test_threshold_above_1_gives_the_two_sequences(self, tokens, threshold_is):
        V, T, mask = tokens
        fused = fuse(V, T, mask, 1.0001, threshold_is)
        torch.testing.assert_close(fused.tokens, torch.cat([V, T], dim=1))
        assert torch.equal(fused.mask, torch.cat([torch.ones(V.shape[:2], dtype=torch.bool), mask], dim=1))

    def test_threshold_above_1_does_not_merge_even_equal_tokens(self):
        V = torch.randn(1, 50, 3, generator=torch.Generator().manual_seed(0))
        assert not fuse(V, V, torch.ones(1, 50, dtype=torch.bool), 1 + 1.2e-7, "absolute").match.merged.any()

    @quickly
    @given(token_batches(), st.sampled_from([(-1.0, "absolute"), (-7.0, "absolute"), (0.0, "quantile")]))
    def test_lowest_threshold_leaves_no_text_token(self, tokens, threshold):
        V, _, mask = tokens
        fused = fuse(*tokens, *threshold)
        assert torch.equal(fused.match.merged, mask)
        assert not fused.mask[:, V.shape[1] :].any()

    @quickly
    @given(token_batches(), thresholds)
    def test_number_of_fused_tokens(self, tokens, threshold):
        V, _, mask = tokens
        fused = fuse(*tokens, *threshold)
        assert torch.equal(fused.mask.sum(1), V.shape[1] + mask.sum(1) - fused.match.merged.sum(1))
        assert torch.equal(fused.match.merged | fused.match.kept, mask)
        assert not (fused.match.merged & fused.match.kept).any()

    @quickly
    @given(token_batches(), thresholds)
    def test_weights_are_a_convex_combination_of_the_token_and_its_matches(self, tokens, threshold):
        V, T, mask = tokens
        matched = match(similarity(V, T), mask, *threshold)
        weights = merge_weights(matched, V.shape[1])
        assert weights.min() >= 0
        torch.testing.assert_close(weights.sum(-1), torch.ones(V.shape[:2]))
        assert torch.equal((weights[..., 1:] > 0).sum(1), matched.merged.long())  # each merges into one visual token
        assert (weights[..., :1] >= weights[..., 1:]).all()  # nothing is as similar to a token as it is itself

    @quickly
    @given(st.integers(1, 40), st.sampled_from([0.25, 0.5, 0.75]))
    def test_quantile_merges_that_share(self, M, q):
        tokens = torch.randn(1, M, 16, generator=torch.Generator().manual_seed(M))
        V = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(M + 1))
        merged = fuse(V, tokens, torch.ones(1, M, dtype=torch.bool), q, "quantile").match.merged.sum().item()
        assert abs(merged - (1 + (1 - q) * (M - 1))) <= 0.5  # from all M at q = 0 to one at q = 1

    def test_which_half_of_the_words_merges(self):
        """Word 2 has one patch that stands out; the end token, 3, is like all of them."""
        S = torch.tensor([[[0.0, 0.9, 0.1, 0.8], [0.0, 0.1, 0.1, 0.8], [0.0, 0.1, 0.7, 0.8]]])
        mask = torch.tensor([[False, True, True, True]])
        found = match(S, mask, 0.5, "quantile")
        assert found.merged[0].nonzero().flatten().tolist() == [1, 3]
        assert torch.equal(found.text_mask, mask)
        assert torch.equal(found.score, S.amax(dim=1))

    def test_quantile_1_merges_the_best_only(self):
        (_, V), (_, T, mask) = tower_outputs()
        matched = fuse(V, T, mask, 1.0, "quantile").match
        best = matched.score.masked_fill(~mask, -2).argmax(1)
        assert torch.equal(matched.merged, F.one_hot(best, T.shape[1]).bool())

    def test_a_sample_that_is_all_padding_keeps_its_visual_tokens(self):
        V, T = torch.randn(1, 2, 3), torch.randn(1, 4, 3)
        fused = fuse(V, T, torch.zeros(1, 4, dtype=torch.bool), 0.5, "quantile")
        torch.testing.assert_close(fused.tokens[fused.mask], V[0])


class TestPool:
    tokens = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [100.0, 100.0]]])
    mask = torch.tensor([[True, True, False]])

    def test_a_query_of_zero_gives_the_mean_of_valid_tokens(self):
        torch.testing.assert_close(pool(self.tokens, self.mask, torch.zeros(2)), torch.tensor([[2.0, 0.0]]))

    def test_query_chooses_the_tokens_it_agrees_with(self):
        query = torch.tensor([math.sqrt(2) * math.log(3) / 2, 0.0])  # scores log(3)/2 and 3 log(3)/2: weights 1/4, 3/4
        torch.testing.assert_close(pool(self.tokens, self.mask, query), torch.tensor([[2.5, 0.0]]))


@pytest.mark.parametrize(
    "merging",
    [
        {"threshold": 0.5, "threshold_is": "quantile"},
        {"threshold": 0.2, "threshold_is": "absolute"},
        {"threshold": 2.0, "threshold_is": "absolute"},
    ],
)
@pytest.mark.parametrize("kind", [ATF, PooledByMean])
class TestModule:
    def test_padding_and_neighbours_change_nothing(self, merging, kind):
        made = module(kind, **merging)
        image, text = tower_outputs()
        with torch.no_grad():
            together = made(image, text)
            for b, length in enumerate(text.mask.sum(1)):
                one, (pooled, tokens, mask) = ImageFeatures(*(x[b, None] for x in image)), (x[b, None] for x in text)
                alone = made(one, TextFeatures(pooled, tokens[:, :length], mask[:, :length]))
                torch.testing.assert_close(alone[0], together[b], rtol=1e-4, atol=1e-5)
            padded = text._replace(tokens=text.tokens.masked_fill(~text.mask[..., None], 37.0))
            torch.testing.assert_close(made(image, padded), together, rtol=1e-4, atol=1e-5)

    def test_token_order_matters_only_with_positions(self, merging, kind):
        image, text = tower_outputs()
        text = text._replace(mask=torch.ones(text.mask.shape))
        shuffled = (image._replace(tokens=image.tokens[:, [3, 1, 4, 0, 2]]),
                    text._replace(tokens=text.tokens[:, [5, 0, 2, 1, 4, 3]]))  # fmt: skip
        with torch.no_grad():
            blind, aware = (module(each, **merging) for each in (WithoutPositions, kind))
            torch.testing.assert_close(blind(image, text), blind(*shuffled), rtol=1e-4, atol=1e-5)
            assert not torch.allclose(aware(image, text), aware(*shuffled), atol=1e-3)

    def test_gradients_reach_both_encoders(self, merging, kind):
        image, text = tower_outputs()
        made = module(kind, **merging)
        features = [feature.requires_grad_() for feature in (*image, text.pooled, text.tokens)]
        made(image, text)[:, 0].sum().backward()
        pooled, patches, caption, words = (feature.grad.abs().sum(-1) for feature in features)
        assert (pooled > 0).all()
        assert (patches > 0).all()
        assert (caption > 0).all()
        assert torch.equal(words > 0, text.mask)  # each real token, no padding
        assert all(weight.grad is not None for weight in made.parameters() if weight.requires_grad)


def weighted_sum(image, text, w):
    return F.normalize(w * F.normalize(text, dim=-1) + (1 - w) * F.normalize(image, dim=-1), dim=-1)


@pytest.mark.parametrize("text_weight", [0.5, 0.8])
@pytest.mark.parametrize("kind", [ATF, Gated])
def test_training_starts_from_the_weighted_sum(text_weight, kind):
    made = module(kind, trained=False, text_weight=text_weight)
    image, text = tower_outputs()
    torch.testing.assert_close(made(image, text), weighted_sum(image.pooled, text.pooled, text_weight))
    assert made.head.text_weight == pytest.approx(text_weight)


def test_fusion_and_text_weight_learn_from_the_first_step():
    made = module(trained=False).train()
    outputs, target = tower_outputs(), F.normalize(torch.ones(3, 8), dim=-1)
    optimizer = torch.optim.SGD(made.parameters(), lr=0.5)
    losses = []
    for _ in range(3):
        loss = -(made(*outputs) * target).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]
    assert made.head.project.weight.abs().sum() > 0
    assert made.head.text_weight != pytest.approx(0.5)


def test_a_gated_head_by_numpy():
    head, (f, v, t) = GatedHead(4, text_weight=0.25), torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for layer in (head.gate, head.inner, head.project):
            layer.weight.normal_(generator=torch.Generator().manual_seed(1))
        q = head(f, v, t).numpy()
    (G, c), (W, d), (P, b) = (
        (layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in (head.gate, head.inner, head.project)
    )
    for one, image, text, found in zip(f.numpy(), v.numpy(), t.numpy(), q, strict=True):
        x = np.concatenate([a / np.sqrt(np.square(a).mean()) for a in (one, image, text)])
        gate = 2 / (1 + np.exp(-(G @ x + c)))
        expected = 0.25 * text / np.linalg.norm(text) + 0.75 * gate * image / np.linalg.norm(image)
        expected += P @ np.maximum(W @ x + d, 0) + b
        np.testing.assert_allclose(found, expected / np.linalg.norm(expected), rtol=1e-4, atol=1e-5)


def test_a_closed_gate_leaves_the_text():
    head, (f, v, t) = GatedHead(4, text_weight=0.25), torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    torch.nn.init.constant_(head.gate.bias, -100.0)
    torch.testing.assert_close(head(f, v, t), F.normalize(t, dim=-1))


def test_of_a_gated_sum_the_pooled_features_alone_count():
    made, (image, text) = GatedSum(8, text_weight=0.5), tower_outputs()
    torch.nn.init.normal_(made.head.gate.weight)
    q = made(image, text)
    assert torch.equal(q, made(image._replace(tokens=-image.tokens), text._replace(tokens=0 * text.tokens)))
    assert not torch.allclose(q, made(image._replace(pooled=-image.pooled), text))


def test_without_residual_the_pooled_features_do_not_count():
    made = module(WithoutResidual)
    image, text = tower_outputs()
    q = made(image, text)
    assert torch.equal(q, made(image._replace(pooled=-image.pooled), text._replace(pooled=0 * text.pooled)))
    torch.testing.assert_close(q.norm(dim=-1), torch.ones(3))


def test_training_and_inference_agree():
    """Dropout-free; and torch's fused inference kernel gives what training computes."""
    made, outputs = module(), tower_outputs()
    with torch.no_grad():
        inference = made(*outputs)
    torch.testing.assert_close(made.train()(*outputs), inference, rtol=1e-4, atol=1e-5)


def test_scale_of_the_towers_tokens_changes_nothing():
    made = module()
    image, text = tower_outputs()
    scaled = made(ImageFeatures(9 * image.pooled, 50 * image.tokens),
                  TextFeatures(text.pooled / 3, 20 * text.tokens, text.mask))  # fmt: skip
    torch.testing.assert_close(scaled, made(image, text), rtol=1e-4, atol=1e-5)


def test_mixed_precision_merges_the_same_tokens():
    made, ((_, V), (_, T, mask)) = module(threshold=0.3, threshold_is="absolute"), tower_outputs()
    expected = made.fuse(V, T, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = made.fuse(V, T, mask)
    assert torch.equal(mixed.mask, expected.mask)
    torch.testing.assert_close(mixed.tokens, expected.tokens)


def test_a_merged_token_carries_both_positions():
    """With contents of zero in both towers only positions are left in the fused sequence."""
    made = module(trained=False, threshold=0.0, threshold_is="quantile")
    V, T, mask = torch.zeros(1, 5, 8), torch.zeros(1, 6, 8), torch.ones(1, 6)
    fused = made.fuse(V, T, mask)
    weights = merge_weights(fused.match, 5)
    expected = weights[0, :, :1] * made.visual_position + weights[0, :, 1:] @ made.text_position
    torch.testing.assert_close(fused.tokens[0, :5], expected)


def test_packing_keeps_the_valid_tokens_in_order():
    tokens = torch.arange(10.0).view(2, 5, 1)
    mask = torch.tensor([[True, False, True, False, True], [False, False, False, True, False]])
    packed, valid = atf.pack(tokens, mask)
    assert packed[..., 0][valid].tolist() == [0, 2, 4, 8]
    assert valid.tolist() == [[True, True, True], [True, False, False]]


def test_a_query_is_the_same_with_and_without_packing(monkeypatch):
    made, inputs = module(), tower_outputs()
    one = made(*inputs)
    monkeypatch.setattr(atf, "pack", lambda tokens, mask: (tokens, mask))
    torch.testing.assert_close(made(*inputs), one)
