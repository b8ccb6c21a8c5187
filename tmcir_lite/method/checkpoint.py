"""What a training leaves on disk: weights, optimizer and history as safetensors, JSON and CSV (no pickle)."""

from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from tmcir_lite.io.files import InputError, atomic, read_json, write_json
from tmcir_lite.io.tables import read_table


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


class Checkpoint:
    """Model, optimizer and history at the end of an epoch, as safetensors and JSON (no pickle)."""

    def __init__(self, folder: Path, model: nn.Module, optimizer, settings: dict):
        self._folder, self._model, self._optimizer, self._settings = folder, model, optimizer, settings
        self._state, self._last = folder / "checkpoint" / "state.json", folder / "last.safetensors"

    def load(self) -> list[dict]:
        """The history so far (empty at a fresh start), with model and optimizer set to its end."""
        if not self._state.is_file():
            return []
        state = _read_state(self._state)
        if state["settings"] != self._settings:
            there = state["settings"]
            changed = [f"{key}: {there.get(key)} there, {value} now"
                       for key, value in self._settings.items() if there.get(key) != value]  # fmt: skip
            raise InputError(f"{self._state}: this training began with other settings ({', '.join(changed)}); "
                             "go on with those, give the run another name or remove the folder")  # fmt: skip
        saved = self._file("model", state["epoch"])
        load_weights(self._model, saved if saved.is_file() else self._last)  # renamed by `finish`
        if 0 < state["epoch"] < self._settings["epochs"]:  # a finished training keeps no optimizer
            _load_optimizer(self._optimizer, self._file("optimizer", state["epoch"]))
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
        self._drop_all_but(epoch)

    def finish(self) -> None:
        """Keeps the last weights and drops what only resuming needs."""
        epoch = _read_state(self._state)["epoch"]
        if not self._last.is_file():
            self._file("model", epoch).replace(self._last)
        self._drop_all_but(None)

    def _drop_all_but(self, epoch: int | None) -> None:
        """Of the weights beside the state; a kill may have left those of any epoch."""
        for path in self._state.parent.glob("*.safetensors"):
            if path not in (self._file("model", epoch), self._file("optimizer", epoch)):
                path.unlink()

    def _file(self, kind: str, epoch: int | None) -> Path:
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


def _load_optimizer(optimizer, path: Path) -> None:
    state = optimizer.state_dict()
    try:
        for key, value in load_file(path).items():
            index, name = key.split(".", 1)
            state["state"].setdefault(int(index), {})[name] = value
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {_ANEW}") from None
    except SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}); {_ANEW}") from None
    weights = {index: weight for group, kept in zip(optimizer.param_groups, state["param_groups"], strict=True)
               for index, weight in zip(kept["params"], group["params"], strict=True)}  # fmt: skip
    for index, weight in weights.items():
        moments = state["state"].get(index, {"exp_avg": weight})  # a weight that got no gradient has none
        if "exp_avg" not in moments or moments["exp_avg"].shape != weight.shape or len(moments) not in (1, 3):
            raise InputError(f"{path}: of another training; {_ANEW}")
    optimizer.load_state_dict(state)


_ANEW = "remove the folder of this training and run its stage again"


def _read_state(path: Path) -> dict:
    state = read_json(path)
    if not isinstance(state, dict) or not {"epoch", "settings", "history"} <= state.keys():
        raise InputError(f"{path}: not the state of a training; {_ANEW}")
    return state


def read_history(folder: Path) -> pd.DataFrame:
    """The history of a training in `folder`, one row an epoch (epoch 0: before training)."""
    path = Path(folder) / "history.csv"
    if not path.is_file():
        raise InputError(f"{path}: no history; run the stage that writes it first")
    return read_table(path, ["epoch"])


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
    return state.is_file() and _read_state(state)["epoch"] >= epochs
