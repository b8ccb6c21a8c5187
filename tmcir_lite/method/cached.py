"""An image encoder that is not trained: each picture is encoded once, and training goes on with features in memory."""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from tmcir_lite.data.pictures import Reader, load_image
from tmcir_lite.method.encoders import Backbone, ImageFeatures, TextFeatures

Features = dict[tuple[Path, Reader], Tensor]


class CachedEncoder(nn.Module):
    """A `Backbone` whose image encoder is not trained: `load` gives a picture's cached features in place of its pixels.

    Memory: 4 D (1 + N) bytes a picture, 33 KB for the lite CLIP, 100 KB for a ViT-B-32; without tokens 4 D.

    Args:
        tokens: whether patches' tokens are kept; where only pooled features are fused, N is 0 instead.
        features: of pictures that the same image encoder has seen; None: none yet.
    """

    def __init__(self, backbone: Backbone, tokens: bool = True, features: Features | None = None):
        super().__init__()
        self._tokens = tokens
        self._features: Features = {} if features is None else features
        self._hold(backbone)

    def _hold(self, backbone: Backbone) -> None:
        self._backbone = [backbone.requires_grad_(False).eval()]  # in a list: no part of a model's weights

    @property
    def inner(self) -> Backbone:
        """The backbone itself."""
        return self._backbone[0]

    def beside(self, backbone: Backbone) -> "CachedEncoder":
        """The same image encoder with the features of all pictures that it has seen, and the text encoder of another.

        Args:
            backbone: one with the same image encoder.
        """
        return CachedEncoder(backbone, self._tokens, self._features)

    def to_train(self, text_layers: int | None, gradient_checkpointing: bool = False) -> "TextTrained":
        """A copy whose text encoder is trained (all but the last `text_layers` frozen; None: none)."""
        backbone = copy.deepcopy(self.inner).requires_grad_(True)
        backbone.limit(0, text_layers, gradient_checkpointing)
        return TextTrained(backbone, self._tokens, self._features)

    @torch.no_grad()
    def load(self, paths: Sequence[Path], read: Reader = load_image) -> Tensor:
        """Features of picture files for `image`, B (1+N) D, on the CPU; each file is encoded when first asked for."""
        new = list(dict.fromkeys(path for path in paths if (path, read) not in self._features))
        if new:
            features = self.inner.image(self.inner.load(new, read).to(self.logit_scale.device))
            tokens = features.tokens if self._tokens else features.tokens[:, :0]
            rows = torch.cat([features.pooled[:, None], tokens], dim=1).float().cpu()
            self._features.update({(path, read): row for path, row in zip(new, rows, strict=True)})
        return torch.stack([self._features[path, read] for path in paths])

    def image(self, features: Tensor) -> ImageFeatures:
        """features: B (1+N) D, from `load`."""
        return ImageFeatures(features[:, 0], features[:, 1:])

    def text(self, ids: Tensor, word: tuple[Tensor, Tensor] | None = None) -> TextFeatures:
        """As `Backbone.text`."""
        return self.inner.text(ids, word)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """As `Backbone.tokenize`."""
        return self.inner.tokenize(texts)

    def words(self, text: str) -> list[str]:
        """As `Backbone.words`."""
        return self.inner.words(text)

    def text_mask(self, ids: Tensor) -> Tensor:
        """As `Backbone.text_mask`."""
        return self.inner.text_mask(ids)

    @property
    def log_scale(self) -> Tensor:
        """As `Backbone.log_scale`."""
        return self.inner.log_scale

    @property
    def logit_scale(self) -> Tensor:
        """As `Backbone.logit_scale`."""
        return self.inner.logit_scale

    @property
    def dim(self) -> int:
        """As `Backbone.dim`."""
        return self.inner.dim

    @property
    def grid(self) -> tuple[int, int]:
        """As `Backbone.grid`."""
        return self.inner.grid

    @property
    def context(self) -> int:
        """As `Backbone.context`."""
        return self.inner.context

    @property
    def word_width(self) -> int:
        """As `Backbone.word_width`."""
        return self.inner.word_width

    def save(self, folder: Path) -> None:
        """Nothing: it is what it was where it came from."""


class TextTrained(CachedEncoder):
    """A `Backbone` of which the text encoder alone is trained."""

    def _hold(self, backbone: Backbone) -> None:
        self._backbone = [backbone]
        self.clip = backbone.clip  # a part of the model's weights, under the name that it has in a `Backbone`

    def save(self, folder: Path) -> None:
        """As `Backbone.save`."""
        self.inner.save(folder)
