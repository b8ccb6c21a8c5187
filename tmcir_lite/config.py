"""One strict, typed configuration: a YAML profile plus overrides, checked in full before anything runs.

Keys have a default where one value serves everywhere; `python -m tmcir_lite config` prints and explains the whole.
"""

import contextlib
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from tmcir_lite.files import ROOT, InputError, resolve
from tmcir_lite.processes import own_device

PROFILES = ROOT / "notebooks" / "params"
EDITORS = PROFILES / "editors.yaml"
WITHOUT_EFFECT = (
    "name", "runs", "device", "*.root", "data.workers", "data.cache", "backbone.gradient_checkpointing",
    "editor.batch", "*.chunk",
)  # fmt: skip
"""Keys that change no result but for rounding: where things lie, and how much is done at once or by whom. A started run
goes on with others. What lies at a root does decide: see `run_folder.start_run`."""

Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]  # multiplied below 2**63, which is what generators take
Count = Annotated[int, Field(ge=1)]
ContrastiveBatch = Annotated[int, Field(ge=2)]  # a batch of one has no negatives
Share = Annotated[float, Field(ge=0, le=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]
Layout = Literal["fashioniq", "cirr"]
CaptionJoin = Literal["and", "random", "reversed", "first"]
QueryCaptions = Literal["and", "reversed", "first", "both"]
ProtocolName = Literal["original", "original-masked", "val-union", "cirr"]


class Section(BaseModel):
    """No unknown keys, no conversion of types (an int may stand for a float), no change after loading."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Garments(Section):
    """How the built-in dataset is drawn."""

    root: Text
    seed: Seed
    train: Count
    """triplets over the three categories"""
    val: Count
    """queries over the three categories"""
    gallery: Count
    """pictures per category in the val gallery"""
    cirr_train: Count
    """pairs in the CIRR layout"""
    cirr_val: Count
    family: Count
    """queries whose references are variants (1 to 3 attributes off) of one garment"""
    nuisance_drift: Share = 1.0
    """0: the target keeps the reference's background, position, light; 1: drawn afresh"""
    unasked_change: Share = 0.0
    """probability that the target also differs in an attribute no caption names"""
    contradiction: Share = 0.0
    """probability that the target has one asked-for attribute otherwise than the captions say"""
    background_by_text: Share = 0.0
    """probability that the target's background goes with what the captions ask for first"""
    full_captions: Share = 0.0
    """probability that the captions describe the whole target, not the change"""


class EvaluationSet(Section):
    """One more dataset whose val split is measured."""

    layout: Layout
    root: Text


class Data(Section):
    """The dataset trained and evaluated on."""

    layout: Layout
    root: Text
    categories: Annotated[list[Text], Field(min_length=1)] | None = None
    """null: every category found in the files"""
    train_captions: CaptionJoin
    """how the captions of a triplet become one text: and | random | reversed | first; see datasets.join_captions"""
    val_captions: QueryCaptions = "and"
    """and | reversed | first | both: the mean of the features of both orders"""
    heldout: OpenShare = 0.1
    """share of train kept aside: epochs and weights are chosen on it, never on val"""
    triplets: Count | None = None
    """train on this many of the others, drawn by the seed; null: all"""
    neighbours: Count = 1
    """hard negatives where real targets are trained on: batches of groups of this many near targets"""
    workers: Annotated[int, Field(ge=0)] = 0
    """processes that read and resize pictures ahead of training; 0: training does it itself"""
    cache: Text | None = None
    """a folder for decoded and cropped pictures, 150 KB each at 224 pixels; null: decode each time"""
    skip_missing: bool = False
    """true leaves out triplets whose pictures are missing or broken, and says how many with every result"""
    also_evaluate: list[EvaluationSet] = []
    """further val splits that the trained model is measured on"""

    @field_validator("also_evaluate")
    @classmethod
    def _layouts_differ(cls, value: list[EvaluationSet], info: ValidationInfo) -> list[EvaluationSet]:
        layouts = [info.data.get("layout"), *(other.layout for other in value)]
        if len(set(layouts)) < len(layouts):
            raise ValueError(f"layouts {', '.join(map(str, layouts))} with that of data: results are told apart by "
                             "layout, so name each once and give another dataset a run of its own")  # fmt: skip
        return value


class Backbone(Section):
    """The open_clip model, its preprocessing, and what of it is trained."""

    name: Text
    pretrained: Text | None = None
    """the weights of a built-in name: a tag of open_clip or a safetensors file"""
    target_pad: Annotated[float, Field(ge=1)] = 1.25
    """pictures are padded until long side / short side is at most this (CLIP4Cir)"""
    unlocked_image_groups: Annotated[int, Field(ge=0)] | None = None
    """null: all of the encoder is trained; N: only its last N groups (open_clip's lock)"""
    unlocked_text_layers: Annotated[int, Field(ge=0)] | None = None
    """likewise"""
    gradient_checkpointing: bool = False
    """saves memory in training, for a third more time"""


class Editor(Section):
    """The diffusion model that draws pseudo-targets, and its sampling."""

    model: Text
    revision: Text | None = None
    pipeline: Text | None = None
    """a diffusers class; null: the one that the model's folder names"""
    size: Count
    """pictures are padded to a square of this many pixels"""
    start: Literal["noise", "reference"] = "noise"
    """where sampling starts: noise | reference (editors trained to start there)"""
    start_noise: Share = 0.0
    """noise added to the reference there"""
    strength: Share | None = None
    """img2img pipelines: share of the way back to noise; null: the pipeline has none"""
    steps: Count
    guidance: NonNegative
    image_guidance: NonNegative = 1.0
    batch: Count
    limit: Count | None = None
    """pseudo-targets for the first N train triplets; null: all"""


class Training(Section):
    """What all trainings share."""

    epochs: Annotated[int, Field(ge=0)]
    batch: ContrastiveBatch
    chunk: Count | None = None
    """pairs encoded at once, where memory cannot hold the batch (same gradient); null: all"""
    lr: Positive
    weight_decay: NonNegative = 0.05
    warmup: Share = 0.1
    """share of the steps"""


class Rival(Training):
    """A method that ours is compared with."""

    decay: Literal["cosine", "none"] = "cosine"
    """of the rate after warm-up: cosine | none"""
    temperature: Literal["published", "learned"] = "published"
    """published: 1/tau is fixed, at 100 for CLIP4Cir and the backbone's for Pic2Word | learned, from the backbone's"""


class Iacma(Training):
    """Stage 1: the encoders on (pseudo-target image, text) pairs."""

    symmetric: bool = False
    """false: the paper's loss, whose negatives are texts only"""
    images: Literal["pseudo", "real"] = "pseudo"
    """pseudo | real targets: what the text is paired with"""
    token_weight: NonNegative = 0.0
    """of a second InfoNCE that compares words with patches (our addition, FILIP's loss)"""
    keep: Literal["chosen", "last"] = "chosen"
    """the epoch that stage 2 starts from: the one chosen on held-out train, which may be 0, or the last"""

    @field_validator("token_weight")
    @classmethod
    def _tokens_need_the_whole_batch(cls, value: float, info: ValidationInfo) -> float:
        if value and info.data.get("chunk"):
            raise ValueError(f"{value} compares the tokens of the whole batch: set iacma.chunk to null or this to 0")
        return value


class Atf(Training):
    """Stage 2: adaptive token fusion, or something else in its place."""

    fusion_lr: Positive
    """of the fusion's own weights; lr is the encoders'"""
    encoders: Literal["both", "image", "text", "none"] = "both"
    """what is trained with the fusion: both, as in the paper | image | text | none"""
    fusion: Literal["merge", "cross-attention", "sum"] = "merge"
    """merge: the paper's | cross-attention: words that look at patches, as large | sum: no fusion"""
    threshold_is: Literal["quantile", "absolute"] = "quantile"
    """quantile of each query's own best-match similarities | absolute: a cosine"""
    threshold: float = 0.5
    """above 1 merges nothing"""
    pool: Literal["attention", "mean"] = "attention"
    positions: bool = True
    residual: bool = True

    @field_validator("threshold")  # declared after `threshold_is`, so that it is known here
    @classmethod
    def _quantile_is_not_negative(cls, value: float, info: ValidationInfo) -> float:
        if value < 0 and info.data.get("threshold_is") == "quantile":
            raise ValueError(f"{value} is no quantile: expected 0 to 1, or above 1 to merge nothing")
        return value


class Evaluation(Section):
    """What is measured on the val split."""

    protocols: Annotated[list[ProtocolName], Field(min_length=1)]
    recall_at: Annotated[list[Count], Field(min_length=1)] = [1, 5, 10, 50]
    choose_at: Count = 10
    """epochs and the sum's text weight are chosen by this R@k on held-out train"""


class Config(Section):
    """A whole run. A profile (`notebooks/params`) has what it does not leave at its default."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """the run is kept in <runs>/<name>"""
    seed: Seed = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto | cpu | cuda | mps"""
    runs: Text = "runs"
    garments: Garments | None = None
    data: Data
    backbone: Backbone
    editor: Editor
    iacma: Iacma
    atf: Atf
    clip4cir: Rival
    combiner: Rival
    pic2word: Rival
    evaluation: Evaluation

    @property
    def run_dir(self) -> Path:
        """The folder in which this run leaves everything."""
        return resolve(self.runs) / self.name


def load_config(profile: str | Path, overrides: Sequence[str] | str | None = ()) -> Config:
    """Reads a profile, applies overrides, checks everything.

    Args:
        profile: a name in `notebooks/params` ("lite"), or the path of a YAML file (ending in .yaml or .yml).
        overrides: "section.key=value" strings, or one string (see `as_overrides`); the value is read as YAML, but that
            no comment begins in it; a later one wins. "editor=NAME" takes all of the section from `editors.yaml`.

    Raises:
        InputError: unknown profile, unreadable YAML, unknown or missing key, wrong type, value out of range.
            One line a problem, each with the key's full dotted name.
    """
    path = _profile_path(profile)
    values = read_yaml(path)
    _look_up_editor(values, path)
    sources = {}
    for override in as_overrides(overrides):
        sources[_apply(values, override)] = f"override {override!r}"
        _look_up_editor(values, f"override {override!r}")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False):
            key = _dotted(problem["loc"])
            source = next((text for name, text in sources.items() if _overlap(key, name)), path)
            lines.append(f"{source}: {key}: {_explain(problem)}")
        raise InputError("\n".join(lines)) from None


def as_overrides(given: Sequence[str] | str | None) -> list[str]:
    """Overrides as a list, from what a notebook's parameter may hold: a list, nothing, or a string.

    In a string they stand one after the other, "seed=1 name=x", or as a YAML list, "[seed=1, name=x]".

    Raises:
        InputError: it is something else.
    """
    if isinstance(given, str):
        text = given.strip()
        given = re.split(r"[\s,;]+(?=[\w.]+=)", text) if text else []
        if text.startswith("["):
            with contextlib.suppress(yaml.YAMLError):
                given = yaml.safe_load(text)
    if not isinstance(given or [], (list, tuple)) or not all(isinstance(each, str) for each in given or []):
        raise InputError(f'overrides: {given!r}: expected a list of "section.key=value" texts, such as ["seed=1"]')
    return list(given or [])


def pick_device(name: str) -> torch.device:
    """The device that `device:` names; "auto" takes cuda, else mps, else cpu.

    Raises:
        InputError: the name is unknown, or this machine has no such device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    if name not in available:
        raise InputError(f"device: {name!r}: expected auto, cpu, cuda or mps")
    if not available[name]:
        raise InputError(f"device: {name}: this machine has none that PyTorch can use; write auto or cpu")
    return own_device(name)


def explained(section: Section, indent: str = "") -> str:
    """A configuration as YAML, every key of it, each with what it means."""
    lines = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            lines += [f"{indent}{name}:  # {type(value).__doc__}", explained(value, f"{indent}  ")]
            continue
        plain = yaml.safe_dump(section.model_dump(include={name})[name], default_flow_style=True, width=1000)
        plain = plain.removesuffix("...\n").strip()  # YAML's own end of a document that is one value
        what = f"  # {field.description}" if field.description else ""
        lines.append(f"{indent}{name}: {plain}{what}")
    return "\n".join(lines)


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's own loader silently keeps the last of two equal keys; this one refuses them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _look_up_editor(values: dict[str, Any], source: object) -> None:
    """Where `editor` is a name, puts in its place the section that `editors.yaml` has under this name."""
    name = values.get("editor")
    if isinstance(name, str):
        table = read_yaml(EDITORS)
        if name not in table:
            raise InputError(f"{source}: editor: {name!r} is unknown; {EDITORS} has {', '.join(table)}")
        values["editor"] = table[name]


def profiles() -> list[str]:
    """The names of the shipped profiles."""
    return sorted(file.stem for file in PROFILES.glob("*.yaml") if file != EDITORS)


def _profile_path(profile: str | Path) -> Path:
    if not isinstance(profile, (str, Path)):
        raise InputError(f"profile: {profile!r}: expected a name in {PROFILES}, or the path of a .yaml file")
    if Path(profile).suffix in (".yaml", ".yml"):
        return resolve(profile)
    path = PROFILES / f"{profile}.yaml"
    if not path.is_file() or path == EDITORS:
        known = ", ".join(profiles())
        raise InputError(f"profile {str(profile)!r}: unknown; known: {known}; or give the path of a .yaml file")
    return path


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file.

    Raises:
        InputError: it is missing, no YAML, or no `key: value` lines.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise InputError(f"{path}, line {mark.line + 1}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:  # ValueError: no text, or no such date
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no `key: value` lines; start from {PROFILES / 'lite.yaml'}")
    return values


def _apply(values: dict[str, Any], override: str) -> str:
    """Sets one "a.b=value" in the nested `values`; returns the key. Whether the key exists is checked later."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise InputError(f"override {override!r}: write it as section.key=value")
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        comment = "#" in text[node.end_mark.index if node else 0 :]  # of no use here, and a path may have one
        value = text.strip() if comment else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise InputError(f"override {override!r}: {text!r} is not a YAML value") from None
    *sections, last = key.split(".")
    inner = values
    for section in sections:
        inner = inner.setdefault(section, {})
        if not isinstance(inner, dict):
            raise InputError(f"override {override!r}: {section} is {inner!r} in the profile, not a section")
    inner[last] = value
    return key


def _explain(problem: dict[str, Any]) -> str:
    """One line for one of pydantic's problems."""
    kind, value = problem["type"], problem["input"]
    if kind == "missing":
        return "missing; `python -m tmcir_lite config` explains every key"
    if kind == "extra_forbidden":
        *parents, unknown = problem["loc"]
        known = _keys_at(parents)
        close = difflib.get_close_matches(str(unknown), known, n=1)
        hint = f"did you mean {_dotted([*parents, *close])}?" if close else f"known: {', '.join(known)}"
        return f"unknown key; {hint}"
    if kind == "model_type":
        return f"{value!r}: expected a section of `key: value` lines"
    if kind == "float_type" and (number := _yaml_number(value)):
        return f"{value!r} is text to YAML, expected a number: write {number}"
    if kind == "string_type":
        return (
            f"{value} is a {type(value).__name__} to YAML, expected text: write it in quotes of its own, '\"{value}\"'"
        )
    if kind == "string_pattern_mismatch":
        return f"{value!r}: expected letters, digits, dot, dash and underscore only, a letter or digit first"
    if kind == "value_error":
        return str(problem["ctx"]["error"])
    return f"{value!r} ({type(value).__name__}): {problem['msg'].replace('Input should', 'should')}"


def _keys_at(loc: Sequence[str | int]) -> list[str]:
    """The keys that the section at `loc` has."""
    model = Config
    for part in loc:
        if isinstance(part, str):  # an int is a place in a list, whose field was named before it
            annotation = model.model_fields[part].annotation
            types = [kind for kind in (*get_args(annotation), annotation) if isinstance(kind, type)]
            model = next(kind for kind in types if issubclass(kind, Section))
    return list(model.model_fields)


def _yaml_number(value: Any) -> str | None:
    """How to write in YAML the number that a text such as "1e-5" means; None if it means none."""
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", str(value).strip(), re.IGNORECASE):
        return None
    mantissa, _, exponent = value.strip().lower().partition("e")
    mantissa += "" if "." in mantissa else ".0"
    return f"{mantissa}e{int(exponent):+d}" if exponent else mantissa


def _dotted(loc: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in loc)


def _overlap(one: str, other: str) -> bool:
    """Whether one dotted key is the other or lies inside it."""
    shorter, longer = sorted((one, other), key=len)
    return f"{longer}.".startswith(f"{shorter}.")
