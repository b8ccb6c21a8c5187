"""The contrastive loss of both stages."""

import torch
import torch.distributed as dist
from open_clip.loss import ClipLoss
from torch import Tensor
from torch.nn import functional as F


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
