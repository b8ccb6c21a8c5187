"""Loads open_clip models, by name or from a folder, and refuses what would be read wrongly."""

import contextlib
import logging
from pathlib import Path
from typing import Any

import open_clip
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from tmcir_lite.io.files import InputError, check_hashes, read_json, resolve
from tmcir_lite.io.hub import explain, one_line
from tmcir_lite.method.encoders import CONFIG_FILE, WEIGHTS_FILE, Backbone
from tmcir_lite.run.architectures import HUB, check_architecture, check_tokenizer, known_architecture

_LOCAL = "local-dir:"


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
        config, name = read_json(folder / CONFIG_FILE), f"{_LOCAL}{folder}"
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
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / file).is_file():
            raise InputError(f"backbone.name: {folder} holds no {file}; give the folder of an open_clip model")
    check_hashes(folder)
    return folder


def _check_positions(clip: nn.Module, folder: Path) -> None:
    """Refuses a folder whose positions open_clip has stretched to another size than they were trained at."""
    wanted = clip.state_dict()
    with safe_open(folder / WEIGHTS_FILE, "pt") as weights:
        for key in wanted.keys() & set(weights.keys()):
            size, asked = weights.get_slice(key).get_shape(), list(wanted[key].shape)
            if key.endswith("positional_embedding") and size != asked:
                raise InputError(f"{folder / CONFIG_FILE}: asks for {key} of {asked}, the weights have {size}; correct "
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
def _quiet():
    """open_clip logs its steps on the root logger; the errors that matter are raised."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.getLogger().setLevel(level)
