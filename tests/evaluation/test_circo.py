"""CIRCO: several right answers a query, mean average precision, and the server's file."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tmcir_lite.__main__ import main
from tmcir_lite.evaluation.circo import average_precision, check_submission, load_circo, mean_average_precision
from tmcir_lite.io.files import InputError

COUNT = 60


@pytest.fixture
def folder(tmp_path):
    coco = tmp_path / "COCO2017_unlabeled"
    (coco / "unlabeled2017").mkdir(parents=True)
    (coco / "annotations").mkdir()
    (tmp_path / "annotations").mkdir()
    info = [{"id": 100 + n, "file_name": f"{100 + n:012}.jpg"} for n in range(COUNT)]
    for number, entry in enumerate(info):
        Image.new("RGB", (40, 30), (4 * number, 90, 200 - 3 * number)).save(coco / "unlabeled2017" / entry["file_name"])
    (coco / "annotations" / "image_info_unlabeled2017.json").write_text(json.dumps({"images": info}))
    for split in ("val", "test"):
        records = [{"reference_img_id": 100 + n, "relative_caption": f"is {n}", "shared_concept": "x", "id": n}
                   for n in range(3)]  # fmt: skip
        if split == "val":
            records = [r | {"target_img_id": 110, "gt_img_ids": [110, 111 + n]} for n, r in enumerate(records)]
        (tmp_path / "annotations" / f"{split}.json").write_text(json.dumps(records))
    return tmp_path


def test_average_precision_by_hand():
    ranking = ["a", "x", "b", "y", "c"]
    assert average_precision(ranking, ["a", "b", "c"], 5) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert average_precision(ranking, ["a", "b", "c"], 2) == pytest.approx(1 / 2)  # only two could be found
    assert average_precision(ranking, ["z"], 5) == 0
    assert average_precision(ranking, ["b"], 5) == pytest.approx(1 / 3)


@given(st.lists(st.integers(0, 9), max_size=60), st.lists(st.integers(0, 9), min_size=1), st.integers(1, 50))
def test_no_ranking_is_better_than_perfect_whatever_stands_twice(ranking, targets, k):
    found = average_precision(ranking, targets, k)
    assert 0 <= found <= 1
    assert found == average_precision(ranking, list(set(targets)), k)


def test_what_stands_twice_counts_once():
    assert average_precision(["a", "a"], ["a"], 5) == 1
    assert average_precision(["a", "a", "b"], ["a", "b"], 5) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(["a", "b"], ["a", "a", "b"], 5) == 1


def test_the_mean_is_in_percent():
    scores = mean_average_precision([["a", "b"], ["x", "a"]], [["a"], ["a"]])
    assert scores == {f"mAP@{k}": pytest.approx(75.0) for k in (5, 10, 25, 50)}


def test_is_read_as_written(folder):
    val, test = load_circo(folder, "val"), load_circo(folder, "test")
    assert [triplet.reference_name for triplet in val.triplets] == ["100", "101", "102"]
    assert val.targets == [("110", "111"), ("110", "112"), ("110", "113")]
    assert test.targets == [(), (), ()]
    assert len(val.images) == COUNT


def test_ids_with_leading_zeros_are_the_same_ids(folder):
    path = folder / "COCO2017_unlabeled" / "annotations" / "image_info_unlabeled2017.json"
    images = json.loads(path.read_text())["images"]
    path.write_text(json.dumps({"images": [entry | {"id": f"{entry['id']:012}"} for entry in images]}))
    assert load_circo(folder, "val").targets[0] == ("110", "111")


def test_the_command_leaves_scores_and_the_servers_file(folder, cfg, capsys):
    assert main(["circo", "--run", str(cfg.run_dir), "--root", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "mAP@50" in printed
    assert "the relative caption alone" in printed
    written = json.loads((cfg.run_dir / "evaluation" / "circo" / "submission.json").read_text())
    assert list(written) == ["0", "1", "2"]
    assert all(len(set(ids)) == 50 and all(isinstance(i, int) for i in ids) for ids in written.values())


def test_bad_input_is_named(folder):
    queries = load_circo(folder, "test")
    good = {triplet.id: list(range(100, 150)) for triplet in queries.triplets}
    for change, words in (
        ({"7": good["0"]}, "query 7 is missing or unknown"),
        ({"1": [100] * 50}, "query 1: 1 different ids; CIRCO wants 50"),
        ({"2": [*range(100, 149), 999]}, "query 2: 999 is not in the gallery"),
    ):
        with pytest.raises(InputError, match=words):
            check_submission(good | change, queries)
    path = folder / "annotations" / "val.json"
    records = json.loads(path.read_text())
    path.write_text(json.dumps([records[0] | {"gt_img_ids": [5]}]))
    with pytest.raises(InputError, match="record 0: picture 5 is not in the gallery"):
        load_circo(folder, "val")
    for record, words in (
        ([*records, records[1]], "record 3: query 1 stands twice"),
        ([records[0] | {"gt_img_ids": []}], "record 0: query 0 has no right answer"),
        ([records[0] | {"gt_img_ids": None}], "record 0: not as CIRCO writes it"),
        (["x"], "record 0: not as CIRCO writes it"),
        ([records[0] | {"gt_img_ids": "110"}], "record 0: not as CIRCO writes it"),
        ([records[0] | {"relative_caption": None}], "record 0: not as CIRCO writes it"),
        ([records[0] | {"id": None}], "record 0: not as CIRCO writes it"),
        ({"images": []}, "not a list of queries"),
        ([], "not a list of queries"),
    ):
        path.write_text(json.dumps(record))
        with pytest.raises(InputError, match=words):
            load_circo(folder, "val")
    path.write_text(json.dumps([records[0] | {"gt_img_ids": [110, 110]}]))
    assert load_circo(folder, "val").targets == [("110",)]
    path.write_text(json.dumps([{"id": 1}]))
    with pytest.raises(InputError, match="record 0: no key 'reference_img_id'"):
        load_circo(folder, "val")
    gallery = folder / "COCO2017_unlabeled" / "annotations" / "image_info_unlabeled2017.json"
    info = json.loads(gallery.read_text())
    for content, words in (
        ({"images": info["images"] * 2}, "picture 100 stands twice"),
        ([], "no list of images"),
        ({"images": [{"id": "x", "file_name": "x.jpg"}]}, "no list of images"),
        ({"images": [entry | {"file_name": f"a/{entry['file_name']}"} for entry in info["images"]]}, "60 of 60"),
    ):
        gallery.write_text(json.dumps(content))
        with pytest.raises(InputError, match=words):
            load_circo(folder, "val")
    gallery.write_text(json.dumps(info))
    next((folder / "COCO2017_unlabeled" / "unlabeled2017").iterdir()).unlink()
    with pytest.raises(InputError, match="1 of 60 pictures are missing"):
        load_circo(folder, "val")
