"""What the notebooks show of training, on the tiny run and by hand."""

import pytest
import torch
from PIL import Image

from tmcir_lite.evaluation.features import joined
from tmcir_lite.figures import alignment, plots, tokens
from tmcir_lite.method.atf import Match
from tmcir_lite.method.model import Composed
from tmcir_lite.run.data import prepare_data
from tmcir_lite.run.models import load_start, token_fusion


@pytest.fixture(scope="module")
def data(cfg):
    return prepare_data(cfg)


@pytest.fixture(scope="module")
def start(cfg):
    return load_start(cfg)


def test_pairs_are_of_triplets_kept_aside(cfg, data):
    triplets, pictures = alignment.heldout_pairs(cfg, data, 3)
    held = {triplet.id for triplet in data.held}
    assert len(triplets) == 3
    assert [picture.name for picture in pictures] == [f"{t.id}.png" for t in triplets]
    assert {t.id for t in triplets} <= held


def test_a_pair_of_real_pictures_has_the_targets_cosine(cfg, data, start):
    triplets = data.held[:4]
    targets = [data.train.images[t.target_name] for t in triplets]
    row = alignment.text_cosines(cfg, data, start, triplets, targets)
    S = alignment.pair_similarity(cfg, start, triplets, targets)
    assert row["paired picture, its text"] == pytest.approx(row["target, text"])
    assert row["paired picture, another's text"] == pytest.approx(((S.sum() - S.trace()) / 12).item(), abs=1e-6)
    nearest = [max(S[i, j].item() for j in range(4) if j != i) for i in range(4)]
    assert row["paired picture, its nearest other text"] == pytest.approx(sum(nearest) / 4, abs=1e-6)


def test_token_similarity_has_a_row_a_patch_and_a_column_a_word(cfg, data, start):
    triplet = data.val.triplets[0]
    S = tokens.token_similarity(cfg, start, triplet, data.val)
    (text,) = joined([triplet], cfg.data.val_captions)
    assert S.shape == (16, len(start.words(text)))
    plots.similarity_maps({"one": S, "two": S}, start.words(text))


@pytest.mark.parametrize(("threshold", "share"), [(0.0, 1), (2.0, 0)])
def test_before_training_the_query_is_the_sum_whatever_merges(cfg, data, start, threshold, share):
    model = Composed(start, token_fusion(cfg, threshold)(start))
    facts = tokens.fusion_facts(cfg, model, data.val.triplets[:5], data.val)
    assert facts["cosine with the sum"].tolist() == pytest.approx([1] * 5)
    assert facts["merged"].tolist() == (share * facts["words"]).tolist()
    assert (facts["patches"] <= facts["merged"]).all()
    assert (facts["patches"] > 0).all() == bool(share)


@pytest.mark.parametrize("threshold", [0.5, 2.0])
def test_what_merges_is_what_the_fusion_merges(cfg, data, start, threshold):
    model, triplets = Composed(start, token_fusion(cfg)(start)), data.val.triplets[:5]
    matched = tokens.match_queries(cfg, model, triplets, data.val, threshold)
    model.fusion.threshold = threshold
    fused = model.fusion.fuse(*(outputs.tokens for outputs in encoded(cfg, data, start)), matched.text_mask)
    assert torch.equal(matched.merged, fused.match.merged)
    assert torch.equal(matched.index, fused.match.index)


def encoded(cfg, data, start):
    return tokens.encode(cfg, start, data.val.triplets[:5], data.val)


def test_merged_words_are_all_words_each_of_a_kind(cfg, data, start):
    model, triplets = Composed(start, token_fusion(cfg, 0.0)(start)), data.val.triplets[:5]
    said = tokens.merged_words(cfg, model, triplets, data.val)
    texts = joined(triplets, cfg.data.val_captions)
    assert said["word"].tolist() == [word for text in texts for word in start.words(text)]
    assert said["merged"].all()
    assert (said["kind"] == "end token").sum() == 5
    kinds = said.set_index("word")["kind"].to_dict()
    assert kinds.get("and", "stop word") == "stop word"
    assert "content word" in kinds.values()


def test_merge_map_numbers_patches_and_names_their_words():
    """The fourth slot is padding; "is" is kept, "red" goes to patch 2, "dress" and "now" to patch 0."""
    match = Match(
        index=torch.tensor([[2, 1, 0, 3, 0]]),
        score=torch.zeros(1, 5),
        merged=torch.tensor([[True, False, True, False, True]]),
        text_mask=torch.tensor([[True, True, True, False, True]]),
    )
    figure = plots.merge_maps([Image.new("RGB", (4, 4))], (2, 2), match, [["red", "is", "dress", "now"]])
    first, second, legend = (text.get_text() for text in figure.axes[0].texts)
    assert (first, second) == ("1", "2")
    assert legend == "1: dress, now\n2: red\nkept: is"
