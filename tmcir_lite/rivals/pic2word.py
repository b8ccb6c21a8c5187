"""Pic2Word (Saito et al. 2023): a picture becomes a word of the text. Trained without triplets, on pictures alone."""

from pathlib import Path

from torch import Tensor, nn

from tmcir_lite.io.files import InputError
from tmcir_lite.method.checkpoint import load_weights, save_weights
from tmcir_lite.method.encoders import Backbone
from tmcir_lite.method.losses import Contrastive

MARKER = "*"
"""The word whose embedding the picture's takes the place of."""
_HIDDEN, _DROPOUT, _FILE = 512, 0.1, "mapping.safetensors"


class Pic2Word(Contrastive):
    """Symmetric InfoNCE between "a photo of *" and the image that * stands for.

    Only the mapping network from the image's feature to the word's embedding is trained; the encoders stay as they are.

    Args:
        scale: 1 / tau at the start, learned from there; None: the backbone's own, as published, which stays.

    Raises:
        InputError: the backbone's tokenizer does not have "*" as one token.
    """

    template = f"a photo of {MARKER} , {{}}"

    def __init__(self, backbone: Backbone, scale: float | None = None):
        super().__init__(backbone, symmetric=True, scale=scale)
        backbone.requires_grad_(False)
        self.mapping = nn.Sequential(
            *_layer(backbone.dim, _HIDDEN), *_layer(_HIDDEN, _HIDDEN), nn.Linear(_HIDDEN, backbone.word_width)
        )
        marker = backbone.tokenize([MARKER])
        if backbone.text_mask(marker).sum() != 2:  # itself and the end
            raise InputError(f"Pic2Word: {MARKER!r} is not one token of this backbone's tokenizer; leave Pic2Word out")
        self._marker = marker[0, 1].item()
        sentence = backbone.tokenize([f"a photo of {MARKER}"])[0]  # a row: processes cannot share a slice
        self.register_buffer("_sentence", sentence, persistent=False)

    def query(self, references: Tensor, texts: Tensor) -> Tensor:
        """references: B 3 H W; texts: B M token ids of filled-in templates; returns query features, B D."""
        return self._say(self.backbone.image(references).pooled, texts)

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """images: B 3 H W; texts are not looked at; sentences and images are the pairs, see `Contrastive.forward`."""
        image = self.backbone.image(images).pooled
        return self._say(image, self._sentence.expand(len(image), -1)), image, self.logit_scale

    def _say(self, image: Tensor, ids: Tensor) -> Tensor:
        is_marker = ids == self._marker
        first = is_marker & (is_marker.cumsum(dim=1) == 1)  # a caption may hold the marker as well
        return self.backbone.text(ids, (first, self.mapping(image))).pooled

    def save(self, folder: Path) -> None:
        """Writes the mapping's weights; the backbone is the one that the run started from."""
        save_weights(self.mapping, Path(folder) / _FILE)

    def load(self, folder: Path) -> "Pic2Word":
        """Takes what `save` wrote.

        Raises:
            InputError: it is missing or belongs to another architecture.
        """
        load_weights(self.mapping, Path(folder) / _FILE)
        return self.eval()


def _layer(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Linear(inputs, outputs), nn.Dropout(_DROPOUT), nn.ReLU()
