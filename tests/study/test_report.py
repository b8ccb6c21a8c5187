"""The study's tables, verdicts and figures on numbers made by hand, whole and in part."""

import pandas as pd
import pytest

from tmcir_lite.io.files import InputError
from tmcir_lite.study import figures
from tmcir_lite.study.effects import CHANGES, EFFECTS, HOLDS, NEITHER, REVERSE
from tmcir_lite.study.plan import load_plan
from tmcir_lite.study.report import (
    Study,
    change_table,
    facts,
    kind_table,
    ledger,
    load_study,
    main_table,
    markdown,
    seeds_inside,
    trial_table,
)

FIGURES = (
    "threshold_curve",
    "dose_response",
    "drift",
    "ablations",
    "triplets_curve",
    "many_triplets",
    "trained_on_cirr",
    "effects",
)
PLAN = load_plan()


def row(cell, seed, layout="fashioniq", **numbers):
    """A row as the study leaves it; by default R@1 is 50 with seed 0, 52 with seed 1, and so on."""
    found = next(each for each in PLAN.cells if each.name == cell)
    size = {"queries": 100, "gallery": 200, "protocol": "cirr" if layout == "cirr" else "original-masked"}
    recalls = {"R@1": 50.0 + 2 * seed, "R@5": 70.0, "R@10": 80.0, "R@50": 90.0, "Rs@1": 60.0}
    cost = {"merged": 40.0, "tokens": 70.0, "fusion_ms": 0.2}
    run = {"data": "garment world", "device": "cpu", "commit": "0123456789", "dirty": False}
    intent = {"changed": 80.0, "kept": 90.0, "visual bias": 4.0, "text bias": 5.0}
    where = {"part": found.part, "cell": cell, "x": found.x, "seed": seed, "layout": layout}
    return {**where, **size, **recalls, **intent, **cost, **run, **numbers}


def effects(verdict):
    """A row for each effect of the plan's claims; `verdict` says which, of (claim, number of its test, layout)."""
    ends = {HOLDS: (1.0, 3.0), REVERSE: (-3.0, -1.0), NEITHER: (-1.0, 1.0)}
    return pd.DataFrame(
        {"claim": claim.claim, "effect": f"{first} - {second}", "measure": claim.measure, "layout": layout,
         "difference": sum(ends[said]) / 2, "low": ends[said][0], "high": ends[said][1], "seeds": 2, "verdict": said}
        for claim in PLAN.claims
        for number, (first, second) in enumerate(claim.tests)
        for layout in ("fashioniq", "cirr")
        if (said := verdict(claim.claim, number, layout))
    )  # fmt: skip


@pytest.fixture
def write(tmp_path):
    """Writes the tables, as a study does, and reads them back."""

    def written(rows, claims=None, changes=None) -> Study:
        columns = {"study": None if rows else ["part", "cell", "seed"], "claims": EFFECTS, "changes": CHANGES}
        for (name, shown), table in zip(columns.items(), (rows, claims, changes), strict=True):
            pd.DataFrame(table, columns=shown).to_csv(tmp_path / f"{name}.csv", index=False)
        return load_study(tmp_path)

    return written


def whole(write, verdict=lambda *_: NEITHER):
    cells = [cell for cell in PLAN.cells if cell.part != "tuning"]
    rows = [row(cell.name, seed, layout) for cell in cells for seed in (0, 1) for layout in ("fashioniq", "cirr")]
    return write(rows, effects(verdict))


def said_in(figure):
    return [text.get_text().strip() for axis in figure.axes for text in axis.texts]


def test_absent_tables_say_what_makes_them(tmp_path):
    with pytest.raises(InputError, match="study.csv: no such table; `python -m tmcir_lite study` makes it"):
        load_study(tmp_path)
    for present, absent, columns in (("study", "claims", ["part", "cell", "seed"]), ("claims", "changes", EFFECTS)):
        pd.DataFrame(columns=columns).to_csv(tmp_path / f"{present}.csv", index=False)
        with pytest.raises(InputError, match=f"{absent}.csv"):
            load_study(tmp_path)


@pytest.mark.parametrize("broken", ["", 'claim\n"half a cell', "\x00\x01\n1,2,3,4\n"])
def test_a_broken_table_is_one_line_that_names_it(write, tmp_path, broken):
    whole(write)
    (tmp_path / "claims.csv").write_text(broken)
    with pytest.raises(InputError, match="claims.csv: (not readable as a table|has no column)"):
        load_study(tmp_path)


def test_main_table_is_mean_and_spread_over_the_seeds_of_a_layout(write):
    table = main_table(write([
        row("TMCIR", 0, parameters=2345678, seconds=100.0), row("TMCIR", 1, parameters=2345678, seconds=104.0),
        row("TMCIR", 0, "cirr", **{"R@1": 1.0}), row("CLIP4Cir", 3), row("threshold 0.25", 0),
    ]), "fashioniq")  # fmt: skip
    ours = table.loc["TMCIR"]
    assert (ours["seeds"], ours["R@1"], ours["R@50"]) == (2, "51.0 ± 1.4", "90.0 ± 0.0")
    assert (ours["parameters"], ours["seconds"]) == ("2,345,678", "102.0 ± 2.8")
    assert (table.loc["CLIP4Cir", "R@1"], table.loc["CLIP4Cir", "seconds"]) == ("56.0", "")  # one seed has no spread
    assert table.loc["Pic2Word", "seeds"] == "not run"
    assert "threshold 0.25" not in table.index


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ({HOLDS}, HOLDS),
        ({REVERSE}, REVERSE),
        ({NEITHER}, "no difference shown (at most 1.0 points)"),
        ({HOLDS, NEITHER}, "mixed: 2 for it, 2 undecided"),
        ({REVERSE, NEITHER}, "mixed: 2 against it, 2 undecided"),
        ({HOLDS, REVERSE}, "mixed: 2 for it, 2 against it"),
        ({None}, "not run"),
        ({HOLDS, None}, "not all of it run"),
    ],
)
@pytest.mark.parametrize("apart", ["layouts", "tests"])
def test_a_verdict_is_that_of_all_effects_on_all_layouts_or_how_many_say_what(write, verdicts, expected, apart):
    one, two = min(verdicts, key=str), max(verdicts, key=str)

    def verdict(claim, number, layout):
        return two if (layout == "cirr" if apart == "layouts" else number == 1) else one

    claims = ledger(write([row("TMCIR", 0)], effects(verdict))).set_index("claim")
    assert claims.loc["IACMA helps", "verdict"] == expected


def test_no_difference_says_how_large_one_may_be(write):
    effect = effects(lambda claim, *_: NEITHER if claim == "Positions matter" else None)
    effect.loc[effect["layout"] == "cirr", ["low", "high"]] = [-4.5, 0.5]
    claims = ledger(write([row("TMCIR", 0)], effect)).set_index("claim")
    assert claims.loc["Positions matter", "verdict"] == "no difference shown (at most 4.5 points)"


def test_the_names_of_a_smaller_study_say_so(write):
    study = write([row("TMCIR", 0)])
    assert main_table(study, "fashioniq").index.name == "method, 2,000 triplets"
    assert "A name without a number means 2,000 triplets" in markdown(study)


def test_the_ledger_has_every_claim_with_its_effects_and_what_cannot_be_tested(write):
    table = ledger(write([row("TMCIR", 0)], effects(lambda claim, *_: HOLDS if claim.startswith("Text") else None)))
    bias = table.set_index("claim").loc["Text bias falls against Pic2Word"]
    assert list(bias) == ["text bias: Pic2Word - TMCIR", *2 * ["+2.0 (+1.0 to +3.0)"], "2", HOLDS]
    assert list(table["claim"])[:-2] == [claim.claim for claim in PLAN.claims]
    assert table["verdict"].str.startswith("cannot be tested here").tolist()[-2:] == [True, True]


def test_effects_of_single_seeds_are_counted_within_the_intervals_of_all(write):
    """TMCIR less CLIP4Cir: 1 with seed 0 (the interval's end), 6 with seed 1; seed 2 has no partner."""
    rows = [row("CLIP4Cir", 0), row("CLIP4Cir", 1), row("TMCIR", 2)]
    rows += [row("TMCIR", 0, **{"R@1": 51.0}), row("TMCIR", 1, **{"R@1": 58.0})]
    one = effects(lambda claim, number, layout: HOLDS if (number, layout) == (0, "fashioniq") else None)
    study = write(rows, one[one["effect"] == "TMCIR - CLIP4Cir"])
    assert seeds_inside(study) == (1, 2)
    assert "; 1 of 2 effects of one seed alone lie within" in markdown(study)


def test_facts_name_fewer_seeds_absent_parts_commits_and_local_changes(write):
    study = write([row("TMCIR", 0), row("TMCIR", 1, commit="abcdefabcdef", dirty=True), row("no drift", 1)])
    line = facts(study)
    assert "\n" not in line
    size = "protocol original-masked: 100 queries, 200 gallery images"
    assert line.startswith(f"Garment world (Fashion-IQ layout, {size}")
    assert "Seeds 0 1, tuning: not run, iacma: not run" in line
    assert "drift: 1" in line
    assert "main" not in line
    assert "cpu, commit 0123456, abcdefa, 1 of 3 rows made with local changes" in line


def test_every_change_is_told_with_its_base_and_interval(write):
    effect = {
        "part": "fusion",
        "cell": "pooled by mean",
        "against": "TMCIR",
        "difference": -0.5,
        "low": -1.0,
        "high": 0.5,
    }
    table = change_table(write([], changes=[{**effect, "layout": "cirr", "seeds": 3}]))
    assert table.values.tolist() == [["fusion", "pooled by mean", "TMCIR", "not run", "-0.5 (-1.0 to +0.5)", 3]]


def test_trials_are_told_by_what_they_reached_on_held_out_train(write):
    trial = {"part": "tuning", "cell": "IACMA, lr 1e-4", "seed": 0, "heldout": 81.25}
    both = [row("TMCIR, full size", seed, layout, heldout=87.0 + 2 * seed)
            for seed in (0, 1) for layout in ("fashioniq", "cirr")]  # fmt: skip
    table = trial_table(write([trial, *both, row("TMCIR", 0, heldout=80.0)]))
    assert table["held-out R@1"].to_dict() == {"IACMA, lr 1e-4": "81.2", "TMCIR, full size": "88.0 ± 1.4"}


def test_the_page_and_the_figures_of_a_whole_study_lack_nothing(write):
    study = whole(write)
    page = markdown(study)
    assert page.count("not run") == 1  # the trials
    assert "| nan" not in page
    assert page.count("| TMCIR after IACMA") == 2
    for name in FIGURES:
        assert "not run" not in said_in(getattr(figures, name)(study))


@pytest.mark.parametrize("cells", [[], ["weighted sum", "threshold 0.25", "fusion, 500"]])
def test_the_page_and_the_figures_of_a_part_say_what_was_not_run(write, cells):
    trial = {"part": "tuning", "cell": "IACMA, lr 1e-4", "seed": 0, "heldout": 40.0}
    study = write([trial, *(row(cell, 0) for cell in cells)])
    assert "not run" in markdown(study)
    for name in FIGURES:
        assert "not run" in said_in(getattr(figures, name)(study))


def test_gains_are_against_the_same_seed(write):
    study = write([row("weighted sum", 0), row("weighted sum", 1), row("sum, perfect", 1, **{"R@1": 55.0})])
    bars = [bar.get_height() for bar in figures.dose_response(study).axes[0].patches]
    assert bars[0] == pytest.approx(3.0)  # 55 less 52: seed 0 has no partner


def test_kinds_of_edit_are_told_with_where_words_point(write, tmp_path):
    pd.DataFrame({"cell": ["image only", "TMCIR"], "colour": [9.4, 41.0], "swap": [0.0, 25.5]}).to_csv(
        tmp_path / "kinds.csv", index=False
    )
    cells = [row("TMCIR", 0, pointing=20.0), row("TMCIR", 1, pointing=30.0), row("image only", 0)]
    study = write(cells)
    table = kind_table(study)
    assert table.loc["image only"].tolist()[:3] == ["9", "0", ""]
    assert table.loc["TMCIR"].tolist()[:3] == ["41", "26", "25"]
    assert "By kind of edit" in markdown(study)
    assert {"9", "41", "26"} <= set(said_in(figures.kinds(study, ["main"])))
    assert "not run" in said_in(figures.kinds(study, ["rates"]))
    assert "By kind of edit" not in markdown(study._replace(kinds=pd.DataFrame()))


def test_a_plan_without_claims_is_told(write):
    """Somebody who tries a fusion of their own has cells and no claims."""
    study = write([row("TMCIR", 0)])
    assert ledger(study._replace(plan=PLAN.model_copy(update={"claims": [], "triplets": 7}))).empty
    page = markdown(study._replace(plan=PLAN.model_copy(update={"claims": [], "triplets": 7})))
    assert "TMCIR" in page
    assert "Trials" not in page  # none was made
