"""Scenes, for the editor: one edit of one of seven kinds, of things that the text singles out."""

import random
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy

from tmcir_lite.data.scenes import (
    KINDS,
    LOOKS,
    PLACES,
    Request,
    Scene,
    SceneEdit,
    Shot,
    request,
    sample_backdrop,
    sample_scene,
)
from tmcir_lite.data.scenes import sample_edit as sample_scene_edit
from tmcir_lite.pretrain.worlds.example import IGNORED, EditExample

PROFILE = "scenes"
DATA = "world of scenes, pretraining half (`Scene.pretraining`), seven kinds of edit, drawn on the fly"
CONTEXT = 32
CHANNELS = (32, 80)
AUTOENCODER = "data/models/editor/vae"  # of garments; its cards tell what it leaves of scenes

_LOOK = [1 + len(values) for values in LOOKS.values()]  # 0: nothing is said, or nothing is there
_SAID = [len(KINDS), *2 * [*_LOOK, 1 + len(PLACES)], *_LOOK, 1 + len(PLACES)]
_ROLES = 4  # of a place: none, first thing named, second, and where something goes to
_SEEN, _SIDE = [*_LOOK, _ROLES], 3


def corpus() -> Iterator[str]:
    """Requests."""
    rng = random.Random(0)
    for _ in range(6000):
        yield sample_edit(rng).text


def sample_edit(rng: random.Random) -> EditExample:
    """A scene, its perfect edit before the same backdrop, the request, and what can be read from all of these."""
    scene = sample_scene(rng, pretraining=True)
    edit = sample_scene_edit(rng, scene, rng.choice(KINDS)) or sample_scene_edit(rng, scene)
    asked, backdrop = request(rng, edit), sample_backdrop(rng)
    labels = _said(edit, asked) + _seen(scene, _roles(edit)) + _looks(edit.target)
    return EditExample(Shot(scene, backdrop), Shot(edit.target, backdrop), asked.text, labels)


def held_out(count: int, seed: int) -> list[tuple[Shot, Shot, str]]:
    """Edits to measure on, from a seed that training does not use."""
    rng = random.Random(f"held-out edits {seed}")
    return [sample_edit(rng)[:3] for _ in range(count)]


def without_text(labels: list[int]) -> list[int]:
    """The source can still be seen, but not which of its things are meant, nor what is to become of them."""
    seen = labels[len(_SAID) : -len(PLACES) * len(LOOKS)]
    seen = [IGNORED if number % len(_SEEN) == len(LOOKS) else label for number, label in enumerate(seen)]
    return [IGNORED] * len(_SAID) + seen + [IGNORED] * len(PLACES) * len(LOOKS)


def _said(edit: SceneEdit, asked: Request) -> list[int]:
    """Kind, what is said of up to two things, and the new values."""
    said = [KINDS.index(edit.kind)]
    for named in [*(mention.named for mention in asked.mentions), {}][:2]:
        said += [*_look(named), 1 + named.get("place", -1)]
    new = {edit.kind: edit.value} if edit.kind in LOOKS else {}
    goes_to = edit.value if edit.kind == "move" else edit.places[0] if edit.kind == "add" else -1
    return [*said, *_look(new), 1 + goes_to]


def _look(values: dict) -> list[int]:
    return [1 + LOOKS[name].index(values[name]) if name in values else 0 for name in LOOKS]


def _roles(edit: SceneEdit) -> list[int]:
    roles = [0] * len(PLACES)
    for number, place in enumerate(edit.places, 1):
        roles[place] = 3 if edit.kind == "add" else number
    if edit.kind == "move":
        roles[edit.value] = 3
    return roles


def _seen(scene: Scene, roles: list[int]) -> list[int]:
    looks = _looks(scene)
    step = len(LOOKS)
    return [label for place, role in enumerate(roles) for label in (*looks[step * place : step * (place + 1)], role)]


def _looks(scene: Scene) -> list[int]:
    things = [scene.at(place) for place in range(len(PLACES))]
    return [label for thing in things for label in _look(vars(thing) if thing else {})]


class GroundingReader(nn.Module):
    """Linear heads that read what is said from the text, and what is where from the UNet.

    At each place the features of the way down tell what is there, whether it is meant, and which place it is (a UNet
    knows that from its padding alone, and hardly learns it unasked); those of the middle tell what will be there.
    Grounding a text in a picture is learned from this long before it is from the pictures to draw.
    """

    def __init__(self, text_width: int, channels: int):
        super().__init__()
        self.said = nn.Linear(text_width, sum(_SAID))
        self.seen = nn.Linear(channels, sum(_SEEN))
        self.where = nn.Linear(channels, len(PLACES))
        self.will_be = nn.Linear(channels, sum(_LOOK))

    def forward(self, hidden, down, mid, labels) -> torch.Tensor:
        """Sum of the cross-entropies of the text and, for each place, of both; see `editor.Editing`."""
        said, seen, will_be = labels.split([len(_SAID), len(PLACES) * len(_SEEN), len(PLACES) * len(_LOOK)], dim=1)
        down, mid, places = _at_places(down), _at_places(mid), torch.arange(len(PLACES), device=labels.device)
        # A mean over all that may be said would leave the words for places unlearned: most texts have none.
        return len(_SAID) * _mean_error(self.said(hidden.mean(1)), said, _SAID) + len(PLACES) * (
            _mean_error(self.seen(down), seen.reshape(-1, len(_SEEN)), _SEEN)
            + _mean_error(self.will_be(mid), will_be.reshape(-1, len(_LOOK)), _LOOK)
            + cross_entropy(self.where(down), places.repeat(len(labels)))
        )


def _at_places(features: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> (9 B, C), the means of the cells."""
    return adaptive_avg_pool2d(features, _SIDE).flatten(2).transpose(1, 2).flatten(0, 1)


def _mean_error(logits: torch.Tensor, labels: torch.Tensor, answers: list[int]) -> torch.Tensor:
    errors = [cross_entropy(part, label) for part, label in zip(logits.split(answers, 1), labels.T, strict=True)]
    return torch.stack(errors).mean()


READER = GroundingReader
