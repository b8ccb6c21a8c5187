"""The study on a tiny world with untrained models; its intervals and verdicts by hand."""

import random
import shutil

import numpy as np
import pandas as pd
import pytest

from tmcir_lite.config import load_config
from tmcir_lite.evaluation.intervals import paired_difference
from tmcir_lite.io.files import InputError
from tmcir_lite.run import stages
from tmcir_lite.run.data import known_attributes, prepare_data
from tmcir_lite.study.effects import changes, judge
from tmcir_lite.study.known_edits import known_edit
from tmcir_lite.study.plan import (
    PLAN,
    alignment_config,
    cell_config,
    chosen_cells,
    load_plan,
    pictures_config,
    world_rules,
)
from tmcir_lite.study.run import _align, _run_cell, collect, run_study, towards_pictures, write_report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tables(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    overrides = [*tiny, f"runs={out}/runs"]
    run_study("lite", overrides, [0], ["tuning"], out)
    run_study("lite", overrides, [0, 1], ["main"], out)
    return out, overrides


def test_every_cell_has_a_row_a_seed_and_layout(tables):
    out, _ = tables
    table, plan = pd.read_csv(out / "study.csv").query("part != 'tuning'"), load_plan()
    cells = [cell.name for cell in plan.cells if cell.part == "main"]
    assert sorted(zip(table["cell"], table["seed"], table["layout"], strict=True)) == sorted(
        (cell, seed, layout) for cell in cells for seed in (0, 1) for layout in ("fashioniq", "cirr")
    )
    assert table[["R@1", "R@10", "changed", "kept", "parameters", "device"]].notna().all(axis=None)
    assert table.query("layout == 'cirr'")["Rs@1"].notna().all()
    tmcir = table[table["cell"] == "TMCIR"]
    off = table[table["cell"] == "TMCIR, merging off"]
    assert table[table["cell"].isin(["CLIP4Cir", "cross-attention", "TMCIR"])]["fusion_ms"].notna().all()
    assert (tmcir["merged"] > 0).all()
    assert (off["merged"] == 0).all()
    assert (tmcir["tokens"] < off["tokens"].to_numpy()).all()


def test_trials_are_looked_at_on_held_out_train_only(tables):
    trials = pd.read_csv(tables[0] / "study.csv").query("part == 'tuning'")
    assert len(trials) == sum(cell.part == "tuning" for cell in load_plan().cells)
    assert trials["heldout"].notna().all()
    assert trials["R@1"].isna().all()


def test_claims_are_tested_where_both_cells_were_run(tables):
    claims = pd.read_csv(tables[0] / "claims.csv")
    assert "TMCIR - CLIP4Cir" in set(claims["effect"])
    assert "sum, pseudo - sum, real" not in set(claims["effect"])
    assert (claims["low"] <= claims["difference"]).all()
    assert (claims["difference"] <= claims["high"]).all()
    assert (claims["seeds"] == 2).all()


def test_what_has_been_run_is_not_run_again(tables, monkeypatch):
    out, overrides = tables
    monkeypatch.setattr(stages, "fit", lambda *a, **k: pytest.fail("trained again"))
    before = (out / "study.csv").read_text()
    run_study("lite", overrides, [0], ["main"], out)
    assert (out / "study.csv").read_text() == before


def test_a_study_grows_by_what_another_machine_ran(tables, tmp_path):
    """Seed 1 alone, beside tables that have seed 0 alone, gives the tables of both."""
    out, overrides = tables
    for name in ("study.csv", "outcomes.csv.gz"):
        there = pd.read_csv(out / name)
        there[there["seed"] == 0].to_csv(tmp_path / name, index=False, float_format="%.5g")
    runs = next(value for value in overrides if value.startswith("runs=") and "study" in value).removeprefix("runs=")
    shutil.copytree(f"{runs}/tiny-study/seed1", tmp_path / "runs" / "tiny-study" / "seed1", symlinks=True)
    table = collect(load_plan(), "lite", [*overrides, f"runs={tmp_path}/runs"], tmp_path)
    write_report(tmp_path)
    assert set(table["seed"]) == {0, 1}
    assert len(table) == len(pd.read_csv(out / "study.csv"))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "claims.csv"), pd.read_csv(out / "claims.csv"))
    for name in ("study.csv", "outcomes.csv.gz", "claims.csv", "changes.csv", "study.md"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), name


def test_seeds_hold_out_other_triplets_and_share_the_pictures(tables):
    plan, (_, overrides) = load_plan(), tables
    one, two = (cell_config(plan, plan.cells[-1], "lite", overrides, seed) for seed in (0, 1))
    assert prepare_data(one).held != prepare_data(two).held
    links = [alignment_config(plan, "pseudo", "lite", overrides, seed).run_dir / "pseudo_targets" for seed in (0, 1)]
    assert links[0].resolve() == links[1].resolve()


def test_alignments_of_any_loss_share_the_pictures(tables):
    """What IACMA does with the pictures is no part of the run that draws them."""
    plan, (_, overrides) = load_plan(), tables
    cfg = pictures_config(plan, "pseudo", "lite", overrides)
    assert cfg.run_dir.parent == cell_config(plan, plan.cells[0], "lite", overrides, 3).run_dir.parent.parent
    for name in ("pseudo", "pseudo, words too"):
        assert pictures_config(plan, name, "lite", overrides) == cfg
        assert (_align(plan, name, "lite", overrides, 0) / "pseudo_targets").resolve().is_relative_to(cfg.run_dir)
    assert pictures_config(plan, "pseudo, guidance 4", "lite", overrides).editor.guidance == 4
    assert pictures_config(plan, "pseudo, guidance 4", "lite", overrides).run_dir != cfg.run_dir


@pytest.fixture
def photos(tiny, cfg, tmp_path):
    """A dataset in Fashion-IQ's layout of which only pictures and captions are known; changes that choose it."""
    root = tmp_path / "photos"
    shutil.copytree(cfg.data.root, root, ignore=shutil.ignore_patterns("attributes.jsonl"))
    return [*tiny, f"runs={tmp_path}/runs", "garments=null", f"data.root={root}", "data.also_evaluate=[]"]


def test_a_dataset_of_real_pictures_goes_through_the_same_study(photos, tmp_path):
    run_study("lite", photos, [0], ["main"], tmp_path / "out")
    table, page = pd.read_csv(tmp_path / "out" / "study.csv"), (tmp_path / "out" / "study.md").read_text()
    assert set(table["cell"]) == {cell.name for cell in load_plan().cells if cell.part == "main"}
    assert (set(table["data"]), set(table["layout"])) == ({"photos"}, {"fashioniq"})
    assert "changed" not in table
    assert page.startswith("Photos (Fashion-IQ layout")
    assert "TMCIR - CLIP4Cir" in page


def test_queries_can_be_trained_towards_pseudo_targets(cfg, tmp_path):
    """Another reading of IACMA: targets are an alignment's pictures; what choices are made on stays as it is."""
    data = prepare_data(cfg)
    there = towards_pictures(data, tmp_path)
    for triplet, before in zip(there.kept, data.kept, strict=True):
        assert there.train.images[triplet.target_name] == tmp_path / f"{before.id}.png"
        assert there.train.images[triplet.reference_name] == data.train.images[before.reference_name]
        assert (triplet.captions, triplet.id) == (before.captions, before.id)
    assert there.held == data.held
    assert there.val == data.val


def test_tables_of_another_dataset_are_not_mixed_with(tables, photos):
    with pytest.raises(InputError, match="study.csv: is of garment world, not of photos; .* --out"):
        run_study("lite", photos, [0], ["main"], tables[0])


def test_a_place_for_tables_that_cannot_be_is_found_before_the_work(tiny, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="study: --out .*file: no folder to write to"):
        run_study("lite", tiny, [0], ["main"], tmp_path / "file")


def test_what_cannot_be_drawn_of_a_dataset_is_left_out_of_its_study(capsys):
    """Of real photos neither perfect edits nor worlds that drift; of scenes no garment worlds; of garments all."""
    plan, garments = load_plan(), load_config("lite")
    scenes, real = load_config("scenes"), load_config("fashioniq")

    def left(cfg):
        return {cell.name for cell in plan.cells} - {cell.name for cell in chosen_cells(plan, [], cfg)}

    assert {"sum, perfect", "contradicted", "all wrong"} <= left(real)
    assert "TMCIR, 18000" in left(real)
    assert not {"TMCIR", "sum, pseudo", "editor, guidance 4"} & left(real)
    assert "all wrong (dose)" in capsys.readouterr().out
    assert "contradicted" in left(scenes)
    assert "sum, perfect" not in left(scenes)
    assert not left(garments)
    with pytest.raises(InputError, match=r"these cells need .*: no drift \(drift\)"):
        chosen_cells(plan, ["drift"], real)


@pytest.mark.parametrize(("profile", "file"), [("lite", "plan.yaml"), ("scenes", "scenes_plan.yaml")])
def test_a_cell_after_iacma_has_been_through_it(profile, file):
    """Where epoch 0 is chosen, a cell would else be the same as one without IACMA."""
    plan = load_plan(PLAN.with_name(file))
    made = {name: alignment_config(plan, name, profile, [], 0).iacma for name in plan.alignments}
    assert {name for name, settings in made.items() if settings.epochs and settings.keep != "last"} == set()


def test_an_unknown_part_is_named():
    with pytest.raises(InputError, match="no part 'mian'; there are tuning, main"):
        run_study("lite", [], [0], ["mian"])


def test_a_drifting_world_is_beside_the_plain_one(tiny):
    plan = load_plan()
    cfg = alignment_config(plan, "real, unasked changes", "lite", tiny, 0)
    plain = load_config("lite", tiny)
    assert world_rules(plan.alignments["real, unasked changes"].world) == {"unasked_change": 1.0}
    assert cfg.garments.root != plain.garments.root
    assert cfg.data.root == f"{cfg.garments.root}/fashioniq"


def test_a_cell_in_a_world_of_its_own_is_trained_and_measured_there(tiny):
    plan, plain = load_plan(), load_config("lite", tiny)
    cells = {cell.name: cell for cell in plan.cells}
    cfg, same = (cell_config(plan, cells[f"{name}, 18000"], "lite", tiny, 0) for name in ("TMCIR", "ATF alone"))
    assert (cfg.garments.root, cfg.garments.train) == (f"{plain.garments.root}-train-20000", 20000)
    assert [cfg.data.root, cfg.data.also_evaluate[0].root] == [
        f"{cfg.garments.root}/{n}" for n in ("fashioniq", "cirr")
    ]
    assert same.garments == cfg.garments
    assert same.data == cfg.data


def test_a_cell_may_learn_from_another_layout(tiny, tmp_path):
    plan, overrides = load_plan(), [*tiny, f"runs={tmp_path}"]
    name = "none, on CIRR"
    here = plan.alignments[name].model_copy(update={"world": None})  # 20,000 pairs take minutes to draw
    plan = plan.model_copy(update={"alignments": plan.alignments | {name: here}})
    cell = next(cell for cell in plan.cells if cell.name == "TMCIR, on CIRR").model_copy(update={"world": None})
    cfg, aligned, plain = (
        cell_config(plan, cell, "lite", overrides, 0),
        alignment_config(plan, name, "lite", overrides, 0),
        load_config("lite", overrides),
    )
    assert (cfg.data.layout, cfg.data.root) == ("cirr", plain.data.also_evaluate[0].root)
    assert [(other.layout, other.root) for other in cfg.data.also_evaluate] == [("fashioniq", plain.data.root)]
    assert aligned.data == cfg.data
    pictures = pictures_config(plan, name, "lite", overrides)
    assert pictures.data.layout == "cirr"
    assert pictures.run_dir != pictures_config(plan, "pseudo", "lite", overrides).run_dir
    _run_cell(plan, cell, "lite", overrides, 0)
    assert set(pd.read_csv(cfg.run_dir / "result.csv")["layout"]) == {"fashioniq", "cirr"}
    with pytest.raises(InputError, match="no dataset of layout cirr to learn from in data.also_evaluate"):
        cell_config(plan, cell, "lite", [*overrides, "data.also_evaluate=[]"], 0)


def test_known_edits_are_perfect_copied_or_wrong(cfg):
    data = prepare_data(cfg)
    known = known_attributes(data.train)
    for triplet in data.kept[:20]:
        reference, target = known[triplet.reference_name], known[triplet.target_name]
        asked = reference.garment.differences(target.garment)
        perfect, copy, wrong = (known_edit(triplet, known, how, random.Random(0)) for how in (None, "copy", "wrong"))
        assert (perfect.garment, perfect.nuisance) == (target.garment, reference.nuisance)
        assert copy == reference
        assert not set(asked) & set(reference.garment.differences(wrong.garment))


def test_a_change_is_compared_over_the_seeds_that_both_cells_have():
    """By hand: two seeds in common, of two queries each; the third seed has no partner."""
    ranks = {("TMCIR", 0): (1, 5), ("TMCIR", 1): (5, 5), ("pooled by mean", 0): (1, 1), ("pooled by mean", 1): (1, 1),
             ("pooled by mean", 2): (5, 5)}  # fmt: skip
    outcomes = pd.DataFrame(
        {"cell": cell, "seed": seed, "layout": "cirr", "query": query, "rank": rank}
        for (cell, seed), each in ranks.items() for query, rank in enumerate(each)
    )  # fmt: skip
    (found,) = changes(load_plan(), outcomes).to_dict("records")
    assert (found["part"], found["cell"], found["against"], found["layout"]) == (
        "fusion",
        "pooled by mean",
        "TMCIR",
        "cirr",
    )
    assert (found["difference"], found["seeds"]) == (75.0, 2)
    assert 0 <= found["low"] < 75 < found["high"] <= 100


def test_cells_of_different_worlds_are_not_compared():
    cells = ("weighted sum", "weighted sum, 18000", "ATF alone, 18000")
    outcomes = pd.DataFrame({"cell": cells, "seed": 0, "layout": "cirr", "query": 0, "rank": 1})
    found = changes(load_plan(), outcomes)
    assert found[["cell", "against"]].values.tolist() == [["ATF alone, 18000", "weighted sum, 18000"]]


def test_paired_difference_by_hand():
    a, b = np.full((3, 50), 100.0), np.full((3, 50), 40.0)
    assert paired_difference(a, b) == pytest.approx((60, 60, 60))
    rng = np.random.default_rng(1)
    hits = 100.0 * (rng.random((1, 400)) < 0.5)
    difference, low, high = paired_difference(hits, np.zeros_like(hits))
    assert difference == hits.mean()
    assert (high - low) / 2 == pytest.approx(1.96 * 50 / 20, rel=0.1)  # the standard error of a share of 400


def test_seeds_that_disagree_widen_the_interval():
    same, apart = np.full((4, 100), 10.0), np.repeat([[0.0], [0.0], [20.0], [20.0]], 100, axis=1)
    assert paired_difference(same, 0 * same)[1:] == pytest.approx((10, 10))
    _, low, high = paired_difference(apart, 0 * apart)
    assert low < 5 < 15 < high


def test_verdicts():
    assert [judge(1, 2), judge(-1, 2), judge(-2, -1)] == [
        "holds here", "no difference shown", "the reverse holds here",
    ]  # fmt: skip
