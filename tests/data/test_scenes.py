"""The world of scenes: deterministic, well-posed, disjoint from pretraining, in CIRR's layout."""

import collections
import dataclasses
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmcir_lite.data.datasets import load_split
from tmcir_lite.data.scenes import (
    HELD_OUT,
    KINDS,
    LOOKS,
    SLOTS,
    Scene,
    SceneWorld,
    Thing,
    build_scenes,
    describe_scene,
    draw_scene,
    edit_between,
    mention,
    possible_edits,
    read_edits,
    read_scenes,
    refers,
    request,
    sample_backdrop,
    sample_edit,
    sample_scene,
    sample_twin,
)
from tmcir_lite.data.scenes.wording import PLACE_WORDS, WORDS, relation
from tmcir_lite.io.files import InputError

WORLD = SceneWorld(seed=3, train=90, val=41)
SEEDS = st.integers(0, 10_000)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes") / "world"
    build_scenes(WORLD, root)
    return root


@pytest.fixture(scope="module")
def known(root):
    return {name: shot.scene for name, shot in read_scenes(root).items()}


def scene_of(*things):
    return Scene(tuple(Thing(*thing) for thing in things))


THREE = scene_of(("cross", "blue", "small", 8), ("circle", "red", "large", 0), ("circle", "red", "small", 4))


def slow_refers(scene, named):
    found = []
    for thing in scene.things:
        fits = True
        for name in named:
            if dataclasses.asdict(thing)[name] != named[name]:
                fits = False
        if fits:
            found.append(thing)
    return tuple(found)


def words_in(text):
    """(kind of word, value) of all that a text says, by the word tables; the longest names of places first."""
    found = []
    for place in sorted({w for words in PLACE_WORDS for w in words}, key=len, reverse=True):
        if re.search(rf"\b{place}\b", text):
            found.append(("place", next(n for n, words in enumerate(PLACE_WORDS) if place in words)))
            text = re.sub(rf"\b{place}\b", "", text)
    for look, values in LOOKS.items():
        found += [(look, v) for v in values for w in WORDS[v] for _ in re.findall(rf"\b{w}\b", text)]
    return collections.Counter(found)


def test_same_seed_same_bytes(root, tmp_path):
    again = tmp_path / "again"
    build_scenes(WORLD, again)
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((root / file).read_bytes() == (again / file).read_bytes() for file in files)


def test_val_is_the_same_however_large_train_is(root, tmp_path):
    build_scenes(dataclasses.replace(WORLD, train=8), tmp_path / "small")
    val = [Path("captions/cap.rc2.val.json"), *(path.relative_to(root) for path in root.glob("images/dev/*"))]
    assert len(val) > 100
    assert all((root / file).read_bytes() == (tmp_path / "small" / file).read_bytes() for file in val)


@pytest.mark.parametrize(("name", "count", "pairs"), [("train", 90, 4), ("val", 41, 2)])
def test_the_layout_loads(root, known, name, count, pairs):
    split = load_split(root, "cirr", name)
    assert len(split.triplets) == count
    gallery = [known[image] for image in split.galleries["all"]]
    assert len(gallery) == 6 * -(-count // pairs) == len(set(gallery))
    assert not any(scene.pretraining for scene in gallery)
    groups = collections.defaultdict(list)
    for triplet in split.triplets:
        groups[triplet.group_members].append(triplet)
    for triplets in groups.values():
        references = collections.Counter(triplet.reference_name for triplet in triplets)
        assert references.most_common(1)[0][1] >= len(triplets) - len(triplets) // 4
        assert len({(t.reference_name, t.target_name) for t in triplets}) == len(triplets) <= pairs


def test_no_scene_is_shown_twice_and_held_out_pairs_only_in_val(root, known):
    assert len(set(known.values())) == len(known)
    shown = {split: {(thing.colour, thing.shape) for name in load_split(root, "cirr", split).galleries["all"]
                     for thing in known[name].things} for split in ("train", "val")}  # fmt: skip
    assert not shown["train"] & set(HELD_OUT)
    assert len(shown["train"]) > 20
    assert shown["val"] >= set(HELD_OUT)


@pytest.mark.parametrize("name", ["train", "val"])
def test_queries_are_well_posed(root, known, name):
    edits = read_edits(root)
    for triplet in load_split(root, "cirr", name).triplets:
        source, target = known[triplet.reference_name], known[triplet.target_name]
        kind, places, named = edits[triplet.id]
        edit = edit_between(source, target)
        assert (edit.kind, edit.places) == (kind, places)
        assert edit.target == target != source
        said = words_in(triplet.captions[0])
        if kind == "add":
            assert named == (dataclasses.asdict(target.at(places[0])),)
            assert source.at(places[0]) is None
        else:
            assert [slow_refers(source, one) for one in named] == [(source.at(place),) for place in places]
        for one in named:
            assert all(said[look, value] for look, value in one.items()), (triplet.captions, one)
        new = {"move": ("place", edit.value), "add": ("place", places[0])}.get(kind, (kind, edit.value))
        assert said[new] or kind in ("size", "remove", "swap")
        words = sum(len(one) for one in named) + (kind in (*LOOKS, "move"))
        assert sum(said.values()) == words - (kind == "size" and not said[new])


def test_every_kind_of_edit_occurs(root):
    assert {query.kind for query in read_edits(root).values()} == set(KINDS)


def test_groups_hold_twins(root, known):
    """Most queries have a picture beside their target that shows the same change made to another thing."""
    triplets = load_split(root, "cirr", "val").triplets
    twins = 0
    for triplet in triplets:
        source = known[triplet.reference_name]
        edits = [edit_between(source, known[name]) for name in triplet.group_members]
        asked = edit_between(source, known[triplet.target_name])
        twins += any(e and e.kind == asked.kind and e.target != asked.target for e in edits)
    assert twins > len(triplets) / 3


@given(SEEDS)
@settings(max_examples=25)
def test_one_text_never_asks_for_two_things(seed):
    rng = random.Random(seed)
    scene, asked = sample_scene(rng, pretraining=False), {}
    for _ in range(150):
        edit = sample_edit(rng, scene)
        assert asked.setdefault(request(rng, edit).text, edit.target) == edit.target


@given(SEEDS)
@settings(max_examples=60)
def test_a_mention_singles_out_one_thing(seed):
    rng = random.Random(seed)
    scene = sample_scene(rng, pretraining=True)
    for thing in scene.things:
        text, named = mention(rng, scene, thing)
        assert refers(scene, **named) == slow_refers(scene, named) == (thing,)
        assert words_in(text) == collections.Counter(named.items())


@given(SEEDS, st.sampled_from(KINDS))
@settings(max_examples=60)
def test_every_possible_edit_is_found_again(seed, kind):
    scene = sample_scene(random.Random(seed), pretraining=True)
    edits = possible_edits(scene, kind)
    assert len({edit.target for edit in edits}) == len(edits)
    for edit in edits[::7]:
        assert edit_between(scene, edit.target) == edit
        back = edit_between(edit.target, scene)
        assert back.kind == {"add": "remove", "remove": "add"}.get(kind, kind)
        assert back.target == scene


def test_edits_by_hand():
    circle, other, cross = THREE.things
    swapped = next(e for e in possible_edits(THREE, "swap") if e.places == (0, 8)).target
    assert swapped == Scene((dataclasses.replace(circle, place=8), other, dataclasses.replace(cross, place=0)))
    assert [len(possible_edits(THREE, kind)) for kind in KINDS] == [21, 3, 9, 18, 6 * 64, 3, 3]
    two = THREE.change([8])
    assert not possible_edits(two, "remove")
    assert len(possible_edits(two, "swap")) == 1
    same = two.change([4], [dataclasses.replace(circle, place=4)])
    assert not possible_edits(same, "swap")
    assert edit_between(two, swapped) is None


def test_a_twin_is_the_same_change_to_another_thing():
    rng = random.Random(0)
    for kind in KINDS:
        edit = sample_edit(rng, THREE, kind)
        twin = sample_twin(rng, edit)
        if twin:
            assert twin.kind == kind
            assert twin.places != edit.places
            values = [getattr(e.value, "look", e.value) for e in (edit, twin)]
            assert values[0] == values[1]


def test_an_edit_keeps_its_half():
    rng = random.Random(0)
    for pretraining in (True, False):
        for _ in range(20):
            scene = sample_scene(rng, pretraining)
            assert sample_edit(rng, scene).target.pretraining == scene.pretraining == pretraining


def test_halves_are_halves_also_along_one_edit():
    """The half does not follow from what is edited: "the circle turns blue" changes it in half of all scenes."""
    rng, changed = random.Random(0), 0
    for _ in range(400):
        looks = (rng.choice(LOOKS["shape"]), rng.choice(LOOKS["colour"]), rng.choice(LOOKS["size"]))
        red = scene_of(("circle", "red", "large", 0), (*looks, rng.randrange(1, 9)))
        changed += red.pretraining != red.change([0], [Thing("circle", "blue", "large", 0)]).pretraining
    assert 150 < changed < 250


def test_slots_and_differences_by_hand():
    assert len(THREE.slots()) == len(SLOTS) == 27
    assert THREE.slots()["top left colour"] == "red"
    assert THREE.slots()["top size"] is None
    blue = THREE.change([0], [Thing("circle", "blue", "large", 0)])
    assert THREE.differences(blue) == blue.differences(THREE) == ("top left colour",)
    assert THREE.differences(THREE) == ()
    assert THREE.differences(THREE.change([8])) == ("bottom right shape", "bottom right colour", "bottom right size")
    moved = THREE.change([4], [Thing("circle", "red", "small", 1)])
    assert THREE.differences(moved) == tuple(f"{p} {look}" for p in ("top", "centre") for look in LOOKS)
    swapped = THREE.change([0, 4], [Thing("circle", "red", "small", 0), Thing("circle", "red", "large", 4)])
    assert THREE.differences(swapped) == ("top left size", "centre size")


def test_a_scene_with_too_few_things_or_two_at_one_place_is_refused():
    for things in ([0], [0, 1, 1], [0, 1, 2, 3, 4]):
        with pytest.raises(ValueError, match="a place of its own"):
            scene_of(*(("cross", "red", "small", place) for place in things))


@given(SEEDS)
@settings(max_examples=40)
def test_a_full_description_fits_no_other_scene(seed):
    scene = sample_scene(random.Random(seed), pretraining=True)
    text = describe_scene(random.Random(seed), scene)
    parts = [part for part in re.split(r", | and ", text) if words_in(part)]
    said = [dict(words_in(part)) for part in parts]
    assert {frozenset(one) for one in said} == {frozenset(dataclasses.asdict(t).items()) for t in scene.things}


def test_short_descriptions_are_true_and_relations_are_as_seen():
    a, b = Thing("cross", "red", "small", 0), Thing("circle", "blue", "small", 2)
    assert relation(a, b) == "left of"
    assert relation(b, a) == "right of"
    assert relation(a, dataclasses.replace(b, place=6)) == "above"
    assert relation(dataclasses.replace(b, place=5), a) == "below and to the right of"
    assert relation(a, dataclasses.replace(b, place=4)) == "above and to the left of"
    texts = {describe_scene(random.Random(seed), THREE, 0.5, 0.5) for seed in range(300)}
    assert len(texts) > 200
    assert any("left of" in text for text in texts)
    allowed = {("place", thing.place) for thing in THREE.things}
    allowed |= {(look, getattr(thing, look)) for thing in THREE.things for look in LOOKS}
    assert set().union(*map(words_in, texts)) == allowed


@given(SEEDS, st.sampled_from(tuple(LOOKS)))
@settings(max_examples=60)
def test_every_attribute_can_be_seen(seed, look):
    rng = random.Random(seed)
    scene = sample_scene(rng, pretraining=True)
    backdrop = dataclasses.replace(sample_backdrop(rng), grain=0.0)
    before = np.asarray(draw_scene(scene, backdrop), int)
    for edit in possible_edits(scene, look):
        difference = np.abs(np.asarray(draw_scene(edit.target, backdrop), int) - before).max(axis=2)
        assert (difference > 30).sum() >= 8, edit


def test_drawing_is_the_same_again():
    backdrop = sample_backdrop(random.Random(1))
    assert draw_scene(THREE, backdrop).size == (64, 64)
    assert draw_scene(THREE, backdrop).tobytes() == draw_scene(THREE, backdrop).tobytes()


@given(SEEDS)
@settings(max_examples=40)
def test_a_thing_stays_about_its_place(seed):
    rng = random.Random(seed)
    backdrop = dataclasses.replace(sample_backdrop(rng), grain=0.0)
    scene = sample_scene(rng, pretraining=True)
    for edit in possible_edits(scene, "remove"):
        pair = [np.asarray(draw_scene(shown, backdrop), int) for shown in (scene, edit.target)]
        rows, columns = np.nonzero((pair[0] != pair[1]).any(axis=2))
        assert np.abs(rows - 64 * (edit.places[0] // 3 + 0.5) / 3).max() < 14
        assert np.abs(columns - 64 * (edit.places[0] % 3 + 0.5) / 3).max() < 14


@pytest.mark.parametrize(("name", "value"), [("train", 0), ("val", -1), ("train_pairs", 7), ("val_pairs", 0)])
def test_impossible_settings_are_refused(tmp_path, name, value):
    with pytest.raises(InputError, match=f"scenes.{name} is {value}; give") as caught:
        build_scenes(dataclasses.replace(WORLD, **{name: value}), tmp_path / "small")
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_parameters_is_refused_and_an_unfinished_one_is_made_anew(root, tmp_path):
    with pytest.raises(InputError, match="other parameters"):
        build_scenes(dataclasses.replace(WORLD, seed=4), root)
    (tmp_path / "small.partial").mkdir()
    (tmp_path / "small.partial" / "edits.jsonl").write_text("left over\n")
    build_scenes(SceneWorld(seed=0, train=6, val=1, train_pairs=6), tmp_path / "small")
    assert [path.name for path in tmp_path.iterdir()] == ["small"]
    assert len(read_edits(tmp_path / "small")) == 7
