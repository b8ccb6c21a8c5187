"""One training loop for every stage, on Hugging Face Accelerate: checkpoint, resume, history, choice of epoch."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from tmcir_lite.io.files import InputError
from tmcir_lite.io.processes import has_bf16
from tmcir_lite.io.progress import watched
from tmcir_lite.method.checkpoint import Checkpoint


@dataclasses.dataclass(frozen=True)
class Schedule:
    """AdamW with linear warm-up over the first `warmup` share of the steps, then cosine decay to zero, or none."""

    epochs: int
    lr: float
    weight_decay: float = 0.0
    warmup: float = 0.1
    decay: str = "cosine"
    """Or "none": the rate stays at `lr`."""

    def factor(self, step: int, steps: int) -> float:
        """The share of `lr` to use at a step (from 0) out of `steps`."""
        warm = max(1, round(self.warmup * steps))
        if step < warm:
            return (step + 1) / warm
        return 1.0 if self.decay == "none" else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def fit(
    model: nn.Module,
    batches: Callable[[int], DataLoader],
    schedule: Schedule,
    folder: Path,
    *,
    device: torch.device,
    seed: int,
    validate: Callable[[], dict[str, float]],
    score: str,
    loss: Callable[..., torch.Tensor] | None = None,
    groups: Iterable[dict] | None = None,
    title: str = "training",
    chunk: int | None = None,
) -> pd.DataFrame:
    """Trains `model`, or goes on where an interrupted run of the same call stopped, and returns its history.

    A step is `loss(*model(**batch))`, backward, clip, step. The model's forward takes a batch's entries as keyword
    arguments, so that the same call serves one process and many (`accelerate launch`): each takes its own batches, and
    so a step sees as many times the batch as there are processes. All randomness of an epoch comes from `seed` and the
    epoch's number: a run that was interrupted ends with the same weights as one that was not.

    Args:
        model: trained in place; on return it holds the last epoch's weights. If it has an `after_step`, that is called
            after each step (`losses.Contrastive`).
        batches: epoch (from 1) -> loader of dictionaries of tensors; every epoch has the same length.
        folder: receives `history.csv`, `chosen.safetensors`, `last.safetensors` and, while running, `checkpoint/`.
        validate: called after every epoch (and before the first); measures on data held out of *train*.
        score: the entry of what `validate` returns that decides which epoch is kept, see `chosen_epoch`.
        loss: of the entries of the tuple that the model's forward returns; None: the forward returns the loss itself.
        groups: AdamW parameter groups; by default all parameters, without weight decay on vectors and scalars.
        chunk: examples whose activations are held at once, for a batch that memory cannot hold (`cached_backward`);
            the model is then a `losses.Contrastive`. None: the whole batch.

    Raises:
        InputError: the checkpoint is of another model, schedule or number of processes; an epoch gives some process no
            batch; or the loss is not finite.
    """
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if has_bf16(device) else "no")
    optimizer = torch.optim.AdamW(list(groups or decay_groups(model, schedule.weight_decay)), lr=schedule.lr)
    for group in optimizer.param_groups:
        group["peak"] = group["lr"]
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    settings = {**dataclasses.asdict(schedule), "seed": seed, "processes": accelerator.num_processes}
    checkpoint = Checkpoint(Path(folder), model, optimizer, settings)
    history = checkpoint.load()
    model.eval()
    if not history:
        history.append({"epoch": 0, **validate()})
        if accelerator.is_main_process:
            checkpoint.save(history, score)
    for epoch in range(len(history), schedule.epochs + 1):
        started, total = time.perf_counter(), 0.0
        torch.manual_seed(1_000_003 * seed + epoch)
        model.train()
        loader = _dealt_out(accelerator, batches(epoch), title)
        bar = tqdm(loader, desc=f"{title} {epoch}/{schedule.epochs}", disable=not watched())
        with _reading(title):
            for index, batch in enumerate(bar, (epoch - 1) * len(loader)):
                _set_rates(optimizer, schedule.factor(index, schedule.epochs * len(loader)))
                if chunk is None or chunk >= len(next(iter(batch.values()))):
                    output = wrapped(**batch)
                    value = output if loss is None else loss(*output)
                    accelerator.backward(value)
                else:
                    value = cached_backward(accelerator, wrapped, batch, chunk, loss)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                getattr(model, "after_step", lambda: None)()
                optimizer.zero_grad()
                total += value.item()
        if not math.isfinite(total):
            raise InputError(
                f"{title}: the loss is not finite in epoch {epoch}; lower the learning rate ({schedule.lr})"
            )
        mean = accelerator.reduce(torch.tensor(total / len(loader), device=accelerator.device), "mean").item()
        model.eval()
        seconds = round(time.perf_counter() - started, 1)
        history.append({"epoch": epoch, "loss": mean, "seconds": seconds, **validate()})
        if accelerator.is_main_process:
            checkpoint.save(history, score)
            _log(title, schedule.epochs, history[-1])
    model.eval()
    if accelerator.is_main_process:
        checkpoint.finish()
    accelerator.wait_for_everyone()
    return pd.DataFrame(history)


@contextmanager
def _reading(title: str) -> Iterator[None]:
    """Makes one line of what goes wrong in a process that reads ahead; PyTorch raises it here, with its stack."""
    try:
        yield
    except InputError as error:
        *stack, last = str(error).strip().splitlines()
        if not any("Traceback" in line for line in stack):
            raise
        raise InputError(last.partition("InputError: ")[2]) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(f"{title}: a process that reads pictures was killed: most likely memory ran out; lower "
                         "data.workers or this stage's batch, and run the same command again") from None  # fmt: skip


def _dealt_out(accelerator: Accelerator, loader: DataLoader, title: str) -> DataLoader:
    """This process's share of an epoch."""
    mine = accelerator.prepare_data_loader(loader)
    if not len(mine):
        raise InputError(f"{title}: an epoch has fewer batches than the {accelerator.num_processes} processes; "
                         "lower this stage's batch, which each process takes")  # fmt: skip
    return mine


def _set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def decay_groups(model: nn.Module, weight_decay: float, lr: float | None = None) -> list[dict]:
    """AdamW groups of the trainable parameters: matrices decay, vectors and scalars (norms, temperature) do not."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    extra = {} if lr is None else {"lr": lr}
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay, **extra},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0, **extra},
    ]


def cached_backward(
    accelerator: Accelerator, model: nn.Module, batch: dict, chunk: int, loss: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """The loss of a batch, with its gradient added to the weights' own.

    A contrastive loss needs the features of the whole batch at once, but not their activations. The batch is encoded in
    parts without activations, the loss is differentiated at the features, and each part is encoded once more, with the
    same random numbers (dropout), to carry its share on to the weights (gradient caching, Gao et al. 2021, arXiv
    2101.06983): the same gradient in the memory of a part, for one more forward pass. Adding up the losses of parts
    instead would lose the negatives between them.

    Args:
        chunk: examples of a part.
    """
    size = len(next(iter(batch.values())))
    parts = [{name: value[start : start + chunk] for name, value in batch.items()} for start in range(0, size, chunk)]
    inner, states, features = accelerator.unwrap_model(model), [], []
    with torch.no_grad(), accelerator.autocast():
        for part in parts:
            states.append(_random_state(accelerator.device))
            features.append(inner(**part))
        a, b = (torch.cat(side).float().requires_grad_() for side in list(zip(*features, strict=True))[:2])
        scale = features[0][2].detach().clone().requires_grad_()
    with torch.enable_grad():
        whole = loss(a, b, scale)
    at_a, at_b, at_scale = torch.autograd.grad(whole, (a, b, scale))
    shares = zip(parts, states, at_a.split(chunk), at_b.split(chunk), strict=True)
    for number, (part, state, *gradients) in enumerate(shares, 1):
        _set_random_state(accelerator.device, state)
        with nullcontext() if number == len(parts) else accelerator.no_sync(model):
            pairs = zip(model(**part), (*gradients, at_scale / len(parts)), strict=True)
            accelerator.backward(sum((value * gradient).sum() for value, gradient in pairs))
    return whole.detach()


def _random_state(device: torch.device) -> list[torch.Tensor]:
    """The state of the random numbers that a forward pass draws from: the CPU's, then a GPU's own."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_state(device: torch.device, state: list[torch.Tensor]) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


def _log(title: str, epochs: int, row: dict) -> None:
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
    print(f"{title} {row['epoch']}/{epochs}  {numbers}", flush=True)
