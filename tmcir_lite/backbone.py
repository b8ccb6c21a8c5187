"""An open_clip model as pooled features and token features, in one shared space; loads and saves itself."""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.transforms import Compose
from torchvision.transforms.functional import to_pil_image

from tmcir_lite.architectures import HUB, check_architecture, check_tokenizer, known_architecture
from tmcir_lite.config import Backbone as Settings
from tmcir_lite.encoded import ImageFeatures, TextFeatures
from tmcir_lite.files import InputError, read_json, resolve, write_json
from tmcir_lite.hub import explain, one_line
from tmcir_lite.model_card import check_hashes
from tmcir_lite.training import save_weights
from tmcir_lite.transforms import Reader, load_image, pixels, preprocess

_LOCAL = "local-dir:"
_CONFIG, _WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


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
        """The number of token ids of a text, padding included."""
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
        """Token ids, B x context, int64."""
        return self.tokenizer(list(texts))

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
        """Encodes token ids, B x context.

        Args:
            word: (B x context bool, B word_width): embeddings that take the place of the token's own where it is True.
        """
        with _in_place_of_words(self._text_tower.token_embedding, word):
            out = self.clip.forward_intermediates(
                text=ids, text_indices=1, normalize=False, normalize_intermediates=True
            )
        tokens = out["text_intermediates"][-1]
        projection = self._text_tower.text_projection
        tokens = projection(tokens) if isinstance(projection, nn.Linear) else tokens @ projection
        return TextFeatures(out["text_features"], tokens, self.text_mask(ids))

    def text_mask(self, ids: Tensor) -> Tensor:
        """B x context bool: the words and the end token, which CLIP gives the highest id."""
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

    def limit_training(self, settings: Settings) -> None:
        """Freezes what the configuration does not unlock (open_clip's `lock`), and sets gradient checkpointing."""
        if settings.unlocked_image_groups is not None:
            self.clip.lock_image_tower(settings.unlocked_image_groups)
        if settings.unlocked_text_layers is not None:
            self.clip.lock_text_tower(settings.unlocked_text_layers)
        self.clip.set_grad_checkpointing(settings.gradient_checkpointing)

    def save(self, folder: Path) -> None:
        """Writes a folder that `load_backbone("local-dir:...")` and open_clip itself can load."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(self.clip, folder / _WEIGHTS)
        if hasattr(self.tokenizer, "save_pretrained"):
            self.tokenizer.save_pretrained(folder)
        write_json(folder / _CONFIG, self.config)


def load_backbone(name: str, pretrained: str | None = None, target_pad: float = 1.25) -> Backbone:
    """Loads an open_clip model: `local-dir:<folder>`, `hf-hub:<owner>/<name>`, or a built-in name with its weights.

    Args:
        pretrained: the weights of a built-in name: a tag of open_clip, or a safetensors file. A file does not say with
            which activation it was trained, so the name has to: one that ends in -quickgelu, or one that has no such
            twin. (A folder says it in its open_clip_config.json.) Pixels are then normalised as OpenAI's.

    Raises:
        InputError: unknown name or tag, an architecture or tokenizer that `architectures` refuses, no weights named, a
            folder without a model, a weight file that differs from its recorded hash or from the architecture, weights
            of another activation (QuickGELU) or perhaps so, or weights that cannot be had.
    """
    file = None
    if name.startswith((_LOCAL, HUB)) and pretrained is not None:
        raise InputError(f"backbone.pretrained: {pretrained!r}: {name} brings weights of its own; write null")
    if name.startswith(_LOCAL):
        folder = _model_folder(name)
        config, name = read_json(folder / _CONFIG), f"{_LOCAL}{folder}"
        check_architecture(name, config.get("model_cfg") if isinstance(config, dict) else None)
    else:
        config = {"model_cfg": known_architecture(name)}
        if not name.startswith(HUB):
            file = _weight_file(name, pretrained, config["model_cfg"])
    with _quiet(), _explained(name, pretrained):
        clip = open_clip.create_model(name, pretrained=None if file else pretrained, require_pretrained=not file)
        if file:
            clip.load_state_dict(load_file(file))  # not by open_clip, which stretches positions of another size
        tokenizer = open_clip.get_tokenizer(name)
    if name.startswith(_LOCAL):
        _check_positions(clip, folder)
    check_tokenizer(name, tokenizer)
    config.setdefault("preprocess_cfg", open_clip.get_model_preprocess_cfg(clip))
    return Backbone(clip, tokenizer, config, target_pad)


def _model_folder(name: str) -> Path:
    """The folder of a `local-dir:` name, after comparing its files with their hashes."""
    folder = resolve(name.removeprefix(_LOCAL))
    for file in (_CONFIG, _WEIGHTS):
        if not (folder / file).is_file():
            raise InputError(f"backbone.name: {folder} holds no {file}; give the folder of an open_clip model")
    check_hashes(folder)
    return folder


def _check_positions(clip: nn.Module, folder: Path) -> None:
    """Refuses a folder whose positions open_clip has stretched to another size than they were trained at."""
    wanted = clip.state_dict()
    with safe_open(folder / _WEIGHTS, "pt") as weights:
        for key in wanted.keys() & set(weights.keys()):
            size, asked = weights.get_slice(key).get_shape(), list(wanted[key].shape)
            if key.endswith("positional_embedding") and size != asked:
                raise InputError(f"{folder / _CONFIG}: asks for {key} of {asked}, the weights have {size}; correct "
                                 "its image_size, patch_size or context_length")  # fmt: skip


def _weight_file(name: str, pretrained: str | None, config: dict[str, Any]) -> Path | None:
    """The file that `pretrained` names, None if it names a tag; after checking that either goes with the model."""
    known = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
    if pretrained is None:
        raise InputError(f"backbone.pretrained: null would start {name} from random weights; name a tag ({known}) or a "
                         "safetensors file")  # fmt: skip
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    if tag:
        if bool(tag.get("quick_gelu")) != bool(config.get("quick_gelu")):
            other = name.removesuffix("-quickgelu") if config.get("quick_gelu") else f"{name}-quickgelu"
            raise InputError(f"backbone.name: the weights {pretrained!r} were trained with the activation of {other}, "
                             f"not of {name}; write backbone.name: {other}")  # fmt: skip
        return None
    file = resolve(pretrained)
    if file.is_dir():
        raise InputError(f"backbone.pretrained: {file} is a folder; write backbone.name: {_LOCAL}{file} and null here")
    if not file.is_file():
        raise InputError(f"backbone.pretrained: {name} has no weights {pretrained!r}; known: {known}, or a file")
    if file.suffix != ".safetensors":
        raise InputError(f"backbone.pretrained: {file}: only safetensors are read, for a pickle can run code; "
                         "data/README.md converts it in three lines")  # fmt: skip
    if f"{name}-quickgelu" in open_clip.list_models():
        raise InputError(f"backbone.pretrained: {file}: a file does not say its activation: write backbone.name: "
                         f"{name}-quickgelu if it is OpenAI's or was fine-tuned from that, else make it a folder with "
                         "an open_clip_config.json (data/README.md) and name that")  # fmt: skip
    return file


def hub_id(name: str, pretrained: str | None) -> str:
    """Where on the hub open_clip gets these weights: "owner/name", or the name itself where it is not known."""
    tag = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else None
    return (tag or {}).get("hf_hub", name.removeprefix(HUB)).strip("/")


@contextlib.contextmanager
def _explained(name: str, pretrained: str | None):
    """Makes one line of whatever open_clip, its downloads and its readers of checkpoints let through."""
    where = f"backbone.name: {name} {pretrained or ''}".rstrip()
    try:
        yield
    except SafetensorError as error:
        raise InputError(f"{where}: not a whole safetensors file ({one_line(error)}); fetch it again") from error
    except Exception as error:
        reason = one_line(error) if name.startswith(_LOCAL) else explain(error, hub_id(name, pretrained))
        raise InputError(f"{where} cannot be loaded: {reason}") from error


@contextlib.contextmanager
def _in_place_of_words(embedding: nn.Embedding, word: tuple[Tensor, Tensor] | None):
    if word is None:
        yield
        return
    place, vector = word
    hook = embedding.register_forward_hook(
        lambda module, ids, out: torch.where(place[..., None], vector[:, None].to(out.dtype), out)
    )
    try:
        yield
    finally:
        hook.remove()


@contextlib.contextmanager
def _quiet():
    """open_clip logs its steps on the root logger; the errors that matter are raised."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.getLogger().setLevel(level)
