"""An observer sees every step once, is stored with the run, and goes on where it was."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from prunekit.errors import CheckpointError
from prunekit.train import TrainConfig, finetune

LOADER = [
    (torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(i)), torch.zeros(2, 4, 4).long()) for i in (0, 1)
]
SETTINGS = {"lr": 0.1, "quiet": True, "device": "cpu", "save_every": 2}


class MeanInput:
    """Running mean of what the network reads, 0.5 old and 0.5 new, and how often it looked."""

    def __init__(self) -> None:
        self.mean, self.seen = torch.zeros(3), torch.zeros((), dtype=torch.long)

    @contextmanager
    def watching(self, model: nn.Module):
        handle = model.register_forward_pre_hook(self._look)
        yield
        handle.remove()

    def _look(self, module: nn.Module, args: tuple) -> None:
        self.mean = 0.5 * self.mean + 0.5 * args[0].mean((0, 2, 3))
        self.seen = self.seen + 1

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"mean": self.mean, "seen": self.seen}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.mean, self.seen = state["mean"], state["seen"]


def run(observer: MeanInput | None, folder: Path | None = None, *, stop: int | None = None) -> nn.Module:
    def leave(step, model) -> None:
        if step.step == stop:
            raise KeyboardInterrupt

    torch.manual_seed(0)
    config = TrainConfig(steps=5, **SETTINGS)
    return finetune(nn.Conv2d(3, 2, 1), LOADER, config, checkpoint=folder, on_step=leave, observer=observer).model


def test_it_sees_each_batch_once_and_changes_nothing():
    observer = MeanInput()
    model = run(observer)
    expected = torch.zeros(3)
    for n in range(5):
        expected = 0.5 * expected + 0.5 * LOADER[n % 2][0].mean((0, 2, 3))
    assert observer.seen == 5
    torch.testing.assert_close(observer.mean, expected)
    assert torch.equal(model.weight, run(None).weight)
    model(LOADER[0][0])
    assert observer.seen == 5  # nobody looks on afterwards


@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_run_ends_with_the_same_statistics(tmp_path: Path, stop: int):
    whole, first, second = MeanInput(), MeanInput(), MeanInput()
    run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(first, tmp_path, stop=stop)
    run(second, tmp_path)
    assert first.seen == stop + 1 and second.seen == 5
    assert torch.equal(second.mean, whole.mean) and not torch.equal(first.mean, whole.mean)


def test_a_finished_run_gives_its_statistics_back(tmp_path: Path):
    first, second = MeanInput(), MeanInput()
    run(first, tmp_path)
    run(second, tmp_path)
    assert second.seen == 5 and torch.equal(second.mean, first.mean)


def test_a_run_that_nobody_watched_cannot_be_watched_from_the_middle(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        run(None, tmp_path, stop=2)
    with pytest.raises(CheckpointError, match="observer"):
        run(MeanInput(), tmp_path)


class GradientNorm(MeanInput):
    """Also adds up the gradients it is shown, and refuses the last ones."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[torch.Tensor] = []

    def on_gradients(self, model: nn.Conv2d) -> None:
        assert model.weight.grad is not None
        self.shown.append(model.weight.grad.clone())
        if len(self.shown) == 5:
            model.weight.grad.zero_()


def test_it_is_shown_each_steps_gradients_before_the_update():
    observer = GradientNorm()
    config = TrainConfig(steps=5, optimizer="sgd", momentum=0.0, weight_decay=0.0, schedule="constant", **SETTINGS)
    before = nn.Conv2d(3, 2, 1)
    after = finetune(before, LOADER, config, observer=observer).model
    assert len(observer.shown) == 5 and all(gradient.any() for gradient in observer.shown)
    moved = before.weight - after.weight
    torch.testing.assert_close(moved, 0.1 * torch.stack(observer.shown[:4]).sum(0))
