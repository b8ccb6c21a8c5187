from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tmcir_lite.data.datasets import Split
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.evaluation import ranking
from tmcir_lite.evaluation.protocols import evaluate_split
from tmcir_lite.evaluation.ranking import recall, subset_ranks, target_ranks, top
from tmcir_lite.io.files import InputError

quickly = settings(max_examples=30)


def directions(*degrees):
    """Unit vectors of the plane: the cosine between two falls with the angle between them."""
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float32))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


@st.composite
def retrievals(draw):
    """Queries, a gallery with many ties (whole numbers in few dimensions), targets, other images to mask, a chunk."""
    Q, G, D = draw(st.integers(1, 7)), draw(st.integers(2, 9)), draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    signs = torch.tensor([-1.0, 1.0])  # no zero vectors, and lengths all the same, so that ties are exact
    queries = signs[torch.randint(2, (Q, D), generator=generator)]
    gallery = signs[torch.randint(2, (G, D), generator=generator)]
    target = torch.randint(G, (Q,), generator=generator)
    masked = (target + torch.randint(1, G, (Q,), generator=generator)) % G
    return queries, gallery, target, masked, draw(st.sampled_from([1, 2, 1024]))


def rank_by_sorting(query, gallery, target, masked):
    """Slow and obvious: sort the gallery, the target behind its equals, and find it."""
    images = [i for i in range(len(gallery)) if i != masked]
    scores = {i: round(float(query @ gallery[i]), 3) for i in images}
    return sorted(images, key=lambda i: (-scores[i], i == target)).index(target) + 1


@st.composite
def near_duplicates(draw):
    """Queries against galleries in which pictures stand twice, as they are or a hair (1e-7) off, in few directions.

    Directions are far apart, so that in 64 bits it is plain which scores tie (within 1e-6).
    """
    D, Q = draw(st.sampled_from([7, 64, 512])), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    different = torch.randn(4, D, generator=generator)
    which = torch.randint(4, (draw(st.integers(6, 12)),), generator=generator)
    lengths = 0.5 + 20 * torch.rand(len(which), 1, generator=generator)
    gallery = lengths * different[which] * (1 + 1e-7 * torch.randn(len(which), 1, generator=generator))
    rows = torch.stack([torch.randperm(len(which), generator=generator)[:5] for _ in range(Q)])
    return torch.randn(Q, D, generator=generator), gallery, rows


def rank_in_64_bits(query, gallery, target, images):
    """Slow and obvious: sort the images, the target behind what comes within 1e-6 of it, and find it."""
    scores = {i: F.cosine_similarity(query.double(), gallery[i].double(), dim=0).item() for i in images}
    ahead = [i for i in images if i != target and scores[i] >= scores[target] - 1e-6]
    return len(ahead) + 1


class TestRanks:
    @quickly
    @given(near_duplicates(), st.sampled_from([1, 1024]))
    def test_a_picture_that_stands_twice_counts_against_us(self, retrieval, chunk):
        queries, gallery, rows = retrieval
        target, masked = rows[:, 0], rows[:, 1]
        ranks = target_ranks(queries, gallery, target, masked, chunk)
        assert ranks.tolist() == [
            rank_in_64_bits(q, gallery, t, [i for i in range(len(gallery)) if i != m])
            for q, t, m in zip(queries, target.tolist(), masked.tolist(), strict=True)
        ]

    def test_no_rank_is_0_where_the_reference_is_the_target_but_for_rounding(self):
        generator = torch.Generator().manual_seed(0)
        queries = F.normalize(torch.randn(300, 96, generator=generator), dim=1)
        images = F.normalize(queries + 0.1 * torch.randn(300, 96, generator=generator), dim=1)
        for step in torch.linspace(1e-6, 4e-6, 40):  # the masked one lies about as far off as counts as a tie
            gallery = torch.cat([images, images - step * queries])
            ranks = target_ranks(queries, gallery, torch.arange(300), torch.arange(300, 600))
            assert ranks.tolist() == [1] * 300

    gallery = directions(0, 10, 30, 60, 180)

    def test_worked_by_hand(self):
        queries = directions(0, 0, 58)
        assert target_ranks(queries, self.gallery, torch.tensor([0, 2, 4])).tolist() == [1, 3, 5]

    def test_masking_lifts_what_is_behind_the_reference_only(self):
        queries, target = directions(0, 0), torch.tensor([2, 2])
        assert target_ranks(queries, self.gallery, target, torch.tensor([0, 3])).tolist() == [2, 3]

    @quickly
    @given(retrievals())
    def test_equals_sorting(self, retrieval):
        queries, gallery, target, masked, chunk = retrieval
        ranks = target_ranks(queries, gallery, target, None, chunk)
        assert ranks.tolist() == [
            rank_by_sorting(q, gallery, int(t), None) for q, t in zip(queries, target, strict=True)
        ]
        ranks = target_ranks(queries, gallery, target, masked, chunk)
        triples = zip(queries, target, masked, strict=True)
        assert ranks.tolist() == [rank_by_sorting(q, gallery, int(t), int(m)) for q, t, m in triples]

    def test_lengths_do_not_count(self):
        longer = self.gallery * torch.tensor([[1.0], [50.0], [1.0], [9.0], [1.0]])
        assert target_ranks(directions(0), longer, torch.tensor([0])).tolist() == [1]

    def test_features_that_are_all_equal_rank_last(self):
        same = torch.ones(5, 4)
        assert target_ranks(same[:2], same, torch.tensor([0, 3])).tolist() == [5, 5]
        assert target_ranks(same[:2], same, torch.tensor([0, 3]), torch.tensor([1, 1])).tolist() == [4, 4]

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_refuses_features_that_are_not_finite(self, bad):
        broken = self.gallery.clone()
        broken[3, 1] = bad
        with pytest.raises(InputError, match="gallery: row 3"):
            target_ranks(directions(0), broken, torch.tensor([0]))
        with pytest.raises(InputError, match="queries: row 3"):
            target_ranks(broken, self.gallery, torch.tensor([0, 1, 2, 3, 4]))

    @pytest.mark.filterwarnings("ignore:overflow")
    def test_finite_features_of_any_length_are_no_error(self):
        longest = torch.full((1, 2), torch.finfo(torch.float32).max)
        ranks = target_ranks(directions(0), torch.cat([self.gallery, longest]), torch.tensor([0]))
        assert ranks.tolist() == [1]

    def test_refuses_indices_that_cannot_be(self):
        queries = directions(0, 0)
        with pytest.raises(InputError, match="query 1: its target is masked"):
            target_ranks(queries, self.gallery, torch.tensor([0, 2]), torch.tensor([1, 2]))
        with pytest.raises(InputError, match="target_index: 5"):
            target_ranks(queries, self.gallery, torch.tensor([0, 5]))
        with pytest.raises(InputError, match="masked_index: -1"):
            target_ranks(queries, self.gallery, torch.tensor([0, 1]), torch.tensor([-1, 0]))
        with pytest.raises(InputError, match="1 entries for 2 queries"):
            target_ranks(queries, self.gallery, torch.tensor([0]))

    def test_refuses_features_of_two_models(self):
        with pytest.raises(InputError, match="2 dimensions, the gallery 3"):
            target_ranks(directions(0), torch.ones(4, 3), torch.tensor([0]))


class TestLargeGalleries:
    @quickly
    @given(retrievals(), st.integers(1, 4))
    def test_blocks_of_the_gallery_change_nothing(self, retrieval, block):
        queries, gallery, target, masked, chunk = retrieval
        k = len(gallery) - 1
        expected = target_ranks(queries, gallery, target, masked), top(queries, gallery, k, masked)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ranking, "BLOCK", block)
            assert torch.equal(target_ranks(queries, gallery, target, masked, chunk), expected[0])
            found = top(queries, gallery, k, masked, chunk)
        scores = queries @ gallery.T  # ties may come in another order
        assert torch.allclose(scores.gather(1, found), scores.gather(1, expected[1]))
        assert not (found == masked[:, None]).any()

    def test_a_gallery_on_disk_is_ranked_without_being_read_at_once(self, tmp_path, monkeypatch):
        numbers = np.random.default_rng(0)
        file = np.lib.format.open_memmap(tmp_path / "g.npy", mode="w+", dtype=np.float32, shape=(5000, 8))
        file[:] = numbers.standard_normal((5000, 8))
        queries = torch.from_numpy(numbers.standard_normal((3, 8)).astype(np.float32))
        monkeypatch.setattr(ranking, "BLOCK", 512)
        on_disk = torch.from_numpy(np.load(tmp_path / "g.npy", mmap_mode="c"))
        target = torch.tensor([7, 4000, 4999])
        assert torch.equal(target_ranks(queries, on_disk, target), target_ranks(queries, on_disk.clone(), target))


class TestSubsetRanks:
    gallery = directions(0, 10, 30, 60, 180, 5)

    def test_only_the_subset_counts(self):
        """Images 0 and 5 are nearer to the query than the target, but not in the subset."""
        ranks = subset_ranks(directions(0, 0), self.gallery, torch.tensor([2, 3]), torch.tensor([[2, 3, 4], [1, 3, 2]]))
        assert ranks.tolist() == [1, 3]

    @quickly
    @given(retrievals())
    def test_equals_ranking_in_a_gallery_of_the_subset(self, retrieval):
        queries, gallery, target, other, chunk = retrieval
        subset = torch.stack([other, target], dim=1)
        expected = [
            target_ranks(queries[i : i + 1], gallery[subset[i]], torch.tensor([1])).item() for i in range(len(queries))
        ]
        assert subset_ranks(queries, gallery, target, subset, chunk).tolist() == expected

    @quickly
    @given(near_duplicates(), st.sampled_from([1, 1024]))
    def test_a_picture_that_stands_twice_counts_against_us(self, retrieval, chunk):
        queries, gallery, subset = retrieval
        ranks = subset_ranks(queries, gallery, subset[:, 0], subset, chunk)
        assert ranks.tolist() == [
            rank_in_64_bits(q, gallery, rows[0], rows) for q, rows in zip(queries, subset.tolist(), strict=True)
        ]

    @pytest.mark.parametrize("subset", [[1, 3, 4], [2, 2, 4]])
    def test_refuses_a_subset_without_exactly_one_target(self, subset):
        with pytest.raises(InputError, match="query 0"):
            subset_ranks(directions(0), self.gallery, torch.tensor([2]), torch.tensor([subset]))


class TestTop:
    gallery = directions(0, 10, 30, 60, 180)

    def test_best_first_without_the_masked(self):
        assert top(directions(9, 200), self.gallery, 3).tolist() == [[1, 0, 2], [4, 3, 0]]
        assert top(directions(9, 200), self.gallery, 3, torch.tensor([1, 3]), chunk=1).tolist() == [
            [0, 2, 3],
            [4, 0, 2],
        ]

    @quickly
    @given(retrievals())
    def test_agrees_with_the_rank_where_there_are_no_ties(self, retrieval):
        queries, gallery, target, masked, chunk = retrieval
        generator = torch.Generator().manual_seed(0)
        gallery = torch.randn(gallery.shape[0], 8, generator=generator)
        queries = torch.randn(len(queries), 8, generator=generator)
        shown = top(queries, gallery, len(gallery) - 1, masked, chunk)
        ranks = target_ranks(queries, gallery, target, masked, chunk)
        assert torch.equal(shown[torch.arange(len(queries)), ranks - 1], target)
        assert not (shown == masked[:, None]).any()

    def test_refuses_more_than_there_is(self):
        with pytest.raises(InputError, match="only 4"):
            top(directions(0), self.gallery, 5, torch.tensor([0]))


def test_recall():
    ranks = torch.tensor([1, 2, 10, 11])
    assert [recall(ranks, k) for k in (1, 2, 10, 50)] == [25, 50, 75, 100]
    with pytest.raises(InputError, match="at least one"):
        recall(torch.tensor([], dtype=torch.long), 10)


def fashioniq():
    """Two dresses queries, one shirt query; the dress gallery holds an image that no triplet names."""
    triplets = [
        Triplet("dress-val-0", "d0", "d1", ("a",), "dress"),
        Triplet("shirt-val-0", "s0", "s1", ("a",), "shirt"),
        Triplet("dress-val-1", "d1", "d2", ("a",), "dress"),
    ]
    galleries = {"dress": ["d0", "d1", "d2", "d3"], "shirt": ["s0", "s1"]}
    return Split("fashioniq", "val", Path("here"), triplets, galleries, {})


NAMES = ["s1", "d3", "d0", "d1", "d2", "s0"]
FEATURES = directions(90, 2, 0, 20, 50, 85)
QUERIES = directions(0, 85, 20)  # each query is its reference image


class TestEvaluateSplit:
    def evaluate(self, split=None, queries=QUERIES, names=NAMES, features=FEATURES, protocols=("original",)):
        return evaluate_split(queries, names, features, split or fashioniq(), protocols, [1, 2, 3], chunk=1)

    def test_fashioniq_worked_by_hand(self):
        """Ranks of the dress targets: with d0, d3 before d1 they are 3 and, with d1, d3, d0 before d2, 4."""
        table = self.evaluate(protocols=["original", "original-masked", "val-union"])
        assert list(table.columns) == ["layout", "protocol", "category", "queries", "gallery", "R@1", "R@2", "R@3"]
        recalls = table.set_index(["protocol", "category"])[["R@1", "R@2", "R@3"]]
        assert recalls.loc[("original", "dress")].tolist() == [0, 0, 50]
        assert recalls.loc[("original-masked", "dress")].tolist() == [0, 50, 100]
        assert recalls.loc[("val-union", "dress")].tolist() == [50, 100, 100]
        assert recalls.loc[("original", "shirt")].tolist() == [0, 100, 100]
        assert recalls.loc[("original-masked", "shirt")].tolist() == [100, 100, 100]
        sizes = table.set_index(["protocol", "category"])[["queries", "gallery"]]
        assert sizes.loc[("original", "dress")].tolist() == [2, 4]
        assert sizes.loc[("val-union", "dress")].tolist() == [2, 3]

    def test_a_protocol_named_twice_is_measured_once(self):
        assert len(self.evaluate(protocols=["original", "original"])) == len(self.evaluate())

    def test_mean_counts_categories_not_queries(self):
        mean = self.evaluate().query("category == 'mean'").iloc[0]
        assert mean["R@2"] == 50  # dress 0, shirt 100; over queries it would be 33.3
        assert (mean["queries"], mean["gallery"]) == (3, 6)

    def test_cirr_adds_subset_recall(self):
        members = ("a", "b", "c", "d", "e", "f")
        triplets = [Triplet("7", "a", "c", ("x",), "all", members), Triplet("9", "b", "f", ("x",), "all", members)]
        split = Split("cirr", "val", Path("here"), triplets, {"all": [*members, "g"]}, {})
        features = directions(0, 10, 20, 30, 40, 50, 15)
        table = self.evaluate(split, directions(20, 10), [*members, "g"], features, ["cirr"])
        row = table.query("category == 'all'").iloc[0]
        assert [row["R@1"], row["Rs@1"], row["Rs@2"], row["Rs@3"]] == [50, 50, 50, 50]
        assert table.query("category == 'mean'").iloc[0]["Rs@1"] == 50

    def test_refuses_rows_that_do_not_fit(self):
        with pytest.raises(InputError, match="2 query features for 3 triplets"):
            self.evaluate(queries=QUERIES[:2])
        with pytest.raises(InputError, match="6 gallery features for 5 names"):
            self.evaluate(names=NAMES[:5])
        with pytest.raises(InputError, match="'s0' is not in the gallery features"):
            self.evaluate(names=NAMES[:5], features=FEATURES[:5])
        with pytest.raises(InputError, match="'s1' stands twice"):
            self.evaluate(names=[*NAMES[:5], "s1"])

    def test_refuses_a_query_without_its_one_target(self):
        split = fashioniq()
        split.galleries["dress"].remove("d2")
        with pytest.raises(InputError, match="'d2' is not in the gallery"):
            self.evaluate(split)
        split.galleries["dress"] += ["d2", "d2"]
        with pytest.raises(InputError, match="'d2' stands twice"):
            self.evaluate(split)
        split = fashioniq()
        split.triplets[0] = Triplet("dress-val-0", "d0", None, ("a",), "dress")
        with pytest.raises(InputError, match="dress-val-0"):
            self.evaluate(split)

    def test_refuses_subsets_of_different_sizes_and_empty_categories(self):
        triplets = [
            Triplet("7", "a", "b", ("x",), "all", ("a", "b", "c")),
            Triplet("9", "b", "c", ("x",), "all", ("b", "c")),
        ]
        split = Split("cirr", "val", Path("here"), triplets, {"all": ["a", "b", "c"]}, {})
        with pytest.raises(InputError, match="triplet 9"):
            self.evaluate(split, directions(0, 1), ["a", "b", "c"], directions(0, 1, 2), ["cirr"])
        split = fashioniq()
        split.galleries["toptee"] = ["d0"]
        with pytest.raises(InputError, match="toptee"):
            self.evaluate(split)
