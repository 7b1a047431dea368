"""The pipeline is the hand-made sequence of calls, wherever it was interrupted, and refuses a folder of another run."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import prunekit as pk
from prunekit.core import Groups
from prunekit.errors import CheckpointError, InputError, ScoreError
from prunekit.methods import dcfp, l1, random
from prunekit.observe import watch
from prunekit.progressive import Cut, Progress, Training, progressive
from prunekit.train import TrainConfig, finetune

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def _loader() -> list[tuple[Tensor, Tensor]]:
    dice = torch.Generator().manual_seed(1)
    x = torch.randn(3, 2, 3, 8, 8, generator=dice)
    return [(images, (images[:, 0] > 0).long() + (images[:, 1] > 0)) for images in x]


def net(width: int = 16, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    block = [nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*block, nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.Conv2d(width, 3, 1))


class MeanMaps:
    """Running mean of |map| of each unit, as its reader sees it: a criterion that watches training."""

    def __init__(self, groups: Groups) -> None:
        self.groups, self.means = groups, {}

    def watching(self, model: nn.Module):
        return watch(model, self.groups, self._see)

    def _see(self, name: str, x_BUK: Tensor) -> None:
        now = x_BUK.detach().abs().transpose(0, 1).flatten(1).mean(1)
        self.means[name] = 0.8 * self.means[name] + 0.2 * now if name in self.means else now

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.means)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.means = dict(state)

    def scores(self, groups: Groups) -> dict[str, Tensor]:
        if not self.means:
            raise ScoreError("nothing was observed.")
        return self.means


CONFIG = TrainConfig(steps=4, lr=0.05, quiet=True, device="cpu", save_every=2)


def labels_right(model: nn.Module) -> dict[str, float]:
    with torch.no_grad():
        return {"accuracy": sum(float((model.eval()(x).argmax(1) == y).float().mean()) for x, y in _loader()) / 3}


def run(folder: Path, model: nn.Module | None = None, *, config: TrainConfig = CONFIG, **other) -> Progress:
    training = Training(config, _loader())
    targets = other.pop("targets", (0.3, 0.6))
    cuts = [Cut(target, replace(training, config=replace(config, lr=0.02))) for target in targets]
    given = {"pretrain": training, "measure": labels_right, "observe": MeanMaps, **other}
    return progressive(model or net(), X, cuts, folder, **given)


def same(a: Progress, b: Progress) -> bool:
    ours, theirs = a.model.state_dict(), b.model.state_dict()
    plans = all(s.plan == t.plan and s.cut == t.cut and s.tuned == t.tuned for s, t in zip(a.stages, b.stages))
    return plans and a.dense == b.dense and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Progress, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return run(folder), folder


def test_it_is_the_sequence_of_its_parts(tmp_path: Path):
    done = run(tmp_path, score=l1.score, observe=None)
    model = finetune(net(), _loader(), CONFIG).model
    groups = pk.find_groups(model, X)
    dense = pk.profile(model, X, latency=False).macs
    for stage, target in zip(done.stages, (0.3, 0.6), strict=True):
        now = pk.profile(model, X, latency=False).macs
        plan = pk.budget_plan(groups, l1.score(model, groups), macs_ratio=1 - (1 - target) * dense / now)
        assert stage.plan == plan
        model = finetune(pk.prune(model, groups, plan), _loader(), replace(CONFIG, lr=0.02)).model
        groups = pk.find_groups(model, X)
        cost = pk.profile(model, X, latency=False)
        assert (stage.macs, stage.params) == (cost.macs, cost.params)
    theirs = model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in done.model.state_dict().items())


def test_targets_count_from_the_dense_model_and_each_cut_is_certified(whole):
    done, _ = whole
    assert done.macs == pk.profile(net(), X, latency=False).macs
    for stage, target in zip(done.stages, (0.3, 0.6), strict=True):
        assert target <= 1 - stage.macs / done.macs < target + 0.1
        assert stage.certificate.max_error <= 1e-9 < stage.certificate.control
    first, second = (stage.plan for stage in done.stages)
    assert second.sizes == {name: len(kept) for name, kept in first.keep.items()}
    assert done.stages[-1].tuned == labels_right(done.model)
    assert "step 2" in str(done) and "certificate" in str(done)


def test_what_is_left_loads_as_a_pruned_model(whole):
    done, folder = whole
    again = pk.load_pruned(folder / "small", net(seed=5), X)
    with torch.no_grad():
        assert torch.equal(again.eval()(X), done.model(X))


class Stop(Exception):
    pass


@pytest.mark.parametrize("call", [3, 5, 8, 12])  # in pre-training, before and in the first tuning, in the last
def test_a_stopped_run_ends_as_an_unbroken_one(tmp_path: Path, call: int):
    calls = []

    def loss_fn(output, target):
        calls.append(1)
        if len(calls) == call:
            raise Stop
        return nn.functional.cross_entropy(output, target)

    def start(folder: Path) -> Progress:
        training = Training(CONFIG, _loader(), loss_fn)
        cuts = [Cut(t, replace(training, config=replace(CONFIG, lr=0.02))) for t in (0.3, 0.6)]
        return progressive(net(), X, cuts, folder, pretrain=training, measure=labels_right, observe=MeanMaps)

    with pytest.raises(Stop):
        start(tmp_path / "a")
    done = start(tmp_path / "a")
    assert len(calls) - call == 12 - (call - 1) // 2 * 2  # it went on from the last checkpoint
    assert same(done, start(tmp_path / "b"))
    calls[:] = [1] * 100
    assert same(done, start(tmp_path / "a")) and len(calls) == 100  # all is there: no step more


def test_the_criterion_decides(tmp_path: Path, whole):
    done, _ = whole
    by_chance = run(tmp_path, score=partial(random.score, seed=3), observe=None)
    assert by_chance.stages[0].plan.keep != done.stages[0].plan.keep


def test_without_pre_training_there_is_nothing_to_score_by(tmp_path: Path):
    with pytest.raises(ScoreError, match="observed"):
        run(tmp_path, pretrain=None)


def test_a_criterion_that_looks_at_data(tmp_path: Path):
    done = run(tmp_path, score=partial(dcfp.score, batches=_loader()), observe=None, pretrain=None, targets=(0.5,))
    assert done.macs / 2 >= done.stages[0].macs


OTHERS = {
    "of another model: '0.weight' is [16, 3, 3, 3] there, [12, 3, 3, 3] here": {"model": net(12)},
    "other weights": {"model": net(seed=1)},
    "macs_ratio=[0.3, 0.6], now [0.3, 0.7]": {"targets": (0.3, 0.7)},
    "lr=0.05 in training 1, now lr=0.1": {"config": replace(CONFIG, lr=0.1)},
    "prunekit.methods.random.score(seed=1)": {"score": partial(random.score, seed=1), "observe": None},
}


@pytest.mark.parametrize("words", OTHERS)
def test_a_folder_of_another_run_is_refused_in_words(whole, words: str):
    with pytest.raises(CheckpointError) as refusal:
        run(whole[1], **OTHERS[words])
    assert words in str(refusal.value) and "another folder for another run" in str(refusal.value)


def test_another_place_or_pace_of_saving_is_the_same_run(whole):
    assert same(run(whole[1], config=replace(CONFIG, save_every=1, quiet=False)), whole[0])


@pytest.mark.parametrize("name", ["run.json", "1/plan.json", "dense.json"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str):
    run(tmp_path, targets=(0.3,))
    (tmp_path / name).write_text((tmp_path / name).read_text()[:20] + "{")
    with pytest.raises(CheckpointError, match=f"{name} is damaged.*delete it"):
        run(tmp_path, targets=(0.3,))


def test_files_are_whole_or_absent(tmp_path: Path):
    def measure(model: nn.Module) -> dict[str, float]:
        assert not (tmp_path / "dense.json").exists()
        raise Stop

    with pytest.raises(Stop):
        run(tmp_path, measure=measure)
    assert json.loads((tmp_path / "run.json").read_text())["macs_ratio"] == [0.3, 0.6]
    assert not (tmp_path / "dense.json").exists() and not list(tmp_path.rglob(".*.part"))


@pytest.mark.parametrize("targets", [(), (0.6, 0.3), (0.3, 0.3), (0.0, 0.5), (0.5, 1.0)])
def test_targets_must_rise(tmp_path: Path, targets: tuple[float, ...]):
    with pytest.raises(InputError, match="each more than the one before"):
        run(tmp_path, targets=targets)


def test_one_criterion(tmp_path: Path):
    for given in ({"observe": None}, {"score": l1.score}):
        with pytest.raises(InputError, match="one of score"):
            run(tmp_path, **given)


def test_a_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"cannot write .*run\.json .*another folder"):
        run(tmp_path / "file")


def test_what_fails_while_it_measures_is_not_taken_for_the_disk(tmp_path: Path):
    def measure(model: nn.Module) -> dict[str, float]:
        raise FileNotFoundError("a picture is gone")

    with pytest.raises(FileNotFoundError, match="a picture is gone"):
        run(tmp_path, measure=measure)
