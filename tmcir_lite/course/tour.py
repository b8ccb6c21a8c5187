"""The tour: five methods with the shipped models on a small gallery, asked with its own queries and with yours."""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import ipywidgets as widgets
import pandas as pd
import torch
from IPython.display import clear_output, display
from matplotlib.figure import Figure
from torch import Tensor

from tmcir_lite.config import Config, as_overrides, load_config
from tmcir_lite.course.shipped import restore
from tmcir_lite.data.datasets import Split, load_split
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.data.pictures import load_image, load_photo
from tmcir_lite.evaluation.features import encode_captions, encode_images, encode_queries, joined
from tmcir_lite.evaluation.intent import intent
from tmcir_lite.evaluation.protocols import Protocol
from tmcir_lite.evaluation.ranking import recall, top
from tmcir_lite.figures import plots, tokens
from tmcir_lite.figures.examples import OURS, Example, Ranked, example, find
from tmcir_lite.io.files import InputError, atomic
from tmcir_lite.method.atf import Match
from tmcir_lite.method.cached import CachedEncoder
from tmcir_lite.method.checkpoint import read_history
from tmcir_lite.method.encoders import Backbone
from tmcir_lite.method.losses import Contrastive
from tmcir_lite.method.model import Composed
from tmcir_lite.rivals.sums import Baseline, image_only, text_only, weighted_sum
from tmcir_lite.run.data import draw_worlds, known_contents
from tmcir_lite.run.models import load_clip4cir, load_start, load_trained
from tmcir_lite.scale.search import check_text

SMALL = (
    "runs=data/tour", "name=trained", "scenes=null", "garments.root=data/tour/garments", "garments.seed=1",
    "garments.train=3", "garments.val=90", "garments.gallery=200", "garments.cirr_train=1", "garments.cirr_val=1",
    "garments.family=10", "data.layout=fashioniq", "data.root=data/tour/garments/fashioniq", "data.also_evaluate=[]",
    "device=cpu",
)  # fmt: skip
"""Changes to the lite profile: a world of 600 gallery pictures and 90 queries; the models lie beside it."""


class Way(NamedTuple):
    """One method, and what its encoders say of the gallery."""

    encoders: Backbone | CachedEncoder
    query: Baseline | Contrastive
    gallery: Tensor
    """G D."""


@dataclass(frozen=True)
class Tour:
    """A gallery and the methods that rank it; of every ranking the reference image is left out."""

    cfg: Config
    split: Split
    """The small world's val split."""
    names: list[str]
    """All of its pictures, in the order of the gallery's rows."""
    ways: dict[str, Way]
    text_weight: float
    """Of the weighted sum; it was chosen on held-out train."""

    @property
    def model(self) -> Composed:
        """TMCIR."""
        return self.ways[OURS].query

    def queries(self, method: str, triplets: Sequence[Triplet], images: Mapping[str, Path]) -> Tensor:
        """A method's query features, Q D."""
        encoders, query, _ = self.ways[method]
        captions = self.cfg.data.val_captions
        if isinstance(query, Contrastive):
            return encode_queries(query, triplets, dict(images), captions)
        references = encode_images(encoders, [images[triplet.reference_name] for triplet in triplets])
        return query(references, encode_captions(encoders, triplets, captions))

    def find(self, triplets: Sequence[Triplet], k: int = 1) -> dict[str, Ranked]:
        """What each method finds for queries of the tour's own."""
        features = {name: (self.queries(name, triplets, self.split.images), way.gallery)
                    for name, way in self.ways.items()}  # fmt: skip
        return find(features, triplets, Protocol(self.names, masked=True), k)

    def side_by_side(self, triplet: Triplet, k: int = 5) -> Example:
        """One query of the tour's own and the first `k` answers of each method, to be drawn by `plots.retrievals`."""
        found = self.find([triplet], k)
        return example("Asked for", triplet, 0, found, self.names, self.split, known_contents(self.split))

    def table(self) -> pd.DataFrame:
        """Methods as rows; recall of all of the tour's queries, and what their first answers change and keep, in %."""
        rows, triplets, known = {}, self.split.triplets, known_contents(self.split)
        for name, (ranks, best) in self.find(triplets).items():
            met = intent(triplets, [self.names[row] for row in best.flatten().tolist()], known)
            rows[name] = {"R@1": recall(ranks, 1), "R@10": recall(ranks, 10),
                          "changed": met["changed"], "kept": met["kept"]}  # fmt: skip
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")

    def match(self, triplets: Sequence[Triplet], images: Mapping[str, Path]) -> tuple[Match, list[list[str]]]:
        """What TMCIR merges in each query, and the query's words."""
        there = replace(self.split, images=dict(images))
        words = [self.model.backbone.words(text) for text in joined(triplets, self.cfg.data.val_captions)]
        return tokens.match_queries(self.cfg, self.model, triplets, there), words

    def merged_words(self) -> pd.DataFrame:
        """Words as rows, the most frequent first: `kind`, how often `asked` in the tour's queries, and `merged`."""
        said = tokens.merged_words(self.cfg, self.model, self.split.triplets, self.split)
        counts = said.groupby(["word", "kind"], sort=False)["merged"].agg(asked="size", merged="sum")
        return counts.sort_values("asked", ascending=False, kind="stable").reset_index("kind")

    def rank(self, picture: str | Path, text: str, method: str = OURS, k: int = 5) -> list[str]:
        """Names of the `k` gallery pictures that a method finds for any picture and text, best first.

        Args:
            picture: a name of the gallery, or a file.

        Raises:
            InputError: no such method or picture; a text without words, or beyond what the model reads.
        """
        if method not in self.ways:
            raise InputError(f"method {method!r}: unknown; known: {', '.join(self.ways)}")
        return self._rank(*self._ask(picture, text), method, k)

    def answer(
        self, picture: str | Path, text: str, methods: Sequence[str] = ("CLIP4Cir", OURS), k: int = 5
    ) -> tuple[Figure, Figure]:
        """What methods find for any picture and text, and what TMCIR merges; takes and raises what `rank` does."""
        triplet, images = self._ask(picture, text)
        found = [[self.split.images[name] for name in self._rank(triplet, images, method, k)] for method in methods]
        path = images[triplet.reference_name]
        rows = [[path if not number else None, *answers] for number, answers in enumerate(found)]
        match, words = self.match([triplet], images)
        seen = self.model.backbone.seen(load_image(path))
        return (plots.picture_rows(rows, ["asked with", *(f"#{place}" for place in range(1, k + 1))], list(methods)),
                plots.merge_maps([seen], self.model.backbone.grid, match, words))  # fmt: skip

    def _ask(self, picture: str | Path, text: str) -> tuple[Triplet, dict[str, Path]]:
        check_text(self.model.backbone, text)
        path = self.split.images.get(picture) or upright(Path(picture), self.cfg.run_dir.parent / "yours")
        name = picture if picture in self.split.images else path.name
        return Triplet("yours", name, None, (text,), ""), {name: path}

    def _rank(self, triplet: Triplet, images: Mapping[str, Path], method: str, k: int) -> list[str]:
        name, gallery = triplet.reference_name, self.ways[method].gallery
        masked = torch.tensor([self.names.index(name)]) if name in self.split.images else None
        rows = top(self.queries(method, [triplet], images), gallery, k, masked)
        return [self.names[row] for row in rows[0].tolist()]


def open_tour(profile: str = "lite", overrides: Sequence[str] | str = ()) -> Tour:
    """Draws the small world and restores the shipped models, unless they are there, and encodes the gallery.

    Raises:
        InputError: a bad configuration, one of other encoders than the shipped models', or as `shipped.restore`.
    """
    cfg = load_config(profile, [*SMALL, *as_overrides(overrides)])
    trained = load_config(restore(cfg.run_dir) / "config.yaml").backbone.name
    if cfg.backbone.name != trained:
        raise InputError(f"profile {profile}: backbone.name: {cfg.backbone.name}: the tour's models were trained on "
                         f"{trained}; take the lite profile, or notebooks 1 to 5 for your own")  # fmt: skip
    draw_worlds(cfg)
    split = load_split(cfg.data.root, cfg.data.layout, "val")
    names = sorted(split.images)
    paths = [split.images[name] for name in names]
    weight = float(read_history(cfg.run_dir / "iacma")["text_weight"][0])  # of epoch 0: on the encoders of the start
    start, combined, ours = load_start(cfg), load_clip4cir(cfg)[1], load_trained(cfg)
    gallery = encode_images(start, paths)
    ways = {"image only": Way(start, image_only, gallery), "text only": Way(start, text_only, gallery),
            "weighted sum": Way(start, weighted_sum(weight), gallery)}  # fmt: skip
    ways |= {name: Way(model.backbone, model, encode_images(model.backbone, paths))
             for name, model in {"CLIP4Cir": combined, OURS: ours}.items()}  # fmt: skip
    return Tour(cfg, split, names, ways, weight)


def upright(picture: Path, folder: Path) -> Path:
    """A user's picture as people see it (`load_photo`), as a file in `folder` that is named for its content."""
    seen = load_photo(picture)
    path = folder / f"{hashlib.sha256(seen.tobytes()).hexdigest()[:16]}.png"
    with atomic(path) as temporary:
        seen.save(temporary)
    return path


def explore(tour: Tour, pictures: Sequence[str], text: str):
    """A widget to ask in: one of `pictures` (names of the gallery) or an uploaded one, and words."""
    wide = {"style": {"description_width": "9em"}, "layout": {"width": "40em"}}
    choice = widgets.Dropdown(options=[(f"picture {n}", name) for n, name in enumerate(pictures, 1)],
                              description="picture", **wide)  # fmt: skip
    upload = widgets.FileUpload(accept="image/*", description="or upload one")
    words = widgets.Text(value=text, description="what to change", **wide)
    button, out = widgets.Button(description="rank", button_style="primary"), widgets.Output()

    def said(act):
        """`act`, whose figures go below the box; what is wrong with the input is said there, too."""

        def respond(_):
            with out:
                clear_output(wait=True)
                try:
                    display(*act())
                except InputError as error:
                    print(error)

        return respond

    def bring():
        if not upload.value:  # taken away again
            return []
        path = uploaded(upload.value, tour.cfg.run_dir.parent / "yours")
        choice.options = [*choice.options, (f"yours, {len(choice.options) - len(pictures) + 1}", path)]
        choice.value = path
        return [load_image(path)]

    upload.observe(said(bring), names="value")
    button.on_click(said(lambda: tour.answer(choice.value, words.value)))
    return widgets.VBox([choice, upload, words, button, out])


def uploaded(value, folder: Path) -> Path:
    """The file of what ipywidgets' `FileUpload` holds: in version 8 a tuple of files, in 7 a dictionary of them."""
    (*_, file) = value.values() if isinstance(value, dict) else value
    with tempfile.TemporaryDirectory() as temporary:
        raw = Path(temporary) / "picture"
        raw.write_bytes(bytes(file["content"]))
        return upright(raw, folder)
