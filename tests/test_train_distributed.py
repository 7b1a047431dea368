"""Two processes on the CPU take the steps that one process takes, to rounding.

The nets have no batch norm, or frozen ones: on CPUs its statistics are those of each process's own half batch.
"""

from __future__ import annotations

import copy
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from prunekit.errors import InputError
from prunekit.methods import bilevel, mtp
from prunekit.progressive import Training
from prunekit.surgery import find_groups
from prunekit.train import TrainConfig, Trained, classification_loss, finetune, segmentation_loss

HERE = Path(__file__)


class Uneven(Dataset):
    """Even samples have nearly all pixels labelled, odd ones nearly none, with random augmentation."""

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(7)
        self.x = torch.randn(14, 3, 6, 6, generator=g)
        self.y = (self.x[:, 0] > 0).long() + 2 * (self.x[:, 1] > 0).long()
        self.y[1::2, :5] = 255

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[i] + 0.1 * torch.randn(3, 6, 6), self.y[i]


class Net(nn.Module):
    """Two heads, the way segmentation networks are trained, and a layer that nothing uses."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.out, self.aux, self.unused = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        h = self.norm(self.body(x)).relu()
        return {"out": self.out(h), "aux": self.aux(h)}


def _penalty(model: nn.Module) -> torch.Tensor:
    return 0.01 * model.body.weight.abs().sum()


BASE = {"lr": 0.1, "quiet": True, "device": "cpu", "seed": 3}
RUNS = {
    "plain": (False, {"steps": 9}, {}),
    "rich": (
        True,
        {"steps": 5, "accumulate": 2, "freeze_bn": True, "ema": 0.9, "clip_norm": 0.5},
        {"penalty": _penalty},
    ),
    "adamw": (False, {"steps": 5, "optimizer": "adamw", "lr": 0.01}, {}),
}


def train(name: str, **kwargs) -> Trained:
    norm, settings, arguments = RUNS[name]
    loader = DataLoader(Uneven(), batch_size=5, shuffle=True)  # 5 samples: 3 for one process, 2 for the other
    return finetune(Net(norm), loader, TrainConfig(**{**BASE, **settings}), **arguments, **kwargs)


def search() -> tuple[bilevel.Learned, float]:
    """Masks that learn, shared between the processes at every second step; and the seconds of it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    config = TrainConfig(**{**BASE, "steps": 30, "lr": 0.02, "save_every": 2})
    loader = DataLoader(Uneven(), batch_size=5, shuffle=True)
    groups, masks = find_groups(net, torch.zeros(1, 3, 6, 6)), bilevel.MaskConfig(lr=0.05)
    start = time.perf_counter()
    found = bilevel.learn_plan(net, groups, loader, config, macs_ratio=0.4, masks=masks)
    return found, time.perf_counter() - start


def alternation() -> mtp.Sparse:
    """Two backbones that are pulled together, each under its own task, with frozen norms."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 1))
    decoder = nn.Sequential(nn.Conv2d(5, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2))
    classifier = nn.Sequential(OrderedDict(backbone=copy.deepcopy(backbone), head=head))
    segmenter = nn.Sequential(OrderedDict(backbone=backbone, decoder=decoder)).eval()
    parts = mtp.split(segmenter, find_groups(segmenter, torch.zeros(1, 3, 6, 6)), inner=False)
    config = TrainConfig(**{**BASE, "steps": 6, "freeze_bn": True})
    pictures = Uneven()
    labelled = TensorDataset(pictures.x, (pictures.x.mean((1, 2, 3)) > 0).long())
    classify, segment = (DataLoader(each, batch_size=5, shuffle=True) for each in (labelled, pictures))
    settings = mtp.Settings(rounds=3, alpha1=0.01, alpha2=0.01, mu=1.0, rho=2.0)
    tasks = Training(config, classify, classification_loss), Training(config, segment, segmentation_loss)
    return mtp.alternate(classifier, segmenter, parts, *tasks, settings)


class Stop(Exception):
    pass


def _stop(step, model) -> None:
    if step.step == 5:
        raise Stop


def worker(folder: Path) -> None:
    """What each process does: all runs, then one that stops half-way and leaves a checkpoint."""
    from torch import distributed

    results = {name: train(name) for name in RUNS}
    assert distributed.get_world_size() == 2
    try:
        norm, settings, _ = RUNS["plain"]
        config = TrainConfig(**{**BASE, **settings}, save_every=4)
        loader = DataLoader(Uneven(), batch_size=5, shuffle=True)
        finetune(Net(norm), loader, config, checkpoint=folder / "run", on_step=_stop)
    except Stop:
        pass
    try:
        finetune(Net(False), DataLoader(Uneven(), batch_size=1), TrainConfig(**BASE, steps=1))
    except InputError as err:
        refused = str(err)
    out = {n: (r.model.state_dict(), [s.loss for s in r.history]) for n, r in results.items()}
    found, wall = search()
    searched = {"keep": found.plan.keep, "scores": found.scores, "flips": found.history.flips}
    searched |= {"seconds": found.seconds, "wall": wall}
    sparse = alternation()
    coupled = {"first": sparse.classifier.state_dict(), "second": sparse.segmenter.state_dict()}
    coupled |= {"residual": [one.residual for one in sparse.history]}
    torch.save(
        {"runs": out, "refused": refused, "searched": searched, "coupled": coupled},
        folder / f"rank{distributed.get_rank()}.pt",
    )
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def launched(tmp_path_factory) -> tuple[Path, list[dict]]:
    """The folder and results of two processes, started as a person would."""
    folder = tmp_path_factory.mktemp("two")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launch, str(HERE), str(folder)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, [torch.load(folder / f"rank{r}.pt", weights_only=True) for r in range(2)]


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_equal_one(launched, name: str):
    alone = train(name)
    for rank in launched[1]:
        state, losses = rank["runs"][name]
        for key, value in alone.model.state_dict().items():
            torch.testing.assert_close(state[key], value, rtol=1e-5, atol=1e-6, msg=key)
        assert losses == pytest.approx([s.loss for s in alone.history], rel=1e-5)
    assert not torch.equal(alone.model.body.weight, Net(RUNS[name][0]).body.weight)


def test_both_processes_end_with_the_same_weights(launched):
    for name in RUNS:
        one, two = (rank["runs"][name][0] for rank in launched[1])
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_mean_of_means_would_be_seen():
    """The control: weighing both halves of each batch alike ends somewhere else."""
    halves = DataLoader(Uneven(), batch_size=5, shuffle=True)

    def mean_of_means(output, target):
        parts = [({k: v[r::2] for k, v in output.items()}, target[r::2]) for r in range(2)]
        return sum(segmentation_loss(o, t) for o, t in parts) / 2

    other = finetune(Net(False), halves, TrainConfig(**BASE, steps=9), loss_fn=mean_of_means).model
    assert (other.body.weight - train("plain").model.body.weight).abs().max() > 1e-3


def test_one_process_goes_on_where_two_stopped(launched):
    folder = launched[0] / "run"
    assert [p.name for p in folder.iterdir()] == ["step-00000004"]
    seen: list[int] = []
    norm, settings, _ = RUNS["plain"]
    loader = DataLoader(Uneven(), batch_size=5, shuffle=True)
    config = TrainConfig(**{**BASE, **settings})
    resumed = finetune(Net(norm), loader, config, checkpoint=folder, on_step=lambda s, m: seen.append(s.step))
    assert seen == [4, 5, 6, 7, 8]
    for a, b in zip(resumed.model.parameters(), train("plain").model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_masks_that_learn_on_two_processes_agree_and_count_their_seconds_once(launched):
    one, two = (rank["searched"] for rank in launched[1])
    assert one["flips"] and (one["keep"], one["flips"]) == (two["keep"], two["flips"])
    alone, _ = search()
    for name, s_U in alone.scores.items():
        assert torch.equal(one["scores"][name], two["scores"][name])
        torch.testing.assert_close(one["scores"][name], s_U, rtol=0, atol=0.05)
    for rank in (one, two):
        assert 0 < rank["seconds"] <= rank["wall"]


def test_an_alternation_of_two_tasks_takes_the_same_steps_on_two_processes(launched):
    alone = alternation()
    for rank in launched[1]:
        found = rank["coupled"]
        for name, model in (("first", alone.classifier), ("second", alone.segmenter)):
            for key, value in model.state_dict().items():
                torch.testing.assert_close(found[name][key], value, rtol=1e-5, atol=1e-6, msg=key)
        assert found["residual"] == pytest.approx([one.residual for one in alone.history], rel=1e-3)
    assert 0 < alone.history[-1].residual < alone.history[0].residual
    one, two = (rank["coupled"] for rank in launched[1])
    assert all(torch.equal(one[net][key], two[net][key]) for net in ("first", "second") for key in one[net])


def test_a_batch_smaller_than_the_processes_is_refused(launched):
    assert "a batch of 1 cannot be split over 2 processes" in launched[1][1]["refused"]


def test_the_data_are_uneven_enough_to_tell():
    counts = (Uneven().y != 255).flatten(1).sum(1)
    assert counts[0::2].min() > 5 * counts[1::2].max()


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
