"""Trains a CLIP for the world of scenes from nothing: `python -m tmcir_lite.pretrain.scene_clip`."""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from tmcir_lite.data.scenes import (
    KINDS,
    LOOKS,
    PLACES,
    Scene,
    describe_scene,
    draw_scene,
    request,
    sample_backdrop,
    sample_edit,
    sample_scene,
)
from tmcir_lite.evaluation.pointing import place_of_patch
from tmcir_lite.pretrain.contrast import (
    DrawnBatches,
    PictureText,
    build_clip,
    clip_options,
    publish_clip,
    read_labels,
    text_ranks,
    train_clip,
)

MODEL = {
    "embed_dim": 192,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 144, "head_width": 36, "patch_size": 8},
    "text_cfg": {
        "context_length": 56, "width": 128, "heads": 4, "layers": 3, "hf_tokenizer_name": "in this folder",
    },
}  # fmt: skip
_SLOT_VALUES = [(None, *values) for _ in PLACES for values in LOOKS.values()]  # in the order of `SLOTS`
_CRUTCH = 9  # weight of the heads' losses; most of what they read is that nothing is there, which moves them little
_FULL = 0.5  # share of captions that say all there is to see; a short one may fit its neighbours in the batch as well


class SceneBatches(DrawnBatches):
    """Groups of one scene and an edit of it of each kind, each with a caption of all or some of what is seen."""

    group = 1 + len(KINDS)

    def examples(self, rng, groups):
        """See `DrawnBatches`; `shown`, B x places x looks, are the numbers of the looks' values, 0 where nothing is."""
        scenes = [scene for _ in range(groups) for scene in _scene_and_edits(rng)]
        pictures = [draw_scene(scene, sample_backdrop(rng)) for scene in scenes]
        full = [rng.random() < _FULL for _ in scenes]
        texts = [_caption(rng, scene, whole) for scene, whole in zip(scenes, full, strict=True)]
        shown = torch.tensor([_slot_numbers(scene) for scene in scenes])
        return pictures, texts, {"shown": shown.unflatten(1, (len(PLACES), len(LOOKS))), "full": torch.tensor(full)}


def _scene_and_edits(rng: random.Random) -> list[Scene]:
    scene = sample_scene(rng, pretraining=True)
    edits = [sample_edit(rng, scene, kind) or sample_edit(rng, scene) for kind in KINDS]
    return [scene, *(edit.target for edit in edits)]


def _caption(rng: random.Random, scene: Scene, full: bool) -> str:
    if full:
        return describe_scene(rng, scene)
    return describe_scene(rng, scene, share=rng.uniform(0.5, 1), detail=rng.uniform(0.4, 1))


def _slot_numbers(scene: Scene) -> list[int]:
    return [values.index(value) for values, value in zip(_SLOT_VALUES, scene.slots().values(), strict=True)]


class ScenePretraining(PictureText):
    """An open_clip model whose forward returns the loss of a batch of raw pictures and token ids.

    To CLIP's loss is added, as a crutch that is thrown away after training, the cross-entropy of linear heads that read
    what is at a place: from the tokens of the patches there, and from the pooled features of pictures and of texts that
    say it all. On CLIP's loss alone a picture stays a bag of colours.
    """

    def __init__(self, clip: nn.Module):
        super().__init__(clip)
        self._answers = [1 + len(values) for values in LOOKS.values()]
        self.heads = nn.ModuleDict({
            "patches": nn.Linear(MODEL["embed_dim"], sum(self._answers)),
            "pooled": nn.Linear(MODEL["embed_dim"], len(PLACES) * sum(self._answers)),
        })  # fmt: skip
        self.register_buffer("_places", _share_of_patches(*clip.visual.grid_size), persistent=False)

    def forward(self, images, texts, shown, full):
        image, text = self.backbone.image(self.normalise(images)), self.backbone.text(texts)
        v, t = F.normalize(image.pooled, dim=-1), F.normalize(text.pooled, dim=-1)
        places = self._places @ F.normalize(image.tokens, dim=-1)
        crutch = read_labels(self.heads["patches"], places.flatten(0, 1), shown.flatten(0, 1), self._answers)
        crutch = crutch + self._read(v, shown)
        if full.any():
            crutch = crutch + self._read(t[full], shown[full])
        return self._loss(v, t, self.backbone.logit_scale) + _CRUTCH * crutch

    def _read(self, pooled, shown):
        return read_labels(self.heads["pooled"], pooled, shown.flatten(1), self._answers * len(PLACES))


def _share_of_patches(rows: int, columns: int) -> torch.Tensor:
    """Places x patches: the mean over those patches whose middle lies in a place."""
    place = [place_of_patch(patch, (rows, columns)) for patch in range(rows * columns)]
    inside = F.one_hot(torch.tensor(place), len(PLACES)).T.float()
    return inside / inside.sum(1, keepdim=True)


@torch.no_grad()
def measure(model: ScenePretraining, tokenizer, count: int, seed: int) -> dict[str, torch.Tensor]:
    """What the model gets right among `count` distinct held-out scenes, bool vectors.

    - `R@1`, `R@10`: text to image, each scene described in full.
    - `edit <kind>`: whether the full description is nearer to the picture than that of the scene after such an edit;
      of the scenes that allow it.

    The scenes are of the pretraining half, but drawn from a seed that training does not use.
    """
    rng = random.Random(f"held-out {seed}")
    scenes: dict[Scene, None] = {}
    while len(scenes) < count:
        scenes[sample_scene(rng, pretraining=True)] = None
    image = model.encode_pictures(draw_scene(scene, sample_backdrop(rng)) for scene in scenes)
    found = text_ranks(model.encode_texts(tokenizer, [describe_scene(rng, scene) for scene in scenes]), image)
    result = {"R@1": found <= 1, "R@10": found <= 10}
    for kind in KINDS:
        edits = [sample_edit(rng, scene, kind) for scene in scenes]
        allowed = [number for number, edit in enumerate(edits) if edit]
        words = [rng.getrandbits(64) for _ in allowed]
        right, wrong = (
            model.encode_texts(tokenizer, [describe_scene(random.Random(key), getattr(edits[number], which))
                                           for key, number in zip(words, allowed, strict=True)])
            for which in ("source", "target")
        )  # fmt: skip
        result[f"edit {kind}"] = (image[allowed] * (right - wrong)).sum(1) > 0
    return result


def scene_texts() -> Iterator[str]:
    """Captions and requests of the world of scenes, for the tokenizer."""
    rng = random.Random(0)
    for _ in range(4000):
        scene = sample_scene(rng, pretraining=True)
        yield describe_scene(rng, scene)
        yield request(rng, sample_edit(rng, scene)).text


def build(folder: Path) -> tuple[ScenePretraining, object]:
    """Writes tokenizer and configuration into `folder` and returns (model, tokenizer) with fresh weights."""
    clip, tokenizer = build_clip(folder, MODEL, scene_texts())
    return ScenePretraining(clip), tokenizer


def main(arguments: list[str] | None = None) -> None:
    """Trains, or goes on with, the CLIP for scenes; see `--help`."""
    parser = clip_options("scene_clip", __doc__, epochs=20, steps=80, batch=64, lr=1.5e-3, measure=1000)
    options = parser.parse_args(arguments)
    publish(options, train_clip(options, build, SceneBatches, measure))


def publish(options: argparse.Namespace, measured: dict[str, torch.Tensor]) -> None:
    """Copies the finished model and its log to `--out`, with a card."""
    publish_clip(
        "scene_clip", options, measured, title="CLIP for scenes", pictures="scenes",
        what="open_clip CLIP, ViT 64 px, patch 8, 4 layers of width 144; text 3 layers of width 128; fp16",
        data="world of scenes, pretraining half (`Scene.pretraining`), drawn on the fly; "
             f"seed {options.seed}; groups of a scene and an edit of it of each kind in every batch; beside CLIP's "
             "loss, as a crutch that is thrown away after training, linear heads read what is at each place from the "
             "tokens of the patches there, and from the pooled features of pictures and of captions that say it all",
        blind="what is edited where the accuracy below is near 50% (chance)",
        legend="R: the picture found by a description of all there is to see. edit: the right description against that "
               "of the scene after such an edit.",
    )  # fmt: skip


if __name__ == "__main__":
    main()
