"""Models of the real architectures with random weights: they draw and find nothing, but cost what the real ones cost.

For rehearsals (`size="real"`: the published models' own configurations) and tests (`size="tiny"`: the same classes).
"""

from pathlib import Path

import open_clip
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from tmcir_lite.io.files import InputError
from tmcir_lite.io.hub import one_line
from tmcir_lite.method.encoders import Backbone
from tmcir_lite.pretrain.tokenizer import train_tokenizer
from tmcir_lite.run.architectures import known_architecture

_CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
           "projection_dim": 768}  # fmt: skip
_CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
           "projection_dim": 1280, "hidden_act": "gelu"}  # fmt: skip
_CLIP_TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
              "projection_dim": 32}  # fmt: skip
_VAE_TINY = (8, 8, 16, 16)


def random_editor(pipeline: str, size: str = "real") -> DiffusionPipeline:
    """An editor of the class `pipeline`, in the size of the model that `editors.yaml` names for it, or tiny.

    Raises:
        InputError: a class that no row of `editors.yaml` has.
    """
    if pipeline not in _EDITORS:
        raise InputError(f"editor.pipeline: no stand-in for {pipeline}; there are {', '.join(_EDITORS)}")
    torch.manual_seed(0)
    return _EDITORS[pipeline](size == "tiny")


def random_backbone(name: str, folder: Path, target_pad: float) -> None:
    """Saves an open_clip model of this architecture, for `local-dir:<folder>`.

    Raises:
        InputError: see `architectures.known_architecture`.
    """
    config = known_architecture(name)
    torch.manual_seed(0)
    clip = open_clip.create_model(name)
    config = {"model_cfg": config, "preprocess_cfg": open_clip.get_model_preprocess_cfg(clip)}
    Backbone(clip, open_clip.get_tokenizer(name), config, target_pad).save(folder)


def _instruct_pix2pix(tiny: bool) -> DiffusionPipeline:
    shape = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8, "cross_attention_dim": 32,
             "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "attention_head_dim": 4,
             "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=64, in_channels=8, out_channels=4, **(shape if tiny else {"cross_attention_dim": 768})
    )
    return StableDiffusionInstructPix2PixPipeline(
        vae=_vae(tiny, latents=4), text_encoder=_clip_text(CLIPTextModel, tiny, _CLIP_L), tokenizer=train_tokenizer(77),
        unet=unet, scheduler=EulerAncestralDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085,
                                                             beta_end=0.012),
        safety_checker=None, feature_extractor=None, image_encoder=None, requires_safety_checker=False,
    )  # fmt: skip


def _stable_diffusion_3(tiny: bool) -> DiffusionPipeline:
    shape = {"num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": 64,
             "caption_projection_dim": 16, "pooled_projection_dim": 64, "pos_embed_max_size": 96,
             "sample_size": 32}  # fmt: skip
    real = {"num_layers": 24, "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096,
            "caption_projection_dim": 1536, "pooled_projection_dim": 2048, "pos_embed_max_size": 192,
            "sample_size": 128}  # fmt: skip
    t5 = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
    t5_tiny = {"d_model": 64, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4, "vocab_size": 4096}
    tokenizer = train_tokenizer(77)
    return StableDiffusion3Img2ImgPipeline(
        transformer=SD3Transformer2DModel(patch_size=2, in_channels=16, out_channels=16, **(shape if tiny else real)),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=_vae(tiny, latents=16),
        text_encoder=_clip_text(CLIPTextModelWithProjection, tiny, _CLIP_L), tokenizer=tokenizer,
        text_encoder_2=_clip_text(CLIPTextModelWithProjection, tiny, _CLIP_G), tokenizer_2=tokenizer,
        text_encoder_3=T5EncoderModel(T5Config(feed_forward_proj="gated-gelu", **(t5_tiny if tiny else t5))),
        tokenizer_3=tokenizer,
    )  # fmt: skip


def _flux2_klein(tiny: bool) -> DiffusionPipeline:
    try:  # here and not above: the other editors do with older libraries
        from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel
        from transformers import Qwen3Config, Qwen3ForCausalLM
    except ImportError as error:
        raise InputError("editor.pipeline: Flux2KleinPipeline needs diffusers 0.37 and transformers 4.51, or newer "
                         f"({one_line(error)})") from error  # fmt: skip
    shape = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
             "joint_attention_dim": 96, "in_channels": 32, "axes_dims_rope": (4, 4, 4, 4)}  # fmt: skip
    real = {"num_layers": 5, "num_single_layers": 20, "attention_head_dim": 128, "num_attention_heads": 24,
            "joint_attention_dim": 7680, "in_channels": 128}  # fmt: skip
    qwen = {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
            "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}  # fmt: skip
    qwen_tiny = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 27, "num_attention_heads": 2,
                 "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 4096}  # fmt: skip
    tokenizer = train_tokenizer(512)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    vae = {"block_out_channels": _VAE_TINY, "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 8}
    return Flux2KleinPipeline(
        transformer=Flux2Transformer2DModel(guidance_embeds=False, **(shape if tiny else real)),
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=AutoencoderKLFlux2(**(vae if tiny else {})),
        text_encoder=Qwen3ForCausalLM(Qwen3Config(**(qwen_tiny if tiny else qwen))), tokenizer=tokenizer,
        is_distilled=True,
    )  # fmt: skip


_EDITORS = {
    "StableDiffusionInstructPix2PixPipeline": _instruct_pix2pix,
    "StableDiffusion3Img2ImgPipeline": _stable_diffusion_3,
    "Flux2KleinPipeline": _flux2_klein,
}


def _vae(tiny: bool, latents: int) -> AutoencoderKL:
    shape = {"block_out_channels": _VAE_TINY, "layers_per_block": 1, "norm_num_groups": 4}
    real = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=latents,
        shift_factor=0.0609 if latents == 16 else None, **(shape if tiny else real),
    )  # fmt: skip


def _clip_text(cls, tiny: bool, real: dict):
    end = 4000 if tiny else 49407  # the highest id, where CLIP pools; the stand-ins' tokenizer gives it a lower one
    return cls(CLIPTextConfig(**(_CLIP_TINY if tiny else real), vocab_size=end + 1, eos_token_id=2))
