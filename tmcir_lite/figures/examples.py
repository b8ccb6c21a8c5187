"""Retrieval examples as in the paper's Fig. 2: the same queries for several methods, chosen by rule and not by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tmcir_lite.config import Config, ProtocolName
from tmcir_lite.data.datasets import Split
from tmcir_lite.data.garments import ATTRIBUTES, Garment
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.data.scenes import Scene
from tmcir_lite.evaluation.features import encode_images, encode_queries
from tmcir_lite.evaluation.intent import verdict
from tmcir_lite.evaluation.protocols import Protocol, places, protocol
from tmcir_lite.evaluation.ranking import target_ranks, top
from tmcir_lite.run.data import Data, known_contents
from tmcir_lite.run.models import load_clip4cir, load_pic2word, load_trained, with_cached_images


class Ranked(NamedTuple):
    """What a method finds for Q queries."""

    ranks: Tensor
    """Q, the rank of the target, from 1."""
    top: Tensor
    """Q k, rows of the gallery, best first."""


class Answer(NamedTuple):
    """One picture that a method finds."""

    picture: Path
    right: bool
    """Whether it is the target."""
    mark: str
    """What it changes and keeps; empty where the pictures' attributes are not known."""


class Example(NamedTuple):
    """One query and what each method finds for it."""

    title: str
    reference: Path
    target: Path
    answers: dict[str, list[Answer]]
    """What to write beside a row -> its answers, best first."""


def find(
    features: Mapping[str, tuple[Tensor, Tensor]], triplets: Sequence[Triplet], rules: Protocol, k: int
) -> dict[str, Ranked]:
    """What each method finds for `triplets` under a protocol's rules.

    Args:
        features: method -> query features Q D in the order of `triplets`, gallery features G D in that of the gallery.
        k: pictures to show for each query.

    Raises:
        InputError: as `protocols.places`, `ranking.target_ranks` and `ranking.top`.
    """
    target, masked = places(triplets, rules)
    return {
        method: Ranked(target_ranks(queries, gallery, target, masked), top(queries, gallery, k, masked))
        for method, (queries, gallery) in features.items()
    }


def choose(ranks: Mapping[str, Tensor], ours: str, count: int) -> list[tuple[str, int]]:
    """Which queries to show: `count` where we improve most on the others, `count` where we lose most, one easy one.

    Better and worse are by the ratio of our rank to the best of the others'; of equals the first in file order. The
    easy one is the first whose target every method ranks first. A kind without queries is left out.

    Args:
        ranks: method -> Q, the target's rank from 1; `ours` and at least one other.

    Returns:
        (why it is shown, query index); no query stands twice.
    """
    best = torch.stack([ranks[name] for name in ranks if name != ours]).min(dim=0).values
    ratio = best.double() / ranks[ours]
    better = [i for i in ratio.argsort(descending=True, stable=True).tolist() if ratio[i] > 1]
    worse = [i for i in ratio.argsort(stable=True).tolist() if ratio[i] < 1]
    easy = [i for i in range(len(ratio)) if best[i] == 1 and all(found[i] == 1 for found in ranks.values())]
    kinds = [(f"{ours} ranks the target better", better[:count]), (f"{ours} ranks it worse", worse[:count]),
             ("All rank it first", easy[:1])]  # fmt: skip
    return [(reason, index) for reason, chosen in kinds for index in chosen]


def example(
    reason: str, triplet: Triplet, index: int, found: Mapping[str, Ranked], gallery: Sequence[str], split: Split,
    known: Mapping[str, Garment | Scene] | None,
) -> Example:  # fmt: skip
    """What to draw of one query.

    Args:
        index: the query's row in `found`.
        gallery: image names, in the order of the rows that `Ranked.top` holds.
        known: image name -> the garment it shows, where this is known.
    """

    def answer(name: str) -> Answer:
        return Answer(split.images[name], name == triplet.target_name, mark(triplet, name, known))

    return Example(
        f"{reason}: “{' / '.join(triplet.captions)}”",
        split.images[triplet.reference_name],
        split.images[triplet.target_name],
        {
            f"{method}\ntarget at rank {ranks[index].item()}": [answer(gallery[row]) for row in best[index].tolist()]
            for method, (ranks, best) in found.items()
        },
    )


def mark(triplet: Triplet, answer: str, known: Mapping[str, Garment | Scene] | None) -> str:
    """How many of the asked-for attributes an answer has, and how many of the others are still the reference's.

    Of a scene: whether the edit is done, and whether all the rest is kept.
    """
    if known is None:
        return ""
    asked, missed, lost = verdict(*(known[name] for name in (triplet.reference_name, triplet.target_name, answer)))
    if isinstance(known[answer], Scene):
        return f"edit {'missed' if missed else 'done'}\nrest {'changed' if lost else 'kept'}"
    rest = len(ATTRIBUTES) - len(asked)
    return f"changed {len(asked) - len(missed)}/{len(asked)}\nkept {rest - len(lost)}/{rest}"


OURS = "TMCIR"


def compare_retrievals(cfg: Config, data: Data, name: ProtocolName, count: int, top_k: int) -> list[Example]:
    """Queries of the first category, chosen by `choose`, and what each method finds for them.

    Args:
        name: the protocol.
        count: of queries where we are better, and of those where we are worse.
        top_k: pictures of each method.
    """
    category = next(iter(data.val.galleries))
    rules = protocol(data.val, name, category)
    triplets = [t for t in data.val.triplets if t.category == category]
    found = find(_features(cfg, data, triplets, rules.gallery), triplets, rules, top_k)
    chosen = choose({method: ranks for method, (ranks, _) in found.items()}, OURS, count)
    known = known_contents(data.val)
    return [example(why, triplets[i], i, found, rules.gallery, data.val, known) for why, i in chosen]


def _features(
    cfg: Config, data: Data, triplets: Sequence[Triplet], names: Sequence[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Method -> features of the queries and of the gallery, the other methods first."""
    paths = [data.val.images[name] for name in names]
    models = {
        "CLIP4Cir": load_clip4cir(cfg)[1],
        "Pic2Word": load_pic2word(cfg),
        OURS: with_cached_images(cfg, load_trained(cfg)),
    }
    return {
        name: (
            encode_queries(model, triplets, data.val.images, cfg.data.val_captions),
            encode_images(model.backbone, paths),
        )
        for name, model in models.items()
    }
