"""The keys of a profile: strict and typed, each with its meaning; checked in full before anything runs."""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from tmcir_lite.io.files import resolve

WITHOUT_EFFECT = (
    "name", "runs", "device", "*.root", "data.workers", "data.cache", "backbone.gradient_checkpointing",
    "editor.batch", "*.chunk",
)  # fmt: skip
"""Keys that change no result but for rounding: where things lie, and how much is done at once or by whom. A started run
goes on with others. What lies at a root does decide: see `run.folder.start_run`."""

Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]  # multiplied below 2**63, which is what generators take
Count = Annotated[int, Field(ge=1)]
ContrastiveBatch = Annotated[int, Field(ge=2)]  # a batch of one has no negatives
Share = Annotated[float, Field(ge=0, le=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


def _without_null(text: str) -> str:
    if "\0" in text:
        raise ValueError(f"{text!r} holds a null character, which no path and no name can")
    return text


Text = Annotated[str, Field(min_length=1), AfterValidator(_without_null)]
Layout = Literal["fashioniq", "cirr"]
CaptionJoin = Literal["and", "random", "reversed", "first"]
QueryCaptions = Literal["and", "reversed", "first", "both"]
ProtocolName = Literal["original", "original-masked", "val-union", "cirr"]
PROTOCOLS: dict[Layout, tuple[ProtocolName, ...]] = {
    "fashioniq": ("original", "original-masked", "val-union"),
    "cirr": ("cirr",),
}
"""What queries can be ranked against in each layout; see `evaluation.protocols`."""


class Section(BaseModel):
    """No unknown keys, no conversion of types (an int may stand for a float), no change after loading."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class GarmentsSettings(Section):
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


class ScenesSettings(Section):
    """How the built-in world of scenes is drawn, in CIRR's layout."""

    root: Text
    seed: Seed
    train: Count
    """queries"""
    val: Count
    """queries"""
    train_pairs: Count = 4
    """queries that share an img_set"""
    val_pairs: Count = 2
    """likewise"""


class EvaluationSet(Section):
    """One more dataset whose val split is measured."""

    layout: Layout
    root: Text


class DataSettings(Section):
    """The dataset trained and evaluated on."""

    layout: Layout
    root: Text
    categories: Annotated[list[Text], Field(min_length=1)] | None = None
    """null: every category found in the files"""
    train_captions: CaptionJoin
    """how the captions of a triplet become one text: and | random | reversed | first; see captions.join_captions"""
    val_captions: QueryCaptions = "and"
    """and | reversed | first | both: the mean of the features of both orders"""
    heldout: OpenShare = 0.1
    """share of train kept aside: epochs and weights are chosen on it, never on val"""
    edits_together: Count = 1
    """batches of stage 2 hold this many triplets of one source side by side, as in CSS and CIRR; 1: drawn at random"""
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


class BackboneSettings(Section):
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


class EditorSettings(Section):
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


class TrainingSettings(Section):
    """What all trainings share."""

    epochs: Annotated[int, Field(ge=0)]
    batch: ContrastiveBatch
    chunk: Count | None = None
    """pairs encoded at once, where memory cannot hold the batch (same gradient); null: all"""
    lr: Positive
    weight_decay: NonNegative = 0.05
    warmup: Share = 0.1
    """share of the steps"""


class RivalSettings(TrainingSettings):
    """A method that ours is compared with."""

    decay: Literal["cosine", "none"] = "cosine"
    """of the rate after warm-up: cosine | none"""
    temperature: Literal["published", "learned"] = "published"
    """published: 1/tau is fixed, at 100 for CLIP4Cir and the backbone's for Pic2Word | learned, from the backbone's"""


class Clip4CirSettings(RivalSettings):
    """CLIP4Cir's stage 1: the encoders, so that image + text is near the target."""

    encoders: Literal["both", "image", "text"] = "both"
    """what is trained: both, as published | image | text"""


class IacmaSettings(TrainingSettings):
    """Stage 1: the encoders on (pseudo-target image, text) pairs."""

    symmetric: bool = False
    """false: the paper's loss, whose negatives are texts only"""
    keep: Literal["chosen", "last"] = "chosen"
    """the epoch that stage 2 starts from: the one chosen on held-out train, which may be 0, or the last"""


class AtfSettings(TrainingSettings):
    """Stage 2: adaptive token fusion."""

    fusion_lr: Positive
    """of the fusion's own weights; lr is the encoders'"""
    encoders: Literal["both", "image", "text", "none"] = "both"
    """what is trained with the fusion: both, as in the paper | image | text | none"""
    threshold_is: Literal["quantile", "absolute"] = "quantile"
    """quantile of each query's own best-match similarities | absolute: a cosine"""
    threshold: float = 0.5
    """above 1 merges nothing"""

    @field_validator("threshold")  # declared after `threshold_is`, so that it is known here
    @classmethod
    def _quantile_is_not_negative(cls, value: float, info: ValidationInfo) -> float:
        if value < 0 and info.data.get("threshold_is") == "quantile":
            raise ValueError(f"{value} is no quantile: expected 0 to 1, or above 1 to merge nothing")
        return value


class EvaluationSettings(Section):
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
    garments: GarmentsSettings | None = None
    scenes: ScenesSettings | None = None
    data: DataSettings
    backbone: BackboneSettings
    editor: EditorSettings
    iacma: IacmaSettings
    atf: AtfSettings
    clip4cir: Clip4CirSettings
    combiner: RivalSettings
    pic2word: RivalSettings
    evaluation: EvaluationSettings

    @field_validator("evaluation")  # declared after `data`, so that its layout is known here
    @classmethod
    def _protocols_of_the_layout(cls, value: EvaluationSettings, info: ValidationInfo) -> EvaluationSettings:
        if "data" in info.data:
            known = PROTOCOLS[info.data["data"].layout]
            for name in value.protocols:
                if name not in known:
                    raise ValueError(f"protocols: {name}: {info.data['data'].layout} has {', '.join(known)}")
        return value

    @property
    def drawn(self) -> bool:
        """Whether its pictures are drawn: what they show is known, and published numbers say nothing of them."""
        return self.garments is not None or self.scenes is not None

    @property
    def run_dir(self) -> Path:
        """The folder in which this run leaves everything."""
        return resolve(self.runs) / self.name


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
