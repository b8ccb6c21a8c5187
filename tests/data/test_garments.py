"""The garment world: deterministic, well-posed, disjoint from pretraining, in both layouts."""

import dataclasses
import random
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmcir_lite.data.datasets import load_split
from tmcir_lite.data.garments import (
    ATTRIBUTES,
    CATEGORIES,
    VALUES,
    Picture,
    World,
    build_world,
    draw,
    other_values,
    read_attributes,
    sample_change,
    sample_garment,
    sample_nuisance,
)
from tmcir_lite.data.garments.attributes import drift_nuisance
from tmcir_lite.data.garments.captions import change_phrases, noun_phrases
from tmcir_lite.io.files import InputError

WORLD = World(seed=3, train=12, val=6, gallery=8, cirr_train=4, cirr_val=5, family=3, nuisance_drift=1.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("garments") / "world"
    build_world(WORLD, root)
    return root


def garments(seed, category, count=1):
    rng = random.Random(seed)
    return [sample_garment(rng, category, pretraining=False) for _ in range(count)]


def test_same_seed_same_bytes(root, tmp_path):
    build_world(WORLD, tmp_path / "again")
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file())
    assert all((root / f).read_bytes() == (tmp_path / "again" / f).read_bytes() for f in files)


@pytest.mark.parametrize("layout", ["fashioniq", "cirr"])
@pytest.mark.parametrize("name", ["train", "val"])
def test_queries_are_well_posed(root, layout, name):
    split = load_split(root / layout, layout, name)
    known = read_attributes(root / layout)
    assert split.triplets
    for triplet in split.triplets:
        old, new = known[triplet.reference_name].garment, known[triplet.target_name].garment
        changed = old.differences(new)
        assert 1 <= len(changed) <= (3 if layout == "fashioniq" else 4)
        said = " ".join(triplet.captions)
        for attribute in changed:
            nouns = [phrase.removeprefix("has ") for phrase in change_phrases(old, new, attribute)]
            assert any(noun in said for noun in nouns), (attribute, said)
    for gallery in split.galleries.values():
        shown = [known[image].garment for image in gallery]
        assert name == "train" or len(set(shown)) == len(shown)
        assert not any(garment.pretraining for garment in shown)


def test_gallery_holds_near_duplicates_of_targets(root):
    split, known = load_split(root / "fashioniq", "fashioniq", "val"), read_attributes(root / "fashioniq")
    for triplet in split.triplets:
        target = known[triplet.target_name].garment
        others = (known[name].garment for name in split.galleries[triplet.category])
        assert any(len(target.differences(other)) == 1 for other in others)


@given(st.integers(0, 10_000), st.sampled_from(CATEGORIES), st.sampled_from(ATTRIBUTES))
@settings(max_examples=60)
def test_a_phrase_fixes_the_new_value(seed, category, attribute):
    (old,) = garments(seed, category)
    phrases = {
        value: set(change_phrases(old, dataclasses.replace(old, **{attribute: value}), attribute))
        for value in other_values(old, attribute)
    }
    for one, other in combinations(phrases, 2):
        assert not phrases[one] & phrases[other]


@given(st.integers(0, 10_000), st.sampled_from(CATEGORIES), st.sampled_from(ATTRIBUTES))
@settings(max_examples=80)
def test_every_attribute_can_be_seen(seed, category, attribute):
    (old,) = garments(seed, category)
    nuisance = dataclasses.replace(sample_nuisance(random.Random(seed)), grain=0.0)
    new = dataclasses.replace(old, **{attribute: random.Random(seed).choice(other_values(old, attribute))})
    difference = np.abs(np.asarray(draw(old, nuisance), int) - np.asarray(draw(new, nuisance), int)).max(axis=2)
    assert (difference > 20).sum() >= 8, (old, attribute, new)


@given(st.integers(0, 10_000), st.sampled_from(CATEGORIES), st.integers(1, 4))
def test_change_keeps_category_and_half(seed, category, number):
    (old,) = garments(seed, category)
    new = sample_change(random.Random(seed), old, number, keep=("colour",))
    assert new.category == old.category
    assert not new.pretraining
    assert len(old.differences(new)) == number
    assert new.colour == old.colour
    assert new.accent != new.colour
    assert all(getattr(new, name) in VALUES[name] for name in ATTRIBUTES)


def test_a_change_with_hardly_a_choice_ends():
    only_type = tuple(name for name in ATTRIBUTES if name not in ("type", "sleeves"))
    for garment in garments(0, "shirt", 50):
        assert sample_change(random.Random(0), garment, 1, keep=only_type) != garment


def test_nuisance_drift_keeps_or_redraws():
    rng = random.Random(0)
    start = sample_nuisance(rng)
    assert drift_nuisance(rng, start, 0.0) == start
    assert drift_nuisance(rng, start, 1.0).background != start.background


def targets(**rules):
    """What 60 queries ask for, and show, of a world with other rules."""
    world, rng = dataclasses.replace(WORLD, **rules), random.Random(0)
    for garment in garments(1, "dress", 60):
        reference = Picture(garment, sample_nuisance(rng))
        asked, target = world.target(rng, reference)
        yield reference, asked, target


def test_a_target_shows_what_is_asked_unless_the_rules_say_otherwise():
    assert all(asked == target.garment for _, asked, target in targets())
    for reference, asked, target in targets(unasked_change=1.0):
        (name,) = asked.differences(target.garment)
        assert name not in reference.garment.differences(asked)
    for reference, asked, target in targets(contradiction=1.0):
        assert len(wrong := asked.differences(target.garment)) > 0
        assert set(wrong) <= set(reference.garment.differences(asked))
        assert target.garment.pretraining == reference.garment.pretraining
    for reference, asked, target in targets(unasked_change=1.0, contradiction=1.0):
        wrong = set(asked.differences(target.garment))
        assert target.garment == reference.garment or len(wrong - set(reference.garment.differences(asked))) == 1


def test_captions_can_describe_the_whole_target():
    rng, world = random.Random(0), dataclasses.replace(WORLD, full_captions=1.0)
    for reference, asked, _ in targets():
        for caption in world.captions(rng, reference.garment, asked):
            for attribute in ("sleeves", "length", "neckline", "pattern"):
                assert any(phrase in caption for phrase in noun_phrases(asked, attribute))


def test_a_background_can_go_with_what_is_asked_first():
    drawn = {}
    for reference, asked, target in targets(background_by_text=1.0):
        name = reference.garment.differences(asked)[0]
        drawn.setdefault((name, getattr(asked, name)), set()).add(target.nuisance.background)
    assert all(len(backgrounds) == 1 for backgrounds in drawn.values())
    assert len(drawn) == len(set.union(*drawn.values())) > 10


def test_other_parameters_in_the_same_folder_are_refused(root):
    with pytest.raises(InputError, match="other parameters"):
        build_world(dataclasses.replace(WORLD, seed=4), root)


def test_gallery_too_small_names_the_key(tmp_path):
    with pytest.raises(InputError, match="garments.gallery"):
        build_world(dataclasses.replace(WORLD, gallery=3), tmp_path / "small")
    assert not (tmp_path / "small").exists()
