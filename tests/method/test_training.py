"""The training loop: it learns, resumes to the same result, and refuses what does not fit."""

import errno
import os

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tmcir_lite.io.files import InputError
from tmcir_lite.method.checkpoint import chosen_epoch, is_complete, load_weights, read_history
from tmcir_lite.method.training import Schedule, fit

SCHEDULE = Schedule(epochs=4, lr=0.05)


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 1))

    def forward(self, x, y):
        return (self.layer(x).squeeze(1) - y).square().mean()


def batches(epoch):
    order = torch.Generator().manual_seed(epoch)
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(9))
    data = [{"x": row, "y": row.sum()} for row in x]
    return DataLoader(data, batch_size=16, shuffle=True, generator=order)


def train(folder, fail_at=None, schedule=SCHEDULE, seed=0, loader=batches):
    model, calls = Line(), iter(range(100))

    def validate():
        call = next(calls)
        if call == fail_at:
            raise KeyboardInterrupt
        return {"score": -sum(p.detach().square().sum().item() for p in model.parameters())}

    history = fit(model, loader, schedule, folder, device=torch.device("cpu"), seed=seed, validate=validate,
                  score="score")  # fmt: skip
    return model, history


def test_learns_and_leaves_its_history(tmp_path):
    _, history = train(tmp_path)
    assert history["loss"].iloc[-1] < history["loss"].iloc[1]
    assert list(history["epoch"]) == [0, 1, 2, 3, 4]
    assert len(read_history(tmp_path)) == 5
    assert is_complete(tmp_path, 4)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".pt", ".bin", ".pkl", ".pth"}]


@pytest.mark.parametrize("fail_at", [1, 2, 3])
def test_interrupted_training_ends_the_same(tmp_path, fail_at):
    whole, expected = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", fail_at=fail_at)
    resumed, history = train(tmp_path / "broken")
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), expected.drop(columns="seconds"))


def test_running_a_finished_training_again_changes_nothing(tmp_path):
    _, first = train(tmp_path)
    _, again = train(tmp_path)
    pd.testing.assert_frame_equal(first, again)


def test_chosen_is_by_score_and_last_is_last(tmp_path):
    model, history = train(tmp_path)
    chosen, last = Line(), Line()
    load_weights(chosen, tmp_path / "chosen.safetensors")
    load_weights(last, tmp_path / "last.safetensors")
    norm = -sum(p.detach().square().sum().item() for p in chosen.parameters())
    assert norm == pytest.approx(history["score"].max(), rel=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(last.parameters(), model.parameters(), strict=True))


def test_other_settings_are_refused_by_name(tmp_path):
    train(tmp_path)
    with pytest.raises(InputError, match="lr"):
        train(tmp_path, schedule=Schedule(epochs=4, lr=0.1))


def test_it_ends_where_files_cannot_be_linked(tmp_path, monkeypatch):
    """As on a mounted drive or a memory stick."""

    def refuse(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "symlink", refuse)
    model, history = train(tmp_path)
    last = Line()
    load_weights(last, tmp_path / "last.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(last.parameters(), model.parameters(), strict=True))
    again, same = train(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    pd.testing.assert_frame_equal(same, history)


def test_nothing_is_dropped_where_it_is_validated(tmp_path):
    """Before the first epoch too."""
    seen, model = [], Line()

    def validate():
        seen.append(model.training)
        return {"score": 0.0}

    fit(model, batches, SCHEDULE, tmp_path, device=torch.device("cpu"), seed=0, validate=validate, score="score")
    assert seen == [False] * 5


def test_infinite_loss_stops(tmp_path):
    def loader(epoch):
        return DataLoader([{"x": torch.zeros(3), "y": torch.tensor(float("nan"))}] * 4, batch_size=2)

    with pytest.raises(InputError, match="not finite in epoch 1"):
        train(tmp_path, loader=loader)


def test_weights_of_another_architecture_are_refused(tmp_path):
    train(tmp_path)
    with pytest.raises(InputError, match="another architecture"):
        load_weights(nn.Linear(2, 2), tmp_path / "chosen.safetensors")
    with pytest.raises(InputError, match="no such weights"):
        load_weights(nn.Linear(2, 2), tmp_path / "absent.safetensors")
    for size in (0, 5, 100):
        (tmp_path / "part.safetensors").write_bytes((tmp_path / "chosen.safetensors").read_bytes()[:size])
        with pytest.raises(InputError, match="part.safetensors: not a whole safetensors file"):
            load_weights(nn.Linear(2, 2), tmp_path / "part.safetensors")


def test_warm_up_then_cosine():
    schedule = Schedule(epochs=1, lr=1.0, warmup=0.2)
    factors = [schedule.factor(step, 10) for step in range(10)]
    assert factors[:2] == [0.5, 1.0]
    assert factors[2] == pytest.approx(1.0)
    assert factors[6] == pytest.approx(0.5)
    assert factors[9] < 0.05


def test_a_rate_without_decay_stays():
    schedule = Schedule(epochs=1, lr=1.0, warmup=0.2, decay="none")
    assert [schedule.factor(step, 10) for step in range(10)] == [0.5] + [1.0] * 9


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ([80.0, 84.0, 83.9, 83.5], 3),  # within 1.7 points of the highest: the last of them
        ([80.0, 84.0, 83.9, 82.2], 2),
        ([84.0, 83.9, 82.0, 83.9], 0),  # none was better than none
        ([84.0, 83.9, 84.1, 83.9], 3),
        ([10.0, 20.0, 30.0, 90.0], 3),
    ],
)
def test_the_last_epoch_that_is_not_clearly_worse_is_chosen_if_any_was_better_than_none(scores, chosen):
    history = pd.DataFrame({"epoch": range(4), "score": scores, "standard_error": 1.7})
    assert chosen_epoch(history, "score") == chosen
    grown = [chosen_epoch(history[: n + 1], "score") == n for n in range(4)]
    assert max(n for n in range(4) if grown[n]) == chosen  # whose weights were kept last


def test_without_an_error_the_highest_score_is_chosen():
    assert chosen_epoch(pd.DataFrame({"epoch": [0, 1, 2], "score": [1.0, 3.0, 2.9]}), "score") == 1
