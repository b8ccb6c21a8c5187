"""The lite editor's autoencoder of drawn garments, 64x64x3 pixels <-> 16x16x16 latents."""

import random
from itertools import product
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from einops import rearrange
from torch import nn
from torch.utils.data import DataLoader, Dataset

from tmcir_lite.data.garments import CATEGORIES, SIZE, draw, sample_garment, sample_nuisance
from tmcir_lite.method.training import Schedule, decay_groups, fit

LATENTS = (16, 16, 16)  # channels, height, width


def build_autoencoder(seed: int = 0) -> AutoencoderTiny:
    """An autoencoder whose encoder is final (`_set_linear_code`) and whose decoder is yet to be trained.

    Because the encoder is known from the start, editor and decoder can be trained in any order.
    """
    torch.manual_seed(seed)
    width = (32, 32, 32)
    vae = AutoencoderTiny(
        encoder_block_out_channels=width,
        decoder_block_out_channels=width,
        num_encoder_blocks=(0, 0, 0),
        num_decoder_blocks=(3, 1, 0),
        latent_channels=LATENTS[0],
        upsampling_scaling_factor=2,
    )
    vae.encoder.requires_grad_(False)
    _set_linear_code(vae.encoder.layers, PictureBatches(seed=-2, epoch=0, steps=1, batch=1000)[0]["pixels"])
    return vae


@torch.no_grad()
def _set_linear_code(convolutions: nn.Sequential, pixels: torch.Tensor) -> None:
    """Sets four bare convolutions to the first 16 principal components of 4x4 patches, the best linear code.

    The two strided ones gather 2x2 neighbours into channels, twice; the components' scales are compressed (fourth
    root of the variance, largest 1), because the decoder saturates at 3.
    """
    patches = rearrange(pixels / 255, "b c (i p r) (j q s) -> (b i j) (c r s p q)", p=2, r=2, q=2, s=2)
    mean = patches.mean(0)
    variance, directions = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    variance, directions = variance.flip(0)[: LATENTS[0]], directions.flip(1)[:, : LATENTS[0]]
    components = (directions / (variance * variance[0]) ** 0.25).T  # (16, 48)
    first, second, third, last = convolutions
    for layer in convolutions:
        layer.weight.zero_()
    first.bias.zero_()
    for channel in range(3):
        first.weight[channel, channel, 1, 1] = 1
        for r, s in product((0, 1), repeat=2):
            second.weight[4 * channel + 2 * r + s, channel, r + 1, s + 1] = 1
    third.weight[: LATENTS[0], :12, 1:, 1:] = rearrange(components, "k (c p q) -> k c p q", c=12, p=2)
    last.weight[range(LATENTS[0]), range(LATENTS[0]), 1, 1] = 1
    last.bias.copy_(-components @ mean)


def as_floats(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 -> [-1, 1], as diffusers' models expect."""
    return pixels.float() / 127.5 - 1


class PictureBatches(Dataset):
    """Item i is a batch of drawn pictures, uint8 (B, 3, 64, 64), the same for the same seed, epoch and i."""

    def __init__(self, seed: int, epoch: int, steps: int, batch: int):
        self._key, self._steps, self._batch = (seed, epoch), steps, batch

    def __len__(self):
        return self._steps

    def __getitem__(self, index):
        rng = random.Random(repr((*self._key, index)))
        garments = [sample_garment(rng, rng.choice(CATEGORIES), pretraining=True) for _ in range(self._batch)]
        pixels = np.stack([np.asarray(draw(garment, sample_nuisance(rng))) for garment in garments])
        return {"pixels": torch.from_numpy(pixels).permute(0, 3, 1, 2)}


class Reconstruction(nn.Module):
    """A decoder whose forward returns the squared error of its reconstructions."""

    def __init__(self, vae: AutoencoderTiny):
        super().__init__()
        self.vae = vae

    def forward(self, pixels):
        return (self.vae(as_floats(pixels)).sample - as_floats(pixels)).square().mean()


@torch.no_grad()
def psnr(vae: AutoencoderTiny, count: int = 256) -> float:
    """Peak signal-to-noise ratio of reconstructions, in dB, over held-out pictures."""
    pixels = PictureBatches(seed=-1, epoch=0, steps=1, batch=count)[0]["pixels"].to(next(vae.parameters()).device)
    error = (vae(as_floats(pixels)).sample.clamp(-1, 1) - as_floats(pixels)).square().mean()
    return (10 * torch.log10(4 / error)).item()


def train_decoder(vae: AutoencoderTiny, work: Path, epochs: int, steps: int, batch: int, seed: int, device) -> None:
    """Trains the autoencoder's decoder in place, or goes on with it, in `work`."""
    schedule = Schedule(epochs, lr=2e-3, warmup=0.05)

    def batches(epoch):
        return DataLoader(PictureBatches(seed, epoch, steps, batch), batch_size=None, num_workers=1)

    fit(Reconstruction(vae), batches, schedule, work, device=device, seed=seed, score="psnr", title="decoder",
        groups=decay_groups(vae, 0.0), validate=lambda: {"psnr": psnr(vae)})  # fmt: skip


assert 4 * LATENTS[1] == SIZE, "the autoencoder divides the side by four"
