"""Trains the lite editor from nothing on drawn garments: `python -m tmcir_lite.pretrain.editor`.

The editor is a standard `StableDiffusionInstructPix2PixPipeline`. What is ours is where it starts: not from pure noise
but from the reference's own latents r plus a little noise e. With an Euler scheduler whose sigmas run from 1 to 0, a
state x_sigma = edit + sigma * (r + START_NOISE * e - edit) is the straight path (a rectified flow) from start to edit,
and what the network predicts, in the scheduler's "epsilon" role, is the path's direction r + START_NOISE * e - edit.
"""

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTextConfig, CLIPTextModel

from tmcir_lite.data.captions import join_captions
from tmcir_lite.data.garments import (
    ATTRIBUTES,
    CATEGORIES,
    VALUES,
    Picture,
    relative_caption,
    relative_captions,
    sample_change,
    sample_garment,
    sample_nuisance,
)
from tmcir_lite.io.files import check_hashes, resolve
from tmcir_lite.method.checkpoint import load_weights
from tmcir_lite.method.training import Schedule, decay_groups, fit
from tmcir_lite.pretrain.autoencoder import LATENTS, as_floats, build_autoencoder, train_decoder
from tmcir_lite.pretrain.editor_card import publish
from tmcir_lite.pretrain.tokenizer import kept_tokenizer

START_NOISE = 0.05
DECODER_STEPS, DECODER_BATCH = 100, 32
_TEXT = 40  # tokens
_ANSWERS = [1 + len(values) for values in VALUES.values()]
_READING = 0.05  # weight of the reading loss
_DROP_TEXT, _DROP_BOTH = 0.06, 0.04  # shares of the batch, for classifier-free guidance
_KEPT = ((), ("sleeves", "length", "neckline"), ("sleeves", "length", "colour", "accent"))
"""Attributes that a third of the edits each leave alone: what is learned fast is shown less often than prints."""
_AT_START = 0.9
"""Share of the training at the path's start; further on, the direction can be read off the state and the reference."""


def build_scheduler() -> EulerDiscreteScheduler:
    """Euler steps whose largest sigma is 1: the betas are such that alphas_cumprod ends at one half."""
    return EulerDiscreteScheduler(
        num_train_timesteps=1000, beta_start=1e-6, beta_end=1.3855e-3, beta_schedule="linear",
        prediction_type="epsilon", timestep_spacing="trailing",
    )  # fmt: skip


def build_unet() -> UNet2DConditionModel:
    """Two levels, 16x16 and 8x8; the text enters by cross-attention and, pooled, with the time."""
    return UNet2DConditionModel(
        sample_size=LATENTS[1], in_channels=2 * LATENTS[0], out_channels=LATENTS[0],
        block_out_channels=(64, 112), layers_per_block=1, norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn", cross_attention_dim=128, attention_head_dim=4,
        resnet_time_scale_shift="scale_shift", addition_embed_type="text", addition_embed_type_num_heads=4,
    )  # fmt: skip


def build_text_encoder(tokenizer) -> CLIPTextModel:
    """A two-layer CLIP text transformer."""
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=_TEXT, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ))  # fmt: skip


def sample_edit(rng: random.Random) -> tuple[Picture, Picture, str]:
    """A reference, its perfect edit (same nuisance) and the relative caption(s) between them."""
    reference = Picture(sample_garment(rng, rng.choice(CATEGORIES), pretraining=True), sample_nuisance(rng))
    edited = sample_change(rng, reference.garment, rng.choice((1, 1, 2, 3)), keep=rng.choice(_KEPT))
    if rng.random() < 0.3:
        text = relative_caption(rng, reference.garment, edited)
    else:
        text = join_captions(relative_captions(rng, reference.garment, edited), "and")
    return reference, Picture(edited, reference.nuisance), text


class EditBatches(Dataset):
    """Item i is a batch of references, perfect edits (uint8 B 3 64 64), token ids and the path's random draws."""

    def __init__(self, tokenizer, seed: int, epoch: int, steps: int, batch: int):
        self._tokenizer, self._key, self._steps, self._batch = tokenizer, (seed, epoch), steps, batch

    def __len__(self):
        return self._steps

    def __getitem__(self, index):
        rng = random.Random(repr((*self._key, index)))
        edits = [sample_edit(rng) for _ in range(self._batch)]
        drop = [rng.random() for _ in edits]
        texts = ["" if d < _DROP_TEXT + _DROP_BOTH else text for d, (*_, text) in zip(drop, edits, strict=True)]
        noise = torch.Generator().manual_seed(rng.randrange(2**31))
        return {
            "references": stack(reference for reference, *_ in edits),
            "edits": stack(edited for _, edited, _ in edits),
            "texts": tokenize(self._tokenizer, texts),
            "asked": torch.stack([_asked(*edit, text) for edit, text in zip(edits, texts, strict=True)]),
            "keep_image": torch.tensor([d >= _DROP_BOTH for d in drop]),
            "times": torch.tensor([999 if rng.random() < _AT_START else rng.randrange(1000) for _ in edits]),
            "noise": torch.randn(len(edits), *LATENTS, generator=noise),
        }


def _asked(reference: Picture, edited: Picture, _, text: str) -> torch.Tensor:
    """For each attribute 1 + the number of the value that the caption asks for, 0 if it asks for none."""
    if not text:
        return torch.full((len(ATTRIBUTES),), -100)  # dropped: ignored by the loss
    changed = reference.garment.differences(edited.garment)
    return torch.tensor([VALUES[a].index(getattr(edited.garment, a)) + 1 if a in changed else 0 for a in ATTRIBUTES])


def stack(pictures) -> torch.Tensor:
    """Draws pictures: uint8 (B, 3, 64, 64)."""
    return torch.from_numpy(np.stack([np.asarray(picture.draw()) for picture in pictures])).permute(0, 3, 1, 2)


def tokenize(tokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids as the pipeline itself makes them, (B, 40)."""
    options = {"padding": "max_length", "truncation": True, "max_length": _TEXT, "return_tensors": "pt"}
    return tokenizer(texts, **options).input_ids


class Editing(nn.Module):
    """UNet and text encoder; forward returns the squared error of the predicted path direction.

    To it is added, as a crutch that is thrown away after training, the cross-entropy of linear heads that read the
    asked-for change from the text encoder's output: words are understood long before shapes can be drawn.
    """

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, vae, scheduler):
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        self.heads = nn.Linear(text_encoder.config.hidden_size, sum(_ANSWERS))
        self._vae = [vae]  # in a list: frozen, and no part of this module's weights
        alphas = scheduler.alphas_cumprod
        self.register_buffer("sigmas", ((1 - alphas) / alphas).sqrt(), persistent=False)

    def forward(self, references, edits, texts, keep_image, times, noise, asked):
        with torch.no_grad():
            both = self._vae[0].encode(as_floats(torch.cat([references, edits]))).latents
        reference, edit = both.chunk(2)
        direction = reference + START_NOISE * noise - edit
        sigma = self.sigmas[times].view(-1, 1, 1, 1)
        state = (edit + sigma * direction) / (sigma**2 + 1).sqrt()  # the scheduler's scale_model_input
        inputs = torch.cat([state, reference * keep_image.view(-1, 1, 1, 1)], 1)
        hidden = self.text_encoder(texts)[0]
        error = (self.unet(inputs, times, hidden).sample - direction).square().mean()
        return error + _READING * self._reading_loss(hidden, asked)

    def _reading_loss(self, hidden, asked):
        logits = self.heads(hidden.mean(1)).split(_ANSWERS, dim=1)
        losses = [cross_entropy(part, answer) for part, answer in zip(logits, asked.T, strict=True)]
        return torch.stack(losses).mean()


def main(arguments: list[str] | None = None) -> None:
    """Trains, or goes on with, the lite editor; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m tmcir_lite.pretrain.editor", description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="data/models/editor", help="the pipeline folder to write")
    parser.add_argument("--work", default="runs/pretrain-editor", help="checkpoints and the log; resumes from here")
    parser.add_argument("--start", help="a published editor to go on from, with a fresh schedule; its decoder is kept")
    parser.add_argument("--decoder-epochs", type=int, default=15, help="of 3,200 pictures each")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--steps", type=int, default=80, help="batches an epoch")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", type=int, default=1000, help="held-out edits for the card")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    device, work = torch.device(options.device), resolve(options.work)
    tokenizer = kept_tokenizer((resolve(options.start) if options.start else work) / "tokenizer", _TEXT)
    vae, scheduler = build_autoencoder(), build_scheduler()
    unet, text_encoder = build_unet(), build_text_encoder(tokenizer)
    if options.start:
        _start_from(resolve(options.start), {"unet": unet, "text_encoder": text_encoder, "vae": vae})
    vae.to(device)
    model = Editing(unet, text_encoder, vae, scheduler)
    model.to(device, memory_format=torch.channels_last)
    schedule = Schedule(options.epochs, options.lr, weight_decay=0.01, warmup=0.02)
    held_out = EditBatches(tokenizer, seed=-1, epoch=0, steps=4, batch=128)

    def batches(epoch):
        data = EditBatches(tokenizer, options.seed, epoch, options.steps, options.batch)
        return DataLoader(data, batch_size=None, num_workers=1)

    @torch.no_grad()
    def validate():
        losses = [model(**{k: v.to(device) for k, v in held_out[i].items()}).item() for i in range(len(held_out))]
        return {"heldout_score": -sum(losses) / len(losses)}

    fit(model, batches, schedule, work, device=device, seed=options.seed, score="heldout_score", title="editor",
        groups=decay_groups(model, schedule.weight_decay), validate=validate)  # fmt: skip
    load_weights(model, work / "last.safetensors")
    decoder_epochs = 0 if options.start else options.decoder_epochs
    train_decoder(vae, work / "decoder", decoder_epochs, DECODER_STEPS, DECODER_BATCH, options.seed, device)
    pipeline = assemble(model, vae, tokenizer, scheduler)
    publish(pipeline, options, work, DECODER_STEPS * DECODER_BATCH)


def _start_from(folder: Path, parts: dict[str, nn.Module]) -> None:
    """Loads the weights of a published editor."""
    check_hashes(folder)
    for name, part in parts.items():
        part.load_state_dict(type(part).from_pretrained(folder / name).state_dict())


def assemble(model: Editing, vae, tokenizer, scheduler) -> StableDiffusionInstructPix2PixPipeline:
    """The pieces as a standard diffusers pipeline."""
    return StableDiffusionInstructPix2PixPipeline(
        vae=vae, text_encoder=model.text_encoder, tokenizer=tokenizer, unet=model.unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, image_encoder=None, requires_safety_checker=False,
    )  # fmt: skip


if __name__ == "__main__":
    main()
