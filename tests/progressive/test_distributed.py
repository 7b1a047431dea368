"""Two processes on the CPU cut the same channels as one, go on with the same network, and write one folder.

The batch norms are frozen: on CPUs their statistics would be those of each process's own half batch.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from prunekit.core import Groups
from prunekit.observe import watch
from prunekit.progressive import Cut, Progress, Training, progressive
from prunekit.train import TrainConfig

HERE = Path(__file__)
CONFIG = TrainConfig(steps=6, lr=0.02, quiet=True, device="cpu", freeze_bn=True, save_every=2)


class Uneven(Dataset):
    """Even samples are bright and odd ones dark, so that half a batch tells little about the whole."""

    def __init__(self) -> None:
        self.x = torch.randn(12, 3, 6, 6, generator=torch.Generator().manual_seed(7))
        self.y = (self.x[:, 0] > 0).long()
        self.x[1::2] *= 0.1

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.x[i], self.y[i]


class MeanSquare:
    """Running mean of each unit's squared map; `own` is what this process has seen alone."""

    def __init__(self, groups: Groups) -> None:
        self.groups, self.means, self.own = groups, {}, {}

    def watching(self, model: nn.Module):
        return watch(model, self.groups, self._see)

    def _see(self, name: str, x_BUK: Tensor) -> None:
        now = x_BUK.detach().square().transpose(0, 1).flatten(1).mean(1)
        for table in (self.means, self.own):
            table[name] = 0.8 * table[name] + 0.2 * now if name in table else now

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.means)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.means = dict(state)

    def scores(self, groups: Groups) -> dict[str, Tensor]:
        return self.means


def train(folder: Path, observers: list[MeanSquare]) -> Progress:
    def observe(groups: Groups) -> MeanSquare:
        observers.append(MeanSquare(groups))
        return observers[-1]

    observe.__module__ = "both"  # a program of its own has another name for this file than pytest
    torch.manual_seed(0)
    net = nn.Sequential(
        *[nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU()],
        nn.Conv2d(12, 2, 1),
    )
    training = Training(CONFIG, DataLoader(Uneven(), batch_size=4))  # in order: each process sees one kind only
    cuts = [Cut(target, training) for target in (0.3, 0.6)]
    return progressive(net, torch.randn(1, 3, 6, 6), cuts, folder, observe=observe, pretrain=training)


def worker(folder: Path) -> None:
    from torch import distributed

    observers: list[MeanSquare] = []
    done = train(folder / "run", observers)
    out = {
        "model": done.model.state_dict(),
        "means": observers[0].means,
        "own": observers[0].own,
        "plans": [stage.plan.to_json() for stage in done.stages],
    }
    torch.save(out, folder / f"rank{distributed.get_rank()}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def launched(tmp_path_factory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("two")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launch, str(HERE), str(folder)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, [torch.load(folder / f"rank{r}.pt", weights_only=True) for r in range(2)]


def test_two_processes_do_what_one_does(launched, tmp_path: Path):
    observers: list[MeanSquare] = []
    alone = train(tmp_path, observers)
    for rank in launched[1]:
        assert rank["plans"] == [stage.plan.to_json() for stage in alone.stages]
        for name, mean in observers[0].means.items():
            torch.testing.assert_close(rank["means"][name], mean, rtol=1e-4, atol=1e-6)
        for name, value in alone.model.state_dict().items():
            torch.testing.assert_close(rank["model"][name], value, rtol=1e-4, atol=1e-5)


def test_both_go_on_with_the_same(launched):
    one, two = launched[1]
    for part in ("model", "means"):
        assert all(torch.equal(one[part][name], two[part][name]) for name in one[part])


def test_what_each_saw_alone_would_have_misled(launched):
    """The control: without the mean over processes they would disagree."""
    one, two = (rank["own"] for rank in launched[1])
    assert all((one[name] > 2 * two[name]).any() for name in one)


def test_one_process_takes_up_what_two_have_left(launched):
    again = train(launched[0] / "run", [])
    state = launched[1][0]["model"]
    assert all(torch.equal(value, state[name]) for name, value in again.model.state_dict().items())


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
