"""Which open_clip architectures give the features and tokens that `encoders` reads: judged before anything is built."""

from typing import Any

import open_clip

from tmcir_lite.io.files import InputError
from tmcir_lite.io.hub import explain

HUB = "hf-hub:"
_WANTED = {
    "vision_cfg": {
        "timm_model_name": (None, "timm's visual encoder"),
        "attentional_pool": (False, "an image feature pooled by attention"),
        "pool_type": ("tok", "an image feature that is not its class token's"),
        "patch_dropout": (0.0, "patches left out in training"),
    },
    "text_cfg": {
        "hf_model_name": (None, "a Hugging Face text tower"),
        "embed_cls": (False, "an appended class embedding as its text feature"),
        "pool_type": ("argmax", "a text feature that is not read at the highest id"),
        "no_causal_mask": (False, "a text transformer that looks ahead, into padding too"),
        "proj_type": ("linear", "no text projection"),
    },
}
"""Section of the configuration, key, wanted value (open_clip's default) and what another value means."""


def known_architecture(name: str) -> dict[str, Any]:
    """The configuration of a built-in model, or of one on the hub (`hf-hub:<owner>/<name>`).

    Raises:
        InputError: unknown to open_clip, not to be had from the hub, or refused by `check_architecture`.
    """
    try:
        config = open_clip.get_model_config(name)
    except Exception as error:  # open_clip lets through whatever its download raises
        reason = explain(error, name.removeprefix(HUB))
        raise InputError(f"backbone.name: {name} cannot be loaded: {reason}") from error
    if config is None:
        raise InputError(f"backbone.name: open_clip knows no model {name!r}; open_clip.list_models() names them")
    check_architecture(name, config)
    return config


def check_architecture(name: str, config: Any) -> None:
    """Refuses a model whose tokens and pooled features are not what this library takes them for.

    The image feature has to be the class token's, beside tokens of a regular grid of patches, and the text feature the
    end token's, which has the highest id: by this the text's tokens are told from padding. All have to be projected
    into the shared space by a matrix of open_clip's own.

    Args:
        config: a `model_cfg` of open_clip.

    Raises:
        InputError: it is another; the line says in what.
    """
    sections = {key: config.get(key) for key in _WANTED} if isinstance(config, dict) else {}
    if not sections or not all(isinstance(section, dict) for section in sections.values()):
        raise InputError(f"backbone.name: {name}: its configuration has no model_cfg with vision_cfg and text_cfg")
    wrong = [
        f"{what} ({section}.{key}: {sections[section][key]})"
        for section, wanted in _WANTED.items()
        for key, (value, what) in wanted.items()
        if (sections[section].get(key, value) or None) != (value or None)
    ]
    if isinstance(sections["vision_cfg"].get("layers"), list):
        wrong.append("a ResNet (vision_cfg.layers is a list)")
    size = sections["vision_cfg"].get("image_size")
    if isinstance(size, list) and len(set(size)) > 1:
        wrong.append(f"pictures that are not square (vision_cfg.image_size: {size})")
    if "multimodal_cfg" in config:
        wrong.append("a decoder beside it, as CoCa (multimodal_cfg)")
    if wrong:
        raise InputError(f"backbone.name: {name} has {', '.join(wrong)}; what is needed is open_clip's own vision "
                         "transformer with a class token and its own text transformer read at the end token, such as "
                         "ViT-B-32 or ViT-L-14")  # fmt: skip


def check_tokenizer(name: str, tokenizer: Any) -> None:
    """Refuses a tokenizer whose texts do not stand between a start token and an end token of the highest id.

    Raises:
        InputError: it is such a one.
    """
    inner = getattr(tokenizer, "tokenizer", None)  # of Hugging Face; open_clip's own has none and is as it should be
    if inner is None:
        return
    ids = tokenizer(["a"])[0].tolist()
    if ids[0] != inner.bos_token_id or inner.eos_token_id != max(inner.get_vocab().values()):
        raise InputError(f"backbone.name: {name}: its tokenizer starts no text with a start token of its own, or gives "
                         f"the end token another id ({inner.eos_token_id}) than the highest")  # fmt: skip
