"""The study told: its tables read back, the methods side by side, and what becomes of each claim of the paper."""

import collections
import itertools
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from tmcir_lite.evaluation.intent import MEASURES
from tmcir_lite.io.files import ROOT
from tmcir_lite.io.tables import read_table
from tmcir_lite.study.effects import CHANGES, EFFECTS, HOLDS, NEITHER, REVERSE
from tmcir_lite.study.plan import CHOICES, PLAN, Plan, load_plan

RESULTS = ROOT / "data" / "results"
LAYOUTS = {"fashioniq": "Fashion-IQ layout", "cirr": "CIRR layout"}
ABSENT = "not run"
_SHOWN = ("R@1", "R@5", "R@10", "R@50", "Rs@1", *MEASURES, "parameters", "seconds", "fusion_ms")
_POINTING = {"pointing": "naming words whose best patch is on the thing", "naming merged": "naming words that merge",
             "others merged": "other words that merge"}  # fmt: skip
_FACTS = ("data", "heldout", "protocol", "queries", "gallery", "device", "commit", "dirty", "merged", "tokens",
          *_POINTING)  # fmt: skip
_UNTESTABLE = tuple(f"The numbers published on {dataset} can be reached" for dataset in ("Fashion-IQ", "CIRR"))
_SMALLER = (
    "**Smaller than a run.** A name without a number means {triplets:,} triplets to learn from and two epochs: its "
    'numbers lie below those of the same name in a run of the lite profile (`lite.md`). "TMCIR" is stage 2 alone, '
    '"TMCIR after IACMA" both stages. Methods learn from the '
    'Fashion-IQ layout, and the CIRR layout shows what carries over to other captions and galleries; for cells "on '
    'CIRR" it is the other way round. Rows made with local changes had one: a folder that the study had drawn and '
    "git did not yet ignore. Rows of commits before 25db72e have the epoch with the highest score on held-out train, "
    "the others the last within one standard error of it. Notebook 6 says what explains the verdicts."
)
_NO_WAY = "cannot be tested here: no weights and no photos"
_DROPPED = (
    "**Tried and dropped.** No longer in the code; measured in the garment world with five seeds. In the fusion, a "
    "soft gate around the threshold, one word a patch at most, and cosines of centred tokens changed R@1 by less than"
    " 0.3 points (intervals within 0.6 of 0); in IACMA, half real and half pseudo pictures by less than 0.5 "
    "(intervals up to 4.2 from 0, so that little is shown of it). With one seed, fine-tuning with 1/tau starting at "
    "100 instead of the backbone's own 26 reached 85.4 on held-out train, not 87.5."
)


class Study(NamedTuple):
    """What a study left, and the plan that it followed.

    `rows` has a row a cell, seed and layout; `effects` a row a claim, effect and layout; `changes` a row a cell and
    layout, compared with its base; `kinds` a row a cell, and R@1 of each kind of edit (empty but for scenes). Columns
    that no cell has filled yet are there, and empty.
    """

    rows: pd.DataFrame
    effects: pd.DataFrame
    changes: pd.DataFrame
    kinds: pd.DataFrame
    plan: Plan

    @property
    def of_the_paper(self) -> bool:
        """Whether it followed the plan that tests the paper's claims."""
        return self.plan == load_plan()

    @property
    def layouts(self) -> dict[str, str]:
        """The layouts that were measured, with their titles; all of them while nothing was."""
        measured = {*self.rows["layout"], *self.effects["layout"]}
        return {layout: title for layout, title in LAYOUTS.items() if layout in measured} or LAYOUTS

    def cell(self, name: str, layout: str) -> pd.DataFrame:
        """The rows of one cell, by seed; none if it has not been run."""
        return self.rows.query("cell == @name and layout == @layout").set_index("seed").sort_index()

    def gain(self, cell: str, base: str, layout: str, measure: str = "R@1") -> pd.Series:
        """A measure of one cell less that of another with the same seed, by the seeds that both have."""
        return (self.cell(cell, layout)[measure] - self.cell(base, layout)[measure]).dropna()

    def effect(self, claim: str, first: str, second: str, layout: str) -> pd.Series | None:
        """The row of one effect; None if one of its cells has not been run."""
        asked = {"claim": claim, "effect": f"{first} - {second}", "layout": layout}
        found = self.effects[(self.effects[list(asked)] == pd.Series(asked)).all(axis=1)]
        return None if found.empty else found.iloc[0]


def load_study(folder: Path = RESULTS, plan: Path = PLAN) -> Study:
    """Reads `study.csv`, `claims.csv`, `changes.csv` and, of scenes, `kinds.csv` of a study that followed `plan`.

    Raises:
        InputError: one of them is not there, is no table, or lacks a column.
    """
    read = partial(read_table, made_by="python -m tmcir_lite study")
    rows = read(folder / "study.csv", ("part", "cell", "seed"))
    rows = rows.reindex(columns=[*dict.fromkeys((*rows.columns, "x", "layout", *_SHOWN, *_FACTS))])
    effects, changed = read(folder / "claims.csv", EFFECTS), read(folder / "changes.csv", CHANGES)
    of_kinds, laid_down = folder / "kinds.csv", load_plan(plan)
    kinds = read_table(of_kinds, ["cell"]).set_index("cell") if of_kinds.is_file() else pd.DataFrame()
    order = [cell.name for cell in laid_down.cells if cell.name in kinds.index]
    return Study(rows, effects, changed, kinds.reindex(order), laid_down)


def main_table(study: Study, layout: str) -> pd.DataFrame:
    """The methods side by side: mean over seeds ± standard deviation, in %, where it is not seconds or parameters."""
    names = [cell.name for cell in study.plan.cells if cell.part == "main"]
    found = {name: study.cell(name, layout) for name in names}
    shown = [column for column in _SHOWN if any(rows[column].notna().any() for rows in found.values())]
    table = pd.DataFrame(
        {name: {"seeds": len(rows) or ABSENT} | {column: _spread(rows[column]) for column in shown}
         for name, rows in found.items()}
    ).T  # fmt: skip
    size = f", {study.plan.triplets:,} triplets" if isinstance(study.plan.triplets, int) else ""
    return table.rename_axis(f"method{size}").rename(columns={"fusion_ms": "fusion ms a query"})


def trial_table(study: Study) -> pd.DataFrame:
    """The trials that choices were made by: R@1 on held-out train, mean ± standard deviation over seeds, in %."""
    rows = study.rows[study.rows["part"].isin(CHOICES)].drop_duplicates(["cell", "seed"])
    table = {cell: {"seeds": len(some), "held-out R@1": _spread(some["heldout"]), "seconds": _spread(some["seconds"])}
             for cell, some in rows.groupby("cell", sort=False)}  # fmt: skip
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("trial")


def _spread(values: pd.Series) -> str:
    """Mean ± standard deviation; without the latter for one seed, and for numbers that do not vary with the seed."""
    values = values.dropna()
    if values.empty:
        return ""
    digits = {"parameters": 0, "fusion_ms": 2}.get(values.name, 1)
    mean = f"{values.mean():,.{digits}f}"
    return mean if len(values) == 1 or digits == 0 else f"{mean} ± {values.std():.{digits}f}"


def ledger(study: Study) -> pd.DataFrame:
    """A row a claim of the paper: how it was tested, its effects with their intervals on each layout, the verdict.

    "holds here" and "the reverse holds here" are said only where every effect does so on every layout; else how many
    do. Where none shows a difference, the verdict says how large one may be for all that: the farthest end of their
    intervals.
    """
    rows = []
    for claim in study.plan.claims:
        found = {layout: [study.effect(claim.claim, *test, layout) for test in claim.tests] for layout in study.layouts}
        effects = [effect for each in found.values() for effect in each]
        seeds = sorted({effect["seeds"] for effect in effects if effect is not None})
        rows.append({
            "claim": claim.claim, "test": f"{claim.measure}: {'; '.join(' - '.join(test) for test in claim.tests)}",
            **{LAYOUTS[layout]: "; ".join(map(_interval, each)) for layout, each in found.items()},
            "seeds": " to ".join(map(str, seeds[:1] + seeds[1:][-1:])), "verdict": _overall(effects),
        })  # fmt: skip
    rows += [{"claim": claim, "verdict": _NO_WAY} for claim in (_UNTESTABLE if study.of_the_paper else ())]
    return pd.DataFrame(rows, columns=["claim", "test", *study.layouts.values(), "seeds", "verdict"]).fillna("")


def seeds_inside(study: Study) -> tuple[int, int]:
    """Of the effects that test claims, measured with one seed alone: how many lie in the intervals of all, of how many.

    The intervals are of a mean over seeds. A rerun with a further seed lies in them less often: these ones made them.
    """
    inside = count = 0
    for claim in study.plan.claims:
        for layout, (first, second) in itertools.product(LAYOUTS, claim.tests):
            effect = study.effect(claim.claim, first, second, layout)
            if effect is not None:
                each = study.gain(first, second, layout, claim.measure)
                inside, count = inside + each.between(effect["low"], effect["high"]).sum(), count + len(each)
    return int(inside), count


def change_table(study: Study) -> pd.DataFrame:
    """A row a cell beside the main ones: its R@1 less that of the cell it is compared with, on each layout."""
    rows = []
    for (part, cell, against), found in study.changes.groupby(["part", "cell", "against"], sort=False):
        on = {title: found[found["layout"] == layout] for layout, title in study.layouts.items()}
        effects = {title: _interval(None if some.empty else some.iloc[0]) for title, some in on.items()}
        rows.append({"part": part, "cell": cell, "less": against, **effects, "seeds": found["seeds"].max()})
    return pd.DataFrame(rows, columns=["part", "cell", "less", *study.layouts.values(), "seeds"])


def kind_table(study: Study) -> pd.DataFrame:
    """R@1 of each cell for each kind of edit, over all seeds, and where its words point, in %."""
    pointing = study.rows.groupby("cell")[list(_POINTING)].mean().rename(columns=_POINTING)
    table = study.kinds.join(pointing)
    return table.map(lambda share: "" if pd.isna(share) else f"{share:.0f}")


def _interval(effect: pd.Series | None) -> str:
    return ABSENT if effect is None else f"{effect['difference']:+.1f} ({effect['low']:+.1f} to {effect['high']:+.1f})"


def _overall(effects: list[pd.Series | None]) -> str:
    """What all effects say together; with some of them not run, none can be said to hold."""
    said = collections.Counter(ABSENT if effect is None else effect["verdict"] for effect in effects)
    if ABSENT in said:
        return ABSENT if len(said) == 1 else "not all of it run"
    if said.keys() == {NEITHER}:
        return f"{NEITHER} (at most {max(max(-e['low'], e['high']) for e in effects):.1f} points)"
    words = {HOLDS: "for it", REVERSE: "against it", NEITHER: "undecided"}
    return next(iter(said)) if len(said) == 1 else f"mixed: {_counted({words[v]: said[v] for v in words})}"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def facts(study: Study) -> str:
    """One line: data, protocol, seeds, device, commits, and whether a row was made with local changes."""
    rows = study.rows
    sizes = [f"{LAYOUTS[layout]}, protocol {some['protocol'].iloc[0]}: {some['queries'].iloc[0]:.0f} queries, "
             f"{some['gallery'].iloc[0]:.0f} gallery images"
             for layout, some in rows.groupby("layout", sort=False)]  # fmt: skip
    seeds = {part: _seeds(some) for part, some in rows.groupby("part", sort=False)}
    usual = max(seeds.values(), key=len, default=ABSENT)
    others = [f"{part}: {some}" for part in study.plan.parts() if (some := seeds.get(part, ABSENT)) != usual]
    commits = ", ".join(commit[:7] for commit in rows["commit"].dropna().unique())
    dirty = int(rows["dirty"].eq(True).sum())
    return (
        f"{_data(rows)} ({'; '.join(sizes) or 'val not measured'}). Seeds {', '.join([usual, *others])}. "
        f"{' and '.join(rows['device'].dropna().unique())}, commit {commits or 'unknown'}, "
        f"{f'{dirty} of {len(rows)} rows made' if dirty else 'no row made'} with local changes."
    )


def _data(rows: pd.DataFrame) -> str:
    name = next(iter(rows["data"].dropna()), "no data")
    return name[0].upper() + name[1:]


def _seeds(rows: pd.DataFrame) -> str:
    named = " ".join(map(str, sorted(rows["seed"].unique())))
    each = rows.groupby("cell")["seed"].nunique()
    return named if each.nunique() == 1 else f"{named} (some cells fewer)"


def markdown(study: Study) -> str:
    """Facts, main table on both layouts, ledger, changes, trials, what was dropped: `data/results/study.md`."""
    tables = [f"**{title}** (mean ± standard deviation over seeds)\n\n{as_markdown(main_table(study, layout))}"
              for layout, title in study.layouts.items()]  # fmt: skip
    within = " of ".join(map(str, seeds_inside(study)))
    claims = (
        f"**{'Claims of the paper' if study.of_the_paper else 'What has to show'}.** "
        "A verdict is about these data and the models trained here, not about the paper's. Where the effects of a "
        "claim do not agree, it says how many are for it, against it, and undecided. "
        f"Differences are in points, with 95% intervals over seeds and queries; {within} effects of one seed alone lie "
        "within.\n\n"
        f"{as_markdown(ledger(study).set_index('claim'))}"
    )
    changes = (
        "**Changes.** R@1 of every other cell less that of the one it is compared with, in points, with 95% intervals "
        "over seeds and queries; with one seed, over queries alone. The plan says what each cell is "
        "(`tmcir_lite/study/plan.yaml`, of scenes `scenes_plan.yaml`).\n\n"
        f"{as_markdown(change_table(study).set_index('part'))}"
    )
    tried = trial_table(study)
    trials = ["**Trials.** What choices were made by: recall on train triplets kept aside, never val.\n\n"
              f"{as_markdown(tried)}"] if len(tried) else []  # fmt: skip
    kinds = ["**By kind of edit** (R@1 of each, over all seeds; then, of ATF, where words point; in %)\n\n"
             f"{as_markdown(kind_table(study))}"] if len(study.kinds) else []  # fmt: skip
    size, dropped = ([_SMALLER.format(triplets=study.plan.triplets)], [_DROPPED]) if study.of_the_paper else ([], [])
    return "\n\n".join([facts(study), *size, *tables, claims, changes, *kinds, *trials, *dropped]) + "\n"


def as_markdown(table: pd.DataFrame) -> str:
    """A table of texts, without anything cut off or taken for a number."""
    return table.astype(str).to_markdown(disable_numparse=True)
