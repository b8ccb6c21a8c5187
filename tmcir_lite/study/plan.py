"""The study's plan: which cells are run and which claims they test; see `plan.yaml`."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from tmcir_lite.config import Config, EvaluationSet, GarmentsSettings, Layout, Section, load_config, read_yaml
from tmcir_lite.data.garments import World
from tmcir_lite.io.files import InputError, resolve
from tmcir_lite.study.known_edits import Spoil
from tmcir_lite.study.variants import FUSIONS

PLAN = Path(__file__).with_name("plan.yaml")
MAIN, TUNING = "main", "tuning"
"""The parts that have the methods side by side, and the trials that are looked at on held-out train only."""
CHOICES = (TUNING, "full size")
"""The parts whose recall on held-out train decided what the profile has."""
MethodName = Literal["image only", "text only", "weighted sum", "Pic2Word", "CLIP4Cir, stage 1", "CLIP4Cir", "TMCIR"]


class Edits(Section):
    """Pseudo-targets drawn by the world: perfect ones, of which a share is spoiled (`known_edits`)."""

    spoil: Spoil
    share: float


Triplets = Annotated[int, Field(ge=1)] | Literal["all"]


class Alignment(Section):
    """A run of IACMA that cells start from."""

    set: list[str] = []
    pictures: Literal["pseudo", "real"] = "pseudo"
    """What its texts are paired with: the editor's pictures (or `edits`), or the real targets."""
    edits: Edits | None = None
    words: float = 0.0
    """Weight of a second loss that compares words with patches (`variants.WordsToo`)."""
    triplets: Triplets | None = None
    """What it and its cells learn from; None: as the plan says."""
    world: dict[str, int | float] | None = None
    """Changes to the garment world that it learns from; cells are trained and measured on the plain one."""
    layout: Layout | None = None
    """Which of the profile's datasets it learns from, and its cells with it; None: the main one."""


class Cell(Section):
    """One row of the study for each seed."""

    part: str
    name: str
    method: MethodName
    aligned: str = "none"
    set: list[str] = []
    models: str | None = None
    """Of CLIP4Cir: the cell before it whose trained models are measured here; None: it trains its own."""
    fusion: str = "ATF"
    """Of method TMCIR; a name in `variants.FUSIONS`."""
    triplets: Triplets | None = None
    """What it learns from; None: as its alignment says."""
    targets: Literal["real", "pseudo"] = "real"
    """What its queries are trained towards: "pseudo" are the pictures of its alignment."""
    neighbours: int = 1
    """More than 1: batches with hard negatives (`run.data.Data`)."""
    world: dict[str, int | float] | None = None
    """Changes to the garment world that it is trained and measured on."""
    x: float | None = None
    """Where it stands on the axis of its part's figure."""
    against: str | None = None
    """The cell that it is compared with; None: the main one of its method."""


class Claim(Section):
    """A claim of the paper, and the differences between cells that test it."""

    claim: str
    tests: list[Annotated[list[str], Field(min_length=2, max_length=2)]]
    measure: str = "R@1"


class Plan(Section):
    """All of it."""

    triplets: Triplets
    base: list[str]
    alignments: dict[str, Alignment]
    cells: list[Cell]
    claims: list[Claim]

    def parts(self) -> list[str]:
        """The names of the parts, in order."""
        return list(dict.fromkeys(cell.part for cell in self.cells))

    def against(self, cell: Cell) -> str:
        """The name of the cell that one is compared with: the main cells are named for their methods."""
        return cell.against or cell.method


def load_plan(path: Path = PLAN) -> Plan:
    """Reads and checks a plan.

    Raises:
        InputError: it is not as `Plan` says, or names a cell, an alignment or a rule of the world that there is not.
    """
    try:
        plan = Plan.model_validate(read_yaml(path, like=PLAN))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise InputError(f"{path}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
    names = [cell.name for cell in plan.cells]
    used = [name for claim in plan.claims for test in claim.tests for name in test]
    used += [plan.against(cell) for cell in plan.cells if cell.part not in (MAIN, TUNING)]
    unknown = [cell.aligned for cell in plan.cells if cell.aligned not in plan.alignments]
    unknown += [name for name in used if name not in names]
    unknown += [cell.fusion for cell in plan.cells if cell.fusion not in FUSIONS]
    rules = {field.name for field in fields(World)}
    worlds = [one.world for one in (*plan.alignments.values(), *plan.cells) if one.world]
    unknown += [name for world in worlds for name in world if name not in rules]
    if unknown or len(set(names)) < len(names):
        raise InputError(f"{path}: {(unknown or [max(names, key=names.count)])[0]!r} is unknown or stands twice")
    return plan


def chosen_cells(plan: Plan, parts: Sequence[str], cfg: Config) -> list[Cell]:
    """The cells of some parts, or of all (no `parts`): then those are left out, and named, that cannot be run.

    Perfect edits can be drawn in a drawn world only, and worlds that drift otherwise of garments only.

    Raises:
        InputError: an unknown part, or one with a cell that cannot be run.
    """
    unknown = set(parts) - set(plan.parts())
    if unknown:
        raise InputError(f"study: no part {min(unknown)!r}; there are {', '.join(plan.parts())}")
    cells = [cell for cell in plan.cells if not parts or cell.part in parts]
    impossible = [cell for cell in cells if not _can_be_drawn(cell, plan.alignments[cell.aligned], cfg)]
    if impossible:
        names = ", ".join(f"{cell.name} ({cell.part})" for cell in impossible)
        if parts:
            raise InputError(f"study: the pictures that these cells need cannot be drawn of this dataset: {names}")
        print(f"study: left out, since their pictures cannot be drawn of this dataset: {names}", flush=True)
    return [cell for cell in cells if cell not in impossible]


def _can_be_drawn(cell: Cell, alignment: Alignment, cfg: Config) -> bool:
    if cell.world or alignment.world:
        return cfg.garments is not None
    return alignment.edits is None or cfg.drawn


def cell_config(plan: Plan, cell: Cell, profile: str, overrides: Sequence[str], seed: int) -> Config:
    """The run that a cell is with a seed: in `<runs>/<profile's name>-study/seed<seed>/<cell>`."""
    alignment = plan.alignments[cell.aligned]
    cfg = _config(plan, alignment, profile, [*overrides, *alignment.set, *cell.set], cell.name, seed)
    return _in_world(cfg, cell.world)


def alignment_config(plan: Plan, name: str, profile: str, overrides: Sequence[str], seed: int) -> Config:
    """The run of IACMA that an alignment is with a seed, beside those of the cells."""
    alignment = plan.alignments[name]
    cfg = _config(plan, alignment, profile, [*overrides, *alignment.set], f"IACMA {name}", seed)
    return _in_world(cfg, alignment.world)


def _learning_from(cfg: Config, layout: Layout | None) -> Config:
    """The same run with the main dataset and the further one of that layout in each other's place."""
    if layout in (None, cfg.data.layout):
        return cfg
    others = {other.layout: other for other in cfg.data.also_evaluate}
    if layout not in others:
        raise InputError(f"study: no dataset of layout {layout} to learn from in data.also_evaluate")
    main = EvaluationSet(layout=cfg.data.layout, root=cfg.data.root)
    further = [main if other.layout == layout else other for other in cfg.data.also_evaluate]
    data = {"layout": layout, "root": others[layout].root, "also_evaluate": further}
    return cfg.model_copy(update={"data": cfg.data.model_copy(update=data)})


def _in_world(cfg: Config, changes: dict[str, int | float] | None) -> Config:
    """The same run on a garment world with changes, in a folder beside the plain one that is named for them.

    Sizes are keys of the profile; the world's rules are not, see `world_rules`.
    """
    if changes is None:
        return cfg
    plain = cfg.garments.root
    root = f"{plain}-{slug(' '.join(f'{name} {value:g}' for name, value in changes.items()))}"
    further = [
        other.model_copy(update={"root": root + other.root.removeprefix(plain)}) for other in cfg.data.also_evaluate
    ]
    data = {"root": root + cfg.data.root.removeprefix(plain), "also_evaluate": further}
    rules = world_rules(changes)
    sizes = {name: value for name, value in changes.items() if name not in rules}
    return cfg.model_copy(update={
        "garments": cfg.garments.model_copy(update={**sizes, "root": root}),
        "data": cfg.data.model_copy(update=data),
    })  # fmt: skip


def world_rules(changes: dict[str, int | float] | None) -> dict[str, float]:
    """Of the changes to a garment world those that no profile has: how its targets drift."""
    return {name: value for name, value in (changes or {}).items() if name not in GarmentsSettings.model_fields}


def pictures_config(plan: Plan, name: str, profile: str, overrides: Sequence[str]) -> Config:
    """The run that draws an alignment's pseudo-targets: beside the seeds' folders, since seeds share it.

    So do alignments, as long as they ask for the same editor and learn from the same dataset.
    """
    alignment = plan.alignments[name]
    editor = [change for change in alignment.set if change.startswith("editor.")]
    kind = " ".join(["pictures", *filter(None, [alignment.layout]), *editor])
    cfg = _config(plan, alignment, profile, [*overrides, *editor], kind, 0)
    return cfg.model_copy(update={"runs": str(Path(cfg.runs).parent)})


def _config(plan: Plan, alignment: Alignment, profile: str, changes: Sequence[str], name: str, seed: int) -> Config:
    base = _learning_from(load_config(profile, [*plan.base, *changes]), alignment.layout)
    return base.model_copy(update={"name": slug(name), "seed": seed, "runs": f"{_folder(base)}/seed{seed}"})


def _folder(cfg: Config) -> str:
    return f"{cfg.runs}/{cfg.name}-study"


def finished_runs(cfg: Config, cell: Cell) -> list[Path]:
    """The `result.csv` of every seed that a cell has been run with, in the study of the profile `cfg`."""
    return sorted(resolve(_folder(cfg)).glob(f"seed*/{slug(cell.name)}/result.csv"))


def slug(name: str) -> str:
    """A name as a folder's name."""
    return "".join(letter if letter.isalnum() or letter == "." else "-" for letter in name.lower()).replace("--", "-")
