"""The contrastive loss of both stages, and what a model needs to be trained with it."""

import math
from pathlib import Path

import torch
import torch.distributed as dist
from open_clip.loss import ClipLoss
from torch import Tensor, nn
from torch.nn import functional as F

from tmcir_lite.method.training import decay_groups


class InfoNCE(ClipLoss):
    """InfoNCE over a batch of matching pairs (paper).

        L = -1/B sum_i log( exp(cos(a_i, b_i) / tau) / sum_j exp(cos(a_i, b_j) / tau) )

    The paper's loss has one direction: the rows are the queries a_i, and the negatives of each are the other b_j.
    With `symmetric` it is the mean of both directions, as CLIP was trained.

    In a run of several processes the negatives come from all of them (open_clip gathers, with gradients): the mean of
    the processes' losses is the loss of the whole batch. Each process must hold the same number of pairs.
    """

    def __init__(self, symmetric: bool = False):
        super().__init__(local_loss=True, gather_with_grad=True)
        self.symmetric = symmetric

    def forward(self, a: Tensor, b: Tensor, logit_scale: Tensor | float) -> Tensor:
        """
        Args:
            a: B D, features of any length; cosines are taken here.
            b: B D, row i matches row i of `a`.
            logit_scale: 1 / tau.

        Returns:
            The mean loss, a scalar.

        Raises:
            ValueError: `a` and `b` differ in shape.
        """
        if a.shape != b.shape:
            raise ValueError(f"InfoNCE needs pairs: a is {tuple(a.shape)}, b is {tuple(b.shape)}")
        if dist.is_initialized():  # only known now: Accelerate may start the process group after this object was made
            self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        with torch.autocast(a.device.type, enabled=False):  # bf16 would round logits near 100 to halves
            a, b = F.normalize(a.float(), dim=-1), F.normalize(b.float(), dim=-1)
            logits_a, logits_b = self.get_logits(a, b, logit_scale)  # cos(a_i, b_j) / tau and its mirror image
            matching = self.get_ground_truth(a.device, len(a))
            loss = F.cross_entropy(logits_a, matching)
            return (loss + F.cross_entropy(logits_b, matching)) / 2 if self.symmetric else loss


LARGEST_SCALE = 100.0
"""1 / tau is learned up to here, as in CLIP."""


class Contrastive(nn.Module):
    """A model of matching pairs, trained with InfoNCE between them.

    A subclass says in its `forward` what the pairs are.

    Args:
        backbone: a `Backbone` or `CachedEncoder`.
        symmetric: see `InfoNCE`.
        scale: 1 / tau of this model's own; None: the backbone's, learned if the backbone is.
        learned: whether `scale` is only where learning starts.
    """

    template = "{}"
    """The sentence that a query's caption is put into."""

    def __init__(
        self, backbone: nn.Module, symmetric: bool = False, scale: float | None = None, learned: bool = True
    ):  # fmt: skip
        super().__init__()
        self.backbone = backbone
        self.loss = InfoNCE(symmetric)
        self.log_scale = None
        if scale is not None:
            self.log_scale = nn.Parameter(torch.tensor(float(scale)).log(), requires_grad=learned)
            backbone.log_scale.requires_grad_(False)  # not used, and several processes wait for every gradient

    @property
    def logit_scale(self) -> Tensor:
        """1 / tau of the loss."""
        return self.backbone.logit_scale if self.log_scale is None else self.log_scale.exp()

    @torch.no_grad()
    def after_step(self) -> None:
        """To be called after each optimizer step: keeps 1 / tau within `LARGEST_SCALE`.

        A clamp in the forward pass instead would stop it from ever coming back from there: the exponential of log(100)
        is above 100 in single precision, where the clamp's gradient is 0, and pretrained weights stand at log(100).
        """
        log_scale = self.backbone.log_scale if self.log_scale is None else self.log_scale
        if log_scale.requires_grad:
            log_scale.clamp_(max=math.log(LARGEST_SCALE))

    def groups(self, weight_decay: float, lr: float, fusion_lr: float) -> list[dict]:
        """AdamW groups; `fusion_lr` is for the weights of a fusion, where there is one."""
        return decay_groups(self, weight_decay, lr)

    def save(self, folder: Path) -> None:
        """Writes what was trained: the encoders, as an open_clip folder."""
        self.backbone.save(folder)

    def forward(self, **batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `loss` takes: features a and b, B D each, row i of the one matching row i of the other; and 1 / tau."""
        raise NotImplementedError
