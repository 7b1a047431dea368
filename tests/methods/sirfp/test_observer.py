"""The running mean of edge weights: its recursion, what it looks at, and that it survives a stop."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from prunekit.core import ChannelGroup, Groups
from prunekit.errors import CheckpointError, InputError, ScoreError
from prunekit.methods import sirfp
from prunekit.methods.sirfp.redundancy import pixels, redundancy
from prunekit.surgery import find_groups
from prunekit.train import Step, TrainConfig, finetune

X = torch.randn(5, 2, 3, 8, 10, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """`b` is made by two layers, each with a norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.b, self.norm_b = nn.Conv2d(6, 5, 1), nn.BatchNorm2d(5)
        self.c, self.norm_c = nn.Conv2d(6, 5, 1), nn.BatchNorm2d(5)
        self.d = nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.a(x)).relu()
        return self.d((self.norm_b(self.b(x)) + self.norm_c(self.c(x))).relu())


@pytest.fixture
def case() -> tuple[Net, Groups]:
    model = Net()
    return model, find_groups(model, X[0])


def edges(maps_BCHW: Tensor) -> Tensor:
    return 1 - redundancy(maps_BCHW.flatten(2), metric="js", normalize_map="softmax", tolerance=0.0)


def passed(observer: sirfp.Observer, model: nn.Module, batches: Tensor) -> None:
    with observer.watching(model):
        for x in batches:
            model(x)


def test_it_starts_as_the_mean_and_becomes_the_moving_average(case: tuple[Net, Groups]) -> None:
    model, groups = case
    observer = sirfp.Observer(groups, decay=0.6, tolerance=0.0)
    expected: Tensor | None = None
    for n, x in enumerate(X, start=1):
        passed(observer, model.train(), x[None])
        with torch.no_grad():  # batch statistics: what the norm gave out in training
            now = edges(nn.functional.batch_norm(model.a(x), None, None, model.norm.weight, model.norm.bias, True))
        weight = min(0.6, 1 - 1 / n)
        expected = now if expected is None else weight * expected + (1 - weight) * now
        torch.testing.assert_close(observer.edges["a"], expected, rtol=0, atol=1e-5)
    assert observer.observations == {"a": 5, "b": 5}


def test_several_makers_count_alike(case: tuple[Net, Groups]) -> None:
    model, groups = case
    model.eval()
    observer = sirfp.Observer(groups, tolerance=0.0)
    passed(observer, model, X[:1])
    with torch.no_grad():
        x = model.norm(model.a(X[0])).relu()
        both = (edges(model.norm_b(model.b(x))) + edges(model.norm_c(model.c(x)))) / 2
    torch.testing.assert_close(observer.edges["b"], both, rtol=0, atol=1e-5)


def test_training_is_the_same_with_and_without(case: tuple[Net, Groups]) -> None:
    model, groups = case
    other = copy.deepcopy(model)
    other(X[0]).square().sum().backward()
    with sirfp.Observer(groups).watching(model):
        model(X[0]).square().sum().backward()
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None and torch.equal(ours.grad, theirs.grad), name
    assert all(torch.equal(t, other.state_dict()[n]) for n, t in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_one_pass_in_so_many_and_no_copies(case: tuple[Net, Groups]) -> None:
    model, groups = case
    model.eval()
    third, alone = sirfp.Observer(groups, every=3), sirfp.Observer(groups)
    with third.watching(model):
        for x in X:
            model(x)
            copy.deepcopy(model)(x)  # such as an evaluation on the way
    passed(alone, model, X[[0, 3]])
    assert third.passes == 5 and third.observations == {"a": 2, "b": 2}
    assert all(torch.equal(third.edges[n], alone.edges[n]) for n in groups)


def test_autocast_does_not_coarsen_the_edges(case: tuple[Net, Groups]) -> None:
    model, groups = case
    observer = sirfp.Observer(groups)
    with torch.autocast("cpu", torch.bfloat16):
        passed(observer, model.eval(), X[:1])
    plain = sirfp.Observer(groups)
    passed(plain, model, X[:1])
    assert observer.edges["a"].dtype == torch.float32
    torch.testing.assert_close(observer.edges["a"], plain.edges["a"], rtol=0, atol=5e-3)  # the maps are bfloat16


def test_a_stopped_run_goes_on_as_if_it_had_not(case: tuple[Net, Groups]) -> None:
    model, groups = case
    model.eval()
    whole, first, second = (sirfp.Observer(groups, decay=0.6, every=2) for _ in range(3))
    assert first.state_dict() == {}
    second.load_state_dict({})
    passed(whole, model, X)
    passed(first, model, X[:3])
    second.load_state_dict(first.state_dict())
    passed(second, model, X[3:])
    theirs = second.state_dict()
    assert theirs.keys() == whole.state_dict().keys()
    assert all(torch.equal(value, theirs[key]) for key, value in whole.state_dict().items())


def test_a_training_run_that_broke_off_observes_what_an_unbroken_one_does(case: tuple[Net, Groups], tmp_path) -> None:
    model, groups = case
    data = [(x, torch.randint(0, 2, (2, 6, 8), generator=torch.Generator().manual_seed(i))) for i, x in enumerate(X)]
    config = TrainConfig(steps=5, lr=0.01, save_every=2, quiet=True)
    whole, broken, resumed = (sirfp.Observer(groups, decay=0.6) for _ in range(3))

    def breaks(step: Step, _: nn.Module) -> None:
        if step.step == 3:
            raise RuntimeError("power cut")

    train = partial(finetune, model, data, config)
    train(observer=whole)
    with pytest.raises(RuntimeError, match="power cut"):
        train(observer=broken, checkpoint=tmp_path / "run", on_step=breaks)
    train(observer=resumed, checkpoint=tmp_path / "run")
    assert whole.observations == resumed.observations == {"a": 5, "b": 5}
    assert all(torch.equal(whole.edges[name], resumed.edges[name]) for name in groups)


def test_the_state_of_another_model_or_metric_is_refused(case: tuple[Net, Groups]) -> None:
    model, groups = case
    observer = sirfp.Observer(groups)
    passed(observer, model, X[:1])
    state = observer.state_dict()
    with pytest.raises(CheckpointError, match="measured with .*'js'.*now .*'dice'"):
        sirfp.Observer(groups, metric="dice").load_state_dict(state)
    narrow = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    with pytest.raises(CheckpointError, match="'a' has 6 units there and no such group here: the state of another"):
        sirfp.Observer(find_groups(narrow, X[0])).load_state_dict(state)
    with pytest.raises(CheckpointError, match="'b' has 4 units there and 5 units here"):
        observer.load_state_dict({**state, "edges.b": torch.rand(4, 4)})


def test_too_early_too_late_and_wrong_settings(case: tuple[Net, Groups]) -> None:
    model, groups = case
    observer = sirfp.Observer(groups)
    with pytest.raises(ScoreError, match="has not observed 'a' yet: run the model inside observer.watching"):
        observer.scores(groups)
    passed(observer, model, X[:1])
    pruned = Groups({n: type(g)(g.name, 3, g.kind, g.members) for n, g in groups.items()})
    with pytest.raises(ScoreError, match="observed 6 units of 'a', these groups have 3; observe the pruned model"):
        observer.scores(pruned)
    assert list(observer.scores(groups.only(["b"]))) == ["b"]
    with pytest.raises(InputError, match="decay is 1.0"):
        sirfp.Observer(groups, decay=1.0)
    with pytest.raises(InputError, match="every is 0"):
        sirfp.Observer(groups, every=0)
    bad = X[:1].clone()
    bad[0, 0] = torch.nan
    with pytest.raises(ScoreError, match="'a' hold nan or inf"):
        passed(observer, model.eval(), bad)


@pytest.mark.parametrize("wrong", [{"metric": "cosine"}, {"normalize_map": "l2"}, {"resolution": "eighth"}])
def test_a_misspelt_setting_is_refused_before_anything_runs(wrong: dict[str, str]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong))} is one of .*got '{next(iter(wrong.values()))}'"):
        sirfp.Observer(Groups({}), **wrong)  # type: ignore[arg-type]


def test_an_empty_batch_is_no_evidence() -> None:
    with pytest.raises(ScoreError, match="'a' saw an empty batch"):
        pixels("a", torch.zeros(0, 4, 1, 5, 5), "full")


def test_a_state_is_a_copy_and_a_strange_one_is_refused() -> None:
    observer = sirfp.Observer(Groups({"a": ChannelGroup("a", 2, "channel", ())}))
    observer.edges, observer.observations = {"a": torch.ones(2, 2)}, {"a": 1}
    state = observer.state_dict()
    state["edges.a"].zero_()
    assert observer.edges["a"].sum() == 4
    with pytest.raises(CheckpointError, match="no state of a sirfp.Observer"):
        observer.load_state_dict({"weights": torch.ones(2)})
    other = sirfp.Observer(observer.groups, tolerance=0.0)
    with pytest.raises(CheckpointError, match="measured with"):
        other.load_state_dict(observer.state_dict())
