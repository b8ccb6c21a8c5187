"""Trains a lite editor from nothing on a drawn world: `python -m tmcir_lite.pretrain.editor`.

The editor is a standard `StableDiffusionInstructPix2PixPipeline`. What is ours is where it starts: not from pure noise
but from the reference's own latents r plus a little noise e. With an Euler scheduler whose sigmas run from 1 to 0, a
state x_sigma = edit + sigma * (r + START_NOISE * e - edit) is the straight path (a rectified flow) from start to edit,
and what the network predicts, in the scheduler's "epsilon" role, is the path's direction r + START_NOISE * e - edit.
"""

import argparse
import random
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTextConfig, CLIPTextModel

from tmcir_lite.io.files import check_hashes, resolve
from tmcir_lite.method.checkpoint import load_weights
from tmcir_lite.method.training import Schedule, decay_groups, fit
from tmcir_lite.pretrain.autoencoder import LATENTS, as_floats, build_autoencoder, train_decoder
from tmcir_lite.pretrain.editor_card import publish
from tmcir_lite.pretrain.tokenizer import kept_tokenizer
from tmcir_lite.pretrain.worlds import garments, scenes
from tmcir_lite.pretrain.worlds.example import IGNORED

WORLDS = {"garments": garments, "scenes": scenes}
START_NOISE = 0.05
DECODER_STEPS, DECODER_BATCH = 100, 32
_READING = 0.05  # weight of the reading loss
_DROP_TEXT, _DROP_BOTH = 0.06, 0.04  # shares of the batch, for classifier-free guidance
_AT_START = 0.9
"""Share of the training at the path's start; further on, the direction can be read off the state and the reference."""


def build_scheduler() -> EulerDiscreteScheduler:
    """Euler steps whose largest sigma is 1: the betas are such that alphas_cumprod ends at one half."""
    return EulerDiscreteScheduler(
        num_train_timesteps=1000, beta_start=1e-6, beta_end=1.3855e-3, beta_schedule="linear",
        prediction_type="epsilon", timestep_spacing="trailing",
    )  # fmt: skip


def build_unet(channels: tuple[int, int] = garments.CHANNELS) -> UNet2DConditionModel:
    """Two levels, 16x16 and 8x8; the text enters by cross-attention and, pooled, with the time."""
    return UNet2DConditionModel(
        sample_size=LATENTS[1], in_channels=2 * LATENTS[0], out_channels=LATENTS[0],
        block_out_channels=channels, layers_per_block=1, norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn", cross_attention_dim=128, attention_head_dim=4,
        resnet_time_scale_shift="scale_shift", addition_embed_type="text", addition_embed_type_num_heads=4,
    )  # fmt: skip


def build_text_encoder(tokenizer) -> CLIPTextModel:
    """A two-layer CLIP text transformer, for as many tokens as the tokenizer cuts a text to."""
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ))  # fmt: skip


class EditBatches(Dataset):
    """Item i is a batch of references, perfect edits (uint8 B 3 64 64), token ids and the path's random draws."""

    def __init__(self, world: ModuleType, tokenizer, seed: int, epoch: int, steps: int, batch: int):
        self._world, self._tokenizer, self._key = world, tokenizer, (seed, epoch)
        self._steps, self._batch = steps, batch

    def __len__(self):
        return self._steps

    def __getitem__(self, index):
        rng = random.Random(repr((*self._key, index)))
        examples = [self._world.sample_edit(rng) for _ in range(self._batch)]
        drop = [rng.random() for _ in examples]
        texts = ["" if d < _DROP_TEXT + _DROP_BOTH else e.text for d, e in zip(drop, examples, strict=True)]
        noise = torch.Generator().manual_seed(rng.randrange(2**31))
        return {
            "references": stack(example.reference for example in examples),
            "edits": stack(example.edited for example in examples),
            "texts": tokenize(self._tokenizer, texts),
            "labels": torch.tensor([self._left(d, e.labels) for d, e in zip(drop, examples, strict=True)]),
            "keep_image": torch.tensor([d >= _DROP_BOTH for d in drop]),
            "times": torch.tensor([999 if rng.random() < _AT_START else rng.randrange(1000) for _ in examples]),
            "noise": torch.randn(len(examples), *LATENTS, generator=noise),
        }

    def _left(self, drop: float, labels: list[int]) -> list[int]:
        """What can still be read where text or picture are dropped."""
        if drop < _DROP_BOTH:
            return [IGNORED] * len(labels)
        return self._world.without_text(labels) if drop < _DROP_TEXT + _DROP_BOTH else labels


def stack(pictures) -> torch.Tensor:
    """Draws pictures: uint8 (B, 3, 64, 64)."""
    return torch.from_numpy(np.stack([np.asarray(picture.draw()) for picture in pictures])).permute(0, 3, 1, 2)


def tokenize(tokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids as the pipeline itself makes them, (B, M)."""
    length = tokenizer.model_max_length
    options = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
    return tokenizer(texts, **options).input_ids


class Editing(nn.Module):
    """UNet and text encoder; forward returns the squared error of the predicted path direction.

    To it is added, as a crutch that is thrown away after training, what a reader cannot read: words are understood,
    and found in a picture, long before shapes can be drawn.

    Args:
        reader: forward takes the text encoder's output (B, M, width), the UNet's after its way down and after its
            middle (both B, channels, 8, 8) and the labels (B, L), and returns a loss.
    """

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, vae, scheduler, reader: nn.Module):
        super().__init__()
        self.unet, self.text_encoder, self.reader = unet, text_encoder, reader
        self.draws = True
        """False: learns to read alone, and the UNet's way up, more than half of the work, is not walked."""
        self._vae = [vae]  # in a list: frozen, and no part of this module's weights
        self._made = {}
        unet.down_blocks[-1].register_forward_hook(lambda _, __, made: self._made.update(down=made[0]))
        unet.mid_block.register_forward_hook(lambda _, __, made: self._made.update(mid=made))
        alphas = scheduler.alphas_cumprod
        self.register_buffer("sigmas", ((1 - alphas) / alphas).sqrt(), persistent=False)

    def forward(self, references, edits, texts, keep_image, times, noise, labels):
        with torch.no_grad():
            both = self._vae[0].encode(as_floats(torch.cat([references, edits]))).latents
        reference, edit = both.chunk(2)
        direction = reference + START_NOISE * noise - edit
        sigma = self.sigmas[times].view(-1, 1, 1, 1)
        state = (edit + sigma * direction) / (sigma**2 + 1).sqrt()  # the scheduler's scale_model_input
        inputs = torch.cat([state, reference * keep_image.view(-1, 1, 1, 1)], 1)
        hidden = self.text_encoder(texts)[0]
        if self.draws:
            error = (self.unet(inputs, times, hidden).sample - direction).square().mean()
        else:
            first_half(self.unet, inputs, times, hidden)
        read = self.reader(hidden, self._made.pop("down"), self._made.pop("mid"), labels)
        return error + _READING * read if self.draws else read


def first_half(unet: UNet2DConditionModel, inputs, times, hidden) -> torch.Tensor:
    """The UNet's way down and its middle, (B, channels, 8, 8): what its own forward does before it goes up."""
    time = unet.time_embedding(unet.get_time_embed(inputs, times))
    time = time + unet.get_aug_embed(time, hidden, {})
    features = unet.conv_in(inputs)
    for block in unet.down_blocks:
        features = block(features, time, encoder_hidden_states=hidden)[0]
    return unet.mid_block(features, time, encoder_hidden_states=hidden)


def main(arguments: list[str] | None = None) -> None:
    """Trains, or goes on with, a lite editor; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m tmcir_lite.pretrain.editor", description=__doc__.splitlines()[0])
    parser.add_argument("--world", choices=WORLDS, default="garments", help="what is drawn")
    parser.add_argument("--out", default="data/models/editor", help="the pipeline folder to write")
    parser.add_argument("--work", default="runs/pretrain-editor", help="checkpoints and the log; resumes from here")
    parser.add_argument("--start", help="a published editor to go on from, with a fresh schedule; its decoder is kept")
    parser.add_argument("--decoder-epochs", type=int, default=15, help="of 3,200 pictures each")
    parser.add_argument("--reading-epochs", type=int, default=0, help="before all others: what is asked for is read, "
                        "not drawn, at half the cost")  # fmt: skip
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--steps", type=int, default=80, help="batches an epoch")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", type=int, default=1000, help="held-out edits for the card")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw; the weights are the same")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    device, work, world = torch.device(options.device), resolve(options.work), WORLDS[options.world]
    start = resolve(options.start) if options.start else None
    tokenizer = kept_tokenizer((start or work) / "tokenizer", world.CONTEXT, world.corpus())
    vae, scheduler = build_autoencoder(), build_scheduler()
    unet, text_encoder = build_unet(world.CHANNELS), build_text_encoder(tokenizer)
    if start:
        _start_from(start, {"unet": unet, "text_encoder": text_encoder, "vae": vae})
    elif world.AUTOENCODER:
        _load(resolve(world.AUTOENCODER), vae)
    vae.to(device)
    reader = world.READER(text_encoder.config.hidden_size, world.CHANNELS[-1])
    model = Editing(unet, text_encoder, vae, scheduler, reader)
    model.to(device, memory_format=torch.channels_last)
    held_out = EditBatches(world, tokenizer, seed=-1, epoch=0, steps=4, batch=128)

    def batches(epoch):
        data = EditBatches(world, tokenizer, options.seed, epoch, options.steps, options.batch)
        return DataLoader(data, batch_size=None, num_workers=options.workers)

    @torch.no_grad()
    def validate():
        losses = [model(**{k: v.to(device) for k, v in held_out[i].items()}).item() for i in range(len(held_out))]
        return {"heldout_score": -sum(losses) / len(losses)}

    stages = ((False, options.reading_epochs, work / "reading"), (True, options.epochs, work))
    for model.draws, epochs, folder in stages if options.reading_epochs else stages[1:]:
        schedule = Schedule(epochs, options.lr, weight_decay=0.01, warmup=0.02)
        fit(model, batches, schedule, folder, device=device, seed=options.seed, score="heldout_score", title="editor",
            groups=decay_groups(model, schedule.weight_decay), validate=validate)  # fmt: skip
        load_weights(model, folder / "last.safetensors")
    if start is None and world.AUTOENCODER is None:
        train_decoder(vae, work / "decoder", options.decoder_epochs, DECODER_STEPS, DECODER_BATCH, options.seed, device)
    publish(assemble(model, vae, tokenizer, scheduler), options, work, world, DECODER_STEPS * DECODER_BATCH)


def _start_from(folder: Path, parts: dict[str, nn.Module]) -> None:
    """Loads the weights of a published editor."""
    check_hashes(folder)
    for name, part in parts.items():
        _load(folder / name, part)


def _load(folder: Path, part: nn.Module) -> None:
    part.load_state_dict(type(part).from_pretrained(folder).state_dict())


def assemble(model: Editing, vae, tokenizer, scheduler) -> StableDiffusionInstructPix2PixPipeline:
    """The pieces as a standard diffusers pipeline."""
    return StableDiffusionInstructPix2PixPipeline(
        vae=vae, text_encoder=model.text_encoder, tokenizer=tokenizer, unet=model.unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, image_encoder=None, requires_safety_checker=False,
    )  # fmt: skip


if __name__ == "__main__":
    main()
