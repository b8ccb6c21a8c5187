"""The tour on the models of a tiny run: what it finds, what it says to input that it cannot use, and its notebook."""

import re
from datetime import datetime

import nbformat
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from tmcir_lite import __main__
from tmcir_lite.config import load_config
from tmcir_lite.course import shipped, tour
from tmcir_lite.data.pictures import load_image
from tmcir_lite.evaluation.features import encode_images, encode_texts
from tmcir_lite.evaluation.ranking import recall
from tmcir_lite.io.files import InputError
from tmcir_lite.run import notebooks

WISH = "is red with long sleeves"


@pytest.fixture(scope="module")
def kept(cfg, tmp_path_factory):
    return shipped.keep_models(cfg.run_dir, tmp_path_factory.mktemp("models") / "trained")


@pytest.fixture(scope="module")
def changes(cfg, tiny, tmp_path_factory):
    """The tiny run's world in place of the tour's, and the models restored elsewhere."""
    world = [f"garments.{key}={getattr(cfg.garments, key)}" for key in ("seed", "family")]
    return [*tiny, *world, f"runs={tmp_path_factory.mktemp('tour')}", "name=trained"]


@pytest.fixture(autouse=True)
def ships_the_tiny_models(kept, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", kept)


@pytest.fixture
def here(changes):
    return tour.open_tour("lite", changes)


@pytest.fixture
def photo(tmp_path):
    """A picture lying on its side, as cameras store them: it says that it is to be turned."""
    lying = Image.new("RGB", (60, 40), "red")
    lying.paste("blue", (0, 0, 30, 40))
    exif = lying.getexif()
    exif[0x0112] = 6
    lying.save(tmp_path / "me.jpg", exif=exif, quality=95)
    return tmp_path / "me.jpg"


@pytest.mark.parametrize("method", ["image only", "text only", "weighted sum", "CLIP4Cir", "TMCIR"])
def test_a_ranking_is_a_sort_by_cosine_without_the_reference(here, method):
    reference = here.names[3]
    encoders = here.ways[method].encoders
    image = encode_images(encoders, [here.split.images[reference]])
    text = encode_texts(encoders, [WISH])
    with torch.no_grad():
        query = {
            "image only": lambda: image,
            "text only": lambda: text,
            "weighted sum": lambda: (
                here.text_weight * F.normalize(text, dim=1) + (1 - here.text_weight) * F.normalize(image, dim=1)
            ),
        }.get(method, lambda: here.ways[method].query.query(
            encoders.load([here.split.images[reference]]), encoders.tokenize([WISH])
        ))()  # fmt: skip
    gallery = encode_images(encoders, [here.split.images[name] for name in here.names])
    cosines = F.cosine_similarity(query, gallery)
    expected = [name for _, name in sorted(zip((-cosines).tolist(), here.names, strict=True)) if name != reference]
    found = here.rank(reference, WISH, method, k=5)
    assert found == expected[:5]


def test_the_table_counts_all_queries_of_the_tour(here):
    table = here.table()
    assert list(table.index) == ["image only", "text only", "weighted sum", "CLIP4Cir", "TMCIR"]
    ranks = here.find(here.split.triplets)["TMCIR"].ranks
    assert len(ranks) == len(here.split.triplets) == 9
    assert table.loc["TMCIR", "R@10"] == recall(ranks, 10)
    assert table.to_numpy().min() >= 0
    assert table.to_numpy().max() <= 100


def test_words_are_counted_as_often_as_they_are_asked_and_merge(here):
    counts = here.merged_words()
    match, words = here.match(here.split.triplets, here.split.images)
    assert counts["asked"].sum() == sum(map(len, words)) == int(match.text_mask.sum())
    assert counts["merged"].sum() == int(match.merged.sum()) > 0
    assert (counts["merged"] <= counts["asked"]).all()


def test_a_photo_is_asked_with_as_people_see_it(here, photo):
    seen = tour.upright(photo, here.cfg.run_dir.parent / "yours")
    assert load_image(seen).size == (40, 60)
    standing = photo.with_name("standing.png")
    load_image(seen).save(standing)
    assert here.rank(photo, WISH) == here.rank(standing, WISH)


def test_an_answer_shows_the_asked_picture_both_methods_and_what_merged(here, photo):
    ranking, merged = here.answer(photo, WISH, k=3)
    assert [axis.get_ylabel() for axis in ranking.axes if axis.get_ylabel()] == ["CLIP4Cir", "TMCIR"]
    assert sum(len(axis.images) for axis in ranking.axes) == 1 + 2 * 3
    (said,) = [text.get_text() for text in merged.axes[0].texts if "kept:" in text.get_text()]
    assert set(WISH.split()) <= set(re.findall(r"\w+", said))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"text": "?!"}, "the text is empty"),
        ({"text": "red " * 40}, "shorten it"),
        ({"method": "BLIP"}, "method 'BLIP': unknown; known: image only, "),
        ({"picture": "absent.png"}, "absent.png: no such file"),
        ({"k": 10_000}, "top 10000"),
    ],
)
def test_input_that_cannot_be_used_is_one_line(here, asked, message):
    with pytest.raises(InputError, match=re.escape(message)) as error:
        here.rank(**{"picture": here.names[0], "text": WISH, **asked})
    assert "\n" not in str(error.value)


def test_other_encoders_than_those_of_the_models_are_refused(changes):
    with pytest.raises(InputError, match="the tour's models were trained on"):
        tour.open_tour("lite", [*changes, "backbone.name=local-dir:data/models/clip"])


@pytest.mark.parametrize("version", [7, 8])
def test_an_upload_is_read_from_both_forms_of_the_widget(version, photo, tmp_path):
    content = photo.read_bytes()
    value = {"me.jpg": {"content": content}} if version == 7 else ({"name": "me.jpg", "content": memoryview(content)},)
    assert load_image(tour.uploaded(value, tmp_path)).size == (40, 60)


def test_an_upload_that_is_no_picture_is_said(tmp_path):
    with pytest.raises(InputError, match="cannot be decoded as a picture"):
        tour.uploaded(({"content": b"no picture"},), tmp_path)


def test_the_box_ranks_what_is_chosen_or_uploaded(here, photo, monkeypatch):
    shown = []
    monkeypatch.setattr(tour, "display", lambda *things: shown.extend(things))
    choice, upload, words, button, _ = tour.explore(here, here.names[:3], WISH).children
    button.click()
    assert len(shown) == 2
    upload.value = ({"name": "me.jpg", "type": "image/jpeg", "size": 1, "content": memoryview(photo.read_bytes()),
                     "last_modified": datetime.now()},)  # fmt: skip
    assert choice.label == "yours, 1"
    words.value = "?!"
    button.click()  # says so, and raises nothing


@pytest.mark.parametrize("solved", [False, True])
def test_the_notebook_runs_and_its_solutions_are_right(solved, changes, here, capsys):
    shown = []
    names = {"display": lambda *things: shown.extend(things)}
    cells = nbformat.read(notebooks.FOLDER / f"{notebooks.TOUR}.ipynb", as_version=4).cells
    for cell, after in zip(cells, [*cells[1:], None], strict=True):
        if "parameters" in cell.metadata.get("tags", []):
            names |= {"profile": "lite", "overrides": changes}
        elif cell.cell_type == "code":
            lines = [line for line in cell.source.splitlines() if not line.startswith("%")]
            if solved and "exercise" in cell.metadata.get("tags", []):
                solution = re.search(r"```python\n(.*?)```", after.source, re.DOTALL).group(1)
                lines[lines.index("answer = ...")] = solution
            exec(compile("\n".join(lines), cell.id, "exec"), names)
    said = capsys.readouterr().out.splitlines()
    assert said.count("right") == (3 if solved else 0)
    assert said.count("not answered yet") == (0 if solved else 3)
    assert len(shown) == 2  # of the reader's own query


def test_the_tour_is_made_of_the_models_just_kept(monkeypatch):
    done = []
    monkeypatch.setattr(notebooks, "refresh", lambda names=notebooks.NOTEBOOKS: done.append(tuple(names)))
    monkeypatch.setattr(notebooks, "keep_results", lambda run: done.append("results"))
    monkeypatch.setattr(shipped, "keep_models", lambda run: done.append(f"models of {run.name}"))
    assert __main__.main(["notebooks"]) == 0
    assert done == [notebooks.NOTEBOOKS, "results", f"models of {load_config('lite').name}", (notebooks.TOUR,)]
