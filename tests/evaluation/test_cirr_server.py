"""CIRR submissions: what is written is what the server takes, and nothing else is."""

import json
from pathlib import Path

import pytest
import torch

from tmcir_lite.data.datasets import Split, load_split
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.evaluation.cirr_server import check_cirr, write_cirr
from tmcir_lite.io.files import ROOT, InputError

NAMES = [f"img{i}" for i in range(60)]
TRIPLETS = [
    Triplet(str(100 + q), NAMES[6 * q], None, ("is red",), "all", tuple(NAMES[6 * q : 6 * q + 6])) for q in range(10)
]
SPLIT = Split("cirr", "test1", Path("here"), TRIPLETS, {"all": NAMES}, {})


@pytest.fixture(scope="module")
def features():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(10, 8, generator=generator), torch.randn(60, 8, generator=generator)


@pytest.fixture
def files(features, tmp_path):
    queries, gallery = features
    return [json.loads(path.read_text()) for path in write_cirr(SPLIT, queries, NAMES, gallery, tmp_path)]


def test_two_flat_dictionaries_with_every_query(files):
    assert [(f.pop("version"), f.pop("metric")) for f in files] == [("rc2", "recall"), ("rc2", "recall_subset")]
    assert [set(f) for f in files] == [{t.id for t in TRIPLETS}] * 2
    assert {len(names) for names in files[0].values()} == {50}
    assert {len(names) for names in files[1].values()} == {3}


def test_rankings_are_those_of_a_plain_sort(files, features):
    queries, gallery = (torch.nn.functional.normalize(x, dim=1) for x in features)
    for query, triplet in zip(queries, TRIPLETS, strict=True):
        order = [NAMES[i] for i in (gallery @ query).argsort(descending=True).tolist()]
        others = [name for name in order if name != triplet.reference_name]
        assert files[0][triplet.id] == others[:50]
        assert files[1][triplet.id] == [name for name in others if name in triplet.group_members][:3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.pop("103"), "query 103 is missing"),
        (lambda f: f.update({"999": f["103"]}), "query 999 is unknown"),
        (lambda f: f["103"].pop(), "query 103, recall: 49 different names"),
        (lambda f: f["103"].__setitem__(0, f["103"][1]), "query 103, recall: 49 different names"),
        (lambda f: f["103"].__setitem__(0, "img18"), "its own reference 'img18'"),
        (lambda f: f["103"].__setitem__(0, "img99"), "'img99' is not in what is ranked"),
        (lambda f: f.update(version="rc1"), "version 'rc1'"),
        (lambda f: f.update(metric="recall@1"), "metric 'recall@1'"),
    ],
)
def test_what_the_server_would_refuse_is_refused_here(files, change, message):
    change(files[0])
    with pytest.raises(InputError, match=message):
        check_cirr(json.dumps(files[0]), SPLIT)


def test_nothing_is_written_for_another_dataset_or_other_queries(features, tmp_path):
    queries, gallery = features
    with pytest.raises(InputError, match="9 query features for 10 queries"):
        write_cirr(SPLIT, queries[:9], NAMES, gallery, tmp_path)
    with pytest.raises(InputError, match="layout fashioniq"):
        write_cirr(Split("fashioniq", "test", Path("x"), [], {}, {}), queries, NAMES, gallery, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_real_test_split_fits_the_servers_size(tmp_path):
    root = ROOT.parent / "shared" / "data" / "cirr"
    if not root.is_dir():
        pytest.skip("the real annotation is not here")
    split = load_split(root, "cirr", "test1", images=False)
    names = split.galleries["all"]
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(len(split.triplets), 4, generator=generator)
    paths = write_cirr(split, queries, names, torch.randn(len(names), 4, generator=generator), tmp_path)
    assert [len(json.loads(path.read_text())) for path in paths] == [4150, 4150]
