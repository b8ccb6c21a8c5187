"""One training loop for every stage, on Hugging Face Accelerate: checkpoint, resume, history, choice of epoch."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from tmcir_lite.files import InputError, atomic, read_json, write_json
from tmcir_lite.processes import has_bf16
from tmcir_lite.progress import watched


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
    groups: Iterable[dict] | None = None,
    title: str = "training",
    chunk: int | None = None,
) -> pd.DataFrame:
    """Trains `model`, or goes on where an interrupted run of the same call stopped, and returns its history.

    The model's forward takes a batch's entries as keyword arguments and returns the loss, so that the same call
    serves one process and many (`accelerate launch`): each takes its own batches, and so a step sees as many times
    the batch as there are processes. All randomness of an epoch comes from `seed` and the epoch's number: a run that
    was interrupted ends with the same weights as one that was not.

    Args:
        model: trained in place; on return it holds the last epoch's weights. If it has an `after_step`, that is called
            after each step (`losses.Contrastive`).
        batches: epoch (from 1) -> loader of dictionaries of tensors; every epoch has the same length.
        folder: receives `history.csv`, `chosen.safetensors`, `last.safetensors` and, while running, `checkpoint/`.
        validate: called after every epoch (and before the first); measures on data held out of *train*.
        score: the entry of what `validate` returns that decides which epoch is kept, see `chosen_epoch`.
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
    checkpoint = _Checkpoint(Path(folder), model, optimizer, settings)
    history = checkpoint.load()
    model.eval()
    if not history:
        history.append({"epoch": 0, **validate()})
        if accelerator.is_main_process:
            checkpoint.save(history, score)
    for epoch in range(len(history), schedule.epochs + 1):
        started = time.perf_counter()
        torch.manual_seed(1_000_003 * seed + epoch)
        model.train()
        loader = accelerator.prepare_data_loader(batches(epoch))
        if not len(loader):
            raise InputError(f"{title}: an epoch has fewer batches than the {accelerator.num_processes} processes; "
                             "lower this stage's batch, which each process takes")  # fmt: skip
        loss = _epoch(wrapped, loader, optimizer, accelerator, schedule, epoch, title, chunk)
        model.eval()
        row = {"epoch": epoch, "loss": loss, "seconds": round(time.perf_counter() - started, 1), **validate()}
        history.append(row)
        if accelerator.is_main_process:
            checkpoint.save(history, score)
            _log(title, schedule.epochs, row)
    model.eval()
    if accelerator.is_main_process:
        checkpoint.finish()
    accelerator.wait_for_everyone()
    return pd.DataFrame(history)


def decay_groups(model: nn.Module, weight_decay: float, lr: float | None = None) -> list[dict]:
    """AdamW groups of the trainable parameters: matrices decay, vectors and scalars (norms, temperature) do not."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    extra = {} if lr is None else {"lr": lr}
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay, **extra},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0, **extra},
    ]


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads weights that `fit` wrote.

    Raises:
        InputError: the file is absent, not whole, or holds the weights of another architecture.
    """
    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such weights; run the stage that writes them first") from None
    except SafetensorError as error:
        raise InputError(
            f"{path}: not a whole safetensors file ({error}); remove the folder and run its stage again"
        ) from None
    except RuntimeError as error:
        raise InputError(f"{path}: weights of another architecture ({str(error).splitlines()[1].strip()})") from None


def _epoch(model, loader, optimizer, accelerator, schedule, epoch, title, chunk) -> float:
    total, steps = 0.0, len(loader)
    after_step = getattr(accelerator.unwrap_model(model), "after_step", lambda: None)
    for index, batch in enumerate(tqdm(loader, desc=f"{title} {epoch}/{schedule.epochs}", disable=not watched())):
        factor = schedule.factor((epoch - 1) * steps + index, schedule.epochs * steps)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        loss = cached_backward(accelerator, model, batch, chunk)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        after_step()
        optimizer.zero_grad()
        total += loss.item()
    if not math.isfinite(total):
        raise InputError(f"{title}: the loss is not finite in epoch {epoch}; lower the learning rate ({schedule.lr})")
    return accelerator.reduce(torch.tensor(total / steps, device=accelerator.device), "mean").item()


def cached_backward(accelerator: Accelerator, model: nn.Module, batch: dict, chunk: int | None) -> torch.Tensor:
    """The loss of a batch, with its gradient added to the weights' own.

    A contrastive loss needs the features of the whole batch at once, but not their activations. With `chunk` the batch
    is encoded in parts without activations, the loss is differentiated at the features, and each part is encoded once
    more, with the same random numbers (dropout), to carry its share on to the weights (gradient caching, Gao et al.
    2021, arXiv 2101.06983): the same gradient in the memory of a part, for one more forward pass. Adding up the losses
    of parts instead would lose the negatives between them.
    """
    size = len(next(iter(batch.values())))
    if chunk is None or chunk >= size:
        loss = model(**batch)
        accelerator.backward(loss)
        return loss
    parts = [{name: value[start : start + chunk] for name, value in batch.items()} for start in range(0, size, chunk)]
    inner, states, features = accelerator.unwrap_model(model), [], []
    with torch.no_grad(), accelerator.autocast():
        for part in parts:
            states.append(_random_state(accelerator.device))
            features.append(inner.pairs(**part))
        a, b = (torch.cat(side).float().requires_grad_() for side in zip(*features, strict=True))
        scale = inner.logit_scale.detach().clone().requires_grad_()
    with torch.enable_grad():
        loss = inner.loss(a, b, scale)
    at_a, at_b, at_scale = torch.autograd.grad(loss, (a, b, scale))
    shares = zip(parts, states, at_a.split(chunk), at_b.split(chunk), strict=True)
    for number, (part, state, part_a, part_b) in enumerate(shares, 1):
        _set_random_state(accelerator.device, state)
        with nullcontext() if number == len(parts) else accelerator.no_sync(model):
            accelerator.backward(model(cached=(part_a, part_b, at_scale / len(parts)), **part))
    return loss.detach()


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


class _Checkpoint:
    """Model, optimizer and history at the end of an epoch, as safetensors and JSON (no pickle)."""

    def __init__(self, folder: Path, model: nn.Module, optimizer, settings: dict):
        self._folder, self._model, self._optimizer, self._settings = folder, model, optimizer, settings
        self._state, self._last = folder / "checkpoint" / "state.json", folder / "last.safetensors"

    def load(self) -> list[dict]:
        """The history so far (empty at a fresh start), with model and optimizer set to its end."""
        if not self._state.is_file():
            return []
        state = read_json(self._state)
        if state["settings"] != self._settings:
            there = state["settings"]
            changed = [f"{key}: {there.get(key)} there, {value} now"
                       for key, value in self._settings.items() if there.get(key) != value]  # fmt: skip
            raise InputError(f"{self._state}: this training began with other settings ({', '.join(changed)}); "
                             "go on with those, give the run another name or remove the folder")  # fmt: skip
        saved = self._file("model", state["epoch"])
        load_weights(self._model, saved if saved.is_file() else self._last)  # renamed by `finish`
        if 0 < state["epoch"] < self._settings["epochs"]:  # a finished training keeps no optimizer
            _set_optimizer(self._optimizer, load_file(self._file("optimizer", state["epoch"])))
        return state["history"]

    def save(self, history: list[dict], score: str) -> None:
        """Weights first, under the epoch's own name; then `state.json`, whose rename makes the epoch count."""
        epoch = history[-1]["epoch"]
        weights = self._model.state_dict()
        _save_tensors(weights, self._file("model", epoch))
        if epoch:
            _save_tensors(_optimizer_tensors(self._optimizer), self._file("optimizer", epoch))
        if chosen_epoch(pd.DataFrame(history), score) == epoch:
            _save_tensors(weights, self._folder / "chosen.safetensors")
        with atomic(self._folder / "history.csv") as path:
            pd.DataFrame(history).to_csv(path, index=False)
        write_json(self._state, {"epoch": epoch, "settings": self._settings, "history": history})
        for kind in ("model", "optimizer"):
            self._file(kind, epoch - 1).unlink(missing_ok=True)

    def finish(self) -> None:
        """Keeps the last weights and drops what only resuming needs."""
        epoch = read_json(self._state)["epoch"]
        if not self._last.is_file():
            self._file("model", epoch).replace(self._last)
        self._file("optimizer", epoch).unlink(missing_ok=True)

    def _file(self, kind: str, epoch: int) -> Path:
        return self._state.with_name(f"{kind}-{epoch}.safetensors")


def save_weights(model: nn.Module, path: Path) -> None:
    """Writes a model's weights, as `load_weights` reads them, under a temporary name, then renames."""
    _save_tensors(model.state_dict(), path)


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    with atomic(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)


def _optimizer_tensors(optimizer) -> dict[str, torch.Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}


def _set_optimizer(optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state = optimizer.state_dict()
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(state)


def read_history(folder: Path) -> pd.DataFrame:
    """The history of a training in `folder`, one row an epoch (epoch 0: before training)."""
    path = Path(folder) / "history.csv"
    if not path.is_file():
        raise InputError(f"{path}: no history; run the stage that writes it first")
    return pd.read_csv(path)


def chosen_epoch(history: pd.DataFrame, score: str) -> int:
    """The last of the epochs whose score is within one standard error of the highest; 0 if none is better than that.

    Smaller differences say nothing, and which epoch has the highest score then hangs on a single query, or on a
    processor's rounding. Of equals the last: its learning rate has come down, so its weights move the least. But where
    no epoch was better than none, none is taken.

    Args:
        history: of `fit`, with epoch 0 first. Its column `standard_error` is that of the score; without one it is 0.
    """
    best = history[score].idxmax()
    if history["epoch"][best] == 0:
        return 0
    error = history.get("standard_error", pd.Series(0.0, history.index))
    return int(history["epoch"][history[score] >= history[score][best] - error[best]].max())


def is_complete(folder: Path, epochs: int) -> bool:
    """True if the training in `folder` has run all its epochs."""
    state = Path(folder) / "checkpoint" / "state.json"
    return state.is_file() and read_json(state)["epoch"] >= epochs
