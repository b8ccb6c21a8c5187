"""Both encoders of an open_clip model, as pooled features and token features in one shared space."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import Compose
from torchvision.transforms.functional import to_pil_image

from tmcir_lite.data.pictures import Reader, load_image, pixels, preprocess
from tmcir_lite.io.files import atomic, write_json
from tmcir_lite.method.checkpoint import save_weights


class ImageFeatures(NamedTuple):
    """Outputs of the visual encoder for B images."""

    pooled: Tensor
    """B D."""
    tokens: Tensor
    """B N D, the patches' output tokens, row by row from the top left."""


class TextFeatures(NamedTuple):
    """Outputs of the text encoder for B texts."""

    pooled: Tensor
    """B D."""
    tokens: Tensor
    """B M D."""
    mask: Tensor
    """B M bool, False at padding and at the start token, which is the same for every text."""


def without_padding(ids: Tensor) -> Tensor:
    """Token ids, B M, cut off behind the longest text's end token, which has the highest id."""
    return ids[:, : int(ids.argmax(dim=1).max()) + 1]


CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"


class Backbone(nn.Module):
    """Both encoders of an open_clip model.

    Tokens take the same way into the shared space as the pooled feature: the encoder's last norm, then its projection.
    CLIP never trained them there (only the pooled feature), so using them so is our reading. Which architectures this
    is right for is said in `architectures`.
    """

    def __init__(self, clip: nn.Module, tokenizer, config: dict[str, Any], target_pad: float):
        super().__init__()
        self.clip, self.tokenizer, self.config = clip, tokenizer, config
        self._target_pad = target_pad

    @property
    def dim(self) -> int:
        """D, the width of the shared space."""
        return self.clip.visual.proj.shape[1]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches; N is their product."""
        return self.clip.visual.grid_size

    @property
    def context(self) -> int:
        """The largest number of token ids of a text."""
        return self.tokenizer.context_length

    @property
    def transform(self) -> Compose:
        """From a picture to the encoder's pixels, (3, H, W)."""
        settings = open_clip.get_model_preprocess_cfg(self.clip)
        size = settings["size"]
        return preprocess(size if isinstance(size, int) else size[0], settings["mean"], settings["std"],
                          self._target_pad)  # fmt: skip

    def seen(self, picture: Image.Image) -> Image.Image:
        """The part of a picture that the encoder sees, padded, resized and cropped: its patches lie on this."""
        settings = open_clip.get_model_preprocess_cfg(self.clip)
        mean, std = (torch.tensor(settings[name]).view(3, 1, 1) for name in ("mean", "std"))
        return to_pil_image((self.transform(picture) * std + mean).clamp(0, 1))

    def load(self, paths: Sequence[Path], read: Reader = load_image) -> Tensor:
        """What `image` takes for picture files: pixels, B 3 H W, on the CPU."""
        return pixels(paths, self.transform, read)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids, B M, int64, as long as the longest text: what follows in the tokenizer's own would be padding."""
        return without_padding(self.tokenizer(list(texts)))

    def words(self, text: str) -> list[str]:
        """The text tokens of one text as people read them, in the order of `TextFeatures.tokens` where mask holds."""
        decode = getattr(self.tokenizer, "tokenizer", self.tokenizer).decode
        ids = self.tokenize([text])
        return [decode([i]).strip() for i in ids[0][self.text_mask(ids)[0]].tolist()]

    def image(self, pixels: Tensor) -> ImageFeatures:
        """Encodes pixels, B 3 H W."""
        visual = self.clip.visual
        out = visual.forward_intermediates(pixels, indices=1, normalize_intermediates=True, output_fmt="NLC")
        return ImageFeatures(out["image_features"], out["image_intermediates"][-1] @ visual.proj)

    def text(self, ids: Tensor, word: tuple[Tensor, Tensor] | None = None) -> TextFeatures:
        """Encodes token ids, B M. The transformer looks back only: what follows a text's end does not change it.

        Args:
            word: (B M bool, B word_width): embeddings that take the place of the token's own where it is True.
        """
        tower, M = self._text_tower, ids.shape[1]
        x = tower.token_embedding(ids)
        if word is not None:
            place, vector = word
            x = torch.where(place[..., None], vector[:, None].to(x.dtype), x)
        x = tower.transformer(x + tower.positional_embedding[:M], attn_mask=tower.attn_mask[:M, :M])
        projection = tower.text_projection
        tokens = tower.ln_final(x)
        tokens = projection(tokens) if isinstance(projection, nn.Linear) else tokens @ projection
        pooled = tokens[torch.arange(len(ids), device=ids.device), ids.argmax(dim=1)]  # at the end token
        return TextFeatures(pooled, tokens, self.text_mask(ids))

    def text_mask(self, ids: Tensor) -> Tensor:
        """B M bool, for ids B M: the words and the end token, which CLIP gives the highest id."""
        position = torch.arange(ids.shape[1], device=ids.device)
        return (position > 0) & (position <= ids.argmax(dim=1, keepdim=True))

    @property
    def word_width(self) -> int:
        """The size of a token's embedding."""
        return self._text_tower.token_embedding.embedding_dim

    @property
    def log_scale(self) -> nn.Parameter:
        """log(1 / tau), learned; who trains it keeps it within bounds (`losses.Contrastive.after_step`)."""
        return self.clip.logit_scale

    @property
    def logit_scale(self) -> Tensor:
        """1 / tau."""
        return self.log_scale.exp()

    @property
    def _text_tower(self) -> nn.Module:
        return getattr(self.clip, "text", self.clip)

    def limit(self, image_groups: int | None, text_layers: int | None, gradient_checkpointing: bool = False) -> None:
        """Freezes all but the last groups of the image encoder and layers of the text encoder (open_clip's `lock`).

        Args:
            image_groups, text_layers: how many stay trained; None: all.
            gradient_checkpointing: saves memory in training, for a third more time.
        """
        if image_groups is not None:
            self.clip.lock_image_tower(image_groups)
        if text_layers is not None:
            self.clip.lock_text_tower(text_layers)
        self.clip.set_grad_checkpointing(gradient_checkpointing)

    def save(self, folder: Path) -> None:
        """Writes a folder that `load_backbone("local-dir:...")` and open_clip itself can load."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(self.clip, folder / WEIGHTS_FILE)
        if hasattr(self.tokenizer, "save_pretrained"):
            with tempfile.TemporaryDirectory() as written:  # by a library that would leave half a file when killed
                self.tokenizer.save_pretrained(written)
                for path in Path(written).iterdir():
                    with atomic(folder / path.name) as temporary:
                        shutil.copyfile(path, temporary)
        write_json(folder / CONFIG_FILE, self.config)
