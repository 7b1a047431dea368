"""What every criterion must do, on a convolutional network and on a transformer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from prunekit.core import ChannelGroup, Groups, Scores
from prunekit.data.scenes import SceneDataset
from prunekit.errors import ScoreError
from prunekit.methods import cap, chip, dcfp, depgraph, fpgm, hrank, l1, random, sirfp, slimming, taylor, thinet
from prunekit.models.deeplab import deeplabv3_mini
from prunekit.models.segformer import segformer_mini
from prunekit.surgery import find_groups

Score = Callable[..., Scores]
WEIGHTS: dict[str, Score] = {
    "random": random.score,
    "l1": l1.score,
    "l2": partial(l1.score, p=2),
    "depgraph": depgraph.score,
    "fpgm": fpgm.score,
    "slimming": slimming.score,
}
DATA: dict[str, Score] = {
    "taylor": taylor.score,
    "taylor_weights": partial(taylor.score, on="weights"),
    "hrank": hrank.score,
    "chip": chip.score,
    "thinet": thinet.score,
    "cap": cap.score,
    "dcfp": dcfp.score,
    "sirfp": sirfp.score,
}
NORMED = ("slimming", "cap", "dcfp")  # defined on batch-norm scales alone


@pytest.fixture(scope="module", params=["cnn", "transformer"])
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Groups]:
    torch.manual_seed(0)
    model = randomised(deeplabv3_mini() if request.param == "cnn" else segformer_mini())
    return model, find_groups(model, torch.randn(1, 3, 64, 128))


@pytest.fixture(scope="module")
def batches() -> list[tuple[Tensor, Tensor]]:
    return list(DataLoader(SceneDataset(4), batch_size=2))


def randomised(model: nn.Module) -> nn.Module:
    """Norms and biases as training leaves them: all different."""
    draw = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1 and tensor.is_floating_point():
            fresh = torch.rand(tensor.shape, generator=draw)
            tensor.copy_(fresh - 0.5 if name.endswith(("bias", "mean")) else fresh + 0.5)
    return model.eval()


def defined(name: str, groups: Groups, group: ChannelGroup) -> bool:
    if name in NORMED:
        return any(member.tensor.endswith("running_mean") for member in group.members)
    maps = group.kind == "head" or len(groups.shapes[group.consumers()[0].tensor]) == 4  # a convolution reads maps
    return name != "hrank" or maps


def scores_of(name: str, model: nn.Module, groups: Groups, batches: list) -> Scores:
    picked = groups.only(n for n, g in groups.items() if defined(name, groups, g))
    return WEIGHTS[name](model, picked) if name in WEIGHTS else DATA[name](model, picked, batches)


@pytest.mark.parametrize("name", [*WEIGHTS, *DATA])
def test_one_finite_number_a_unit_the_same_every_time_and_the_model_unchanged(case, batches, name: str) -> None:
    model, groups = case
    first = scores_of(name, model, groups, batches)
    model.train()
    next(m for m in model.modules() if isinstance(m, nn.LayerNorm | nn.BatchNorm2d)).eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, flags, hooks = copy.deepcopy(model.state_dict()), _flags(model), _hooks(model)
    torch.manual_seed(7)  # the global dice do not matter
    second = scores_of(name, model, groups, batches)
    assert list(first) == [n for n, g in groups.items() if defined(name, groups, g)] == list(second) and first
    for group, score_U in first.items():
        assert tuple(score_U.shape) == (groups[group].size,)
        assert torch.isfinite(score_U).all() and not score_U.requires_grad
        assert torch.equal(score_U, second[group])
        # two filters are equally far from each other
        assert score_U.unique().numel() > 1 or (name, groups[group].size) == ("fpgm", 2)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert (_flags(model), _hooks(model)) == (flags, hooks)
    assert all(bool((p.grad == 1).all()) and p.requires_grad for p in model.parameters())
    model.eval()


def _flags(model: nn.Module) -> list[bool]:
    return [m.training for m in model.modules()]


def _hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


# random does not look at units; ThiNet's order among dead channels goes by their places
@pytest.mark.parametrize("name", [n for n in [*WEIGHTS, *DATA] if n not in ("random", "thinet")])
def test_units_that_change_places_take_their_scores_along(case, batches, name: str) -> None:
    model, groups = case
    model = copy.deepcopy(model).double()  # near ties do not flip by rounding
    batches = [(x.double(), target) for x, target in batches]
    shuffled, places = _shuffled(model, groups)
    before, after = scores_of(name, model, groups, batches), scores_of(name, shuffled, groups, batches)
    for group, order_U in places.items():
        if group in before:
            torch.testing.assert_close(after[group].double(), before[group].double()[order_U], rtol=1e-6, atol=1e-5)


def _shuffled(model: nn.Module, groups: Groups) -> tuple[nn.Module, dict[str, Tensor]]:
    """The same function with the units of each group in another order."""
    other, draw = copy.deepcopy(model), torch.Generator().manual_seed(2)
    places = {name: torch.randperm(group.size, generator=draw) for name, group in groups.items()}
    for name, group in groups.items():
        for member in group.members:
            tensor = other.state_dict()[member.tensor]
            source = tensor.index_select(member.dim, member.index[places[name]].flatten())
            tensor.index_copy_(member.dim, member.index.flatten(), source)
    x = torch.randn(1, 3, 64, 128, dtype=torch.float64)
    torch.testing.assert_close(other(x), model(x))
    return other, places


@pytest.mark.parametrize("name", [*NORMED, "hrank"])
def test_where_a_method_is_not_defined_it_says_so(case, batches, name: str) -> None:
    model, groups = case
    undefined = [n for n, g in groups.items() if not defined(name, groups, g)]
    assert bool(undefined) == (type(model).__name__ == "SegFormer")
    score = WEIGHTS[name] if name in WEIGHTS else partial(DATA[name], batches=batches)
    for group in undefined[:2]:
        message = f"no batch norm follows '{group}'.*groups.only" if name in NORMED else f"'{group}'.*no H x W map"
        with pytest.raises(ScoreError, match=message):
            score(model, groups.only([group]))


class Planted(nn.Module):
    """Eight channels: 5 is dead, 2 and 6 are twins, and 3 shouts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.a, self.bn, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.bn.weight.uniform_(0.5, 1.0)
            for tensor in (self.a.weight, self.a.bias, self.bn.weight, self.bn.bias):
                tensor[6] = tensor[2]
                tensor[5] = 0.0
                tensor[3] *= 4.0
            self.b.weight[:, 5] = 0.0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.bn(self.a(x)).relu())


PICTURES = [
    (torch.randn(4, 3, 12, 16, generator=torch.Generator().manual_seed(i)), torch.full((4, 12, 16), i)) for i in (0, 1)
]


@pytest.mark.parametrize("name", [n for n in [*WEIGHTS, *DATA] if n not in ("random", "fpgm")])
def test_a_dead_channel_is_the_first_to_go(name: str) -> None:
    model = Planted()
    groups = find_groups(model, PICTURES[0][0])
    score_U = scores_of(name, model, groups, PICTURES)["a"]
    assert score_U[5] == score_U.min() < score_U.max()


@pytest.mark.parametrize("name", ["l1", "l2", "depgraph", "fpgm", "slimming"])
def test_a_loud_channel_stays(name: str) -> None:
    model = Planted()
    assert int(scores_of(name, model, find_groups(model, PICTURES[0][0]), PICTURES)["a"].argmax()) == 3


def test_twins_can_be_replaced_and_only_some_criteria_see_it() -> None:
    model = Planted()
    groups = find_groups(model, PICTURES[0][0])
    rank = {n: scores_of(n, model, groups, PICTURES)["a"].argsort().tolist() for n in ("chip", "slimming")}
    assert set(rank["chip"][:3]) == {5, 2, 6}  # the dead one and the twins
    assert set(rank["slimming"][:3]) != {5, 2, 6}


@pytest.mark.parametrize("name", DATA)
def test_without_data_it_says_what_to_pass(name: str) -> None:
    model = Planted()
    groups, method = find_groups(model, PICTURES[0][0]), name.removesuffix("_weights")
    with pytest.raises(ScoreError, match=f"{method} looks at data: pass batches.*functools.partial"):
        DATA[name](model, groups)
    with pytest.raises(ScoreError, match=f"{method} got no batch"):
        DATA[name](model, groups, [])
    with pytest.raises(ScoreError, match=f"{method} wants batches of \\(input, target\\), batch 1 is a Tensor"):
        DATA[name](model, groups, [PICTURES[0][0]])


@pytest.mark.parametrize("name", DATA)
def test_activations_that_are_not_finite_are_named(name: str) -> None:
    model = Planted()
    bad = PICTURES[0][0].clone()
    bad[1] = torch.nan
    with pytest.raises(ScoreError, match="nan"):
        DATA[name](model, find_groups(model, PICTURES[0][0]), [(bad, PICTURES[0][1])])


@pytest.mark.parametrize("name", ["taylor", "taylor_weights", "dcfp"])
def test_batches_without_labels_do_not_count(name: str) -> None:
    model = Planted()
    groups = find_groups(model, PICTURES[0][0])
    ignored = (PICTURES[0][0], torch.full((4, 12, 16), 255))
    with_it, without = DATA[name](model, groups, [ignored, *PICTURES])["a"], DATA[name](model, groups, PICTURES)["a"]
    assert torch.equal(with_it, without)
    with pytest.raises(ScoreError, match="no gradient in any batch: are all pixels ignored"):
        DATA[name](model, groups, [ignored])
    plain = partial(nn.functional.cross_entropy, ignore_index=255)
    with pytest.raises(ScoreError, match="the loss is nan in batch 1.*no labelled pixel"):
        DATA[name](model, groups, [ignored], loss_fn=plain)


@pytest.mark.parametrize("name", [*WEIGHTS, *DATA])
def test_a_group_of_one_unit_gets_its_number(name: str) -> None:
    model = Planted()
    whole = find_groups(model, PICTURES[0][0])
    with torch.no_grad():
        one = nn.Sequential(*(copy.deepcopy(m) for m in (model.a, model.bn, model.b)))
    members = tuple(
        type(m)(m.tensor.replace("bn.", "1.").replace("a.", "0.").replace("b.", "2."), m.dim, m.index[:1], m.role)
        for m in whole["a"].members
    )
    shapes = {n: tuple(t.shape) for n, t in one.state_dict().items()}
    names = tuple(n for n, _ in one.named_parameters())
    groups = Groups(
        {"0": ChannelGroup("0", 1, "channel", members)},
        shapes=shapes,
        parameters=names,
        positions=dict.fromkeys(shapes, 1.0),
    )
    assert scores_of(name, one.eval(), groups, PICTURES)["0"].shape == (1,)


@pytest.mark.parametrize("name", [n for n in [*WEIGHTS, *DATA] if n != "random"])
def test_groups_of_another_model_are_refused(name: str) -> None:
    groups = find_groups(Planted(), PICTURES[0][0])
    other = nn.ModuleDict({"a": nn.Conv2d(3, 4, 3), "bn": nn.BatchNorm2d(4), "b": nn.Conv2d(4, 4, 1)})
    with pytest.raises(ScoreError, match="not as the groups know it; call find_groups on this model"):
        scores_of(name, other, groups, PICTURES)


@pytest.mark.parametrize("name", DATA)
def test_frozen_weights_autocast_and_no_grad_change_nothing(name: str) -> None:
    model = Planted()
    groups = find_groups(model, PICTURES[0][0])
    expected = DATA[name](model, groups, PICTURES)["a"]
    model.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(DATA[name](model, groups, PICTURES)["a"], expected)


def test_a_part_that_only_training_reaches_is_scored_all_the_same(batches) -> None:
    model = randomised(deeplabv3_mini())
    groups = find_groups(model, torch.randn(1, 3, 64, 128))
    for name in DATA:
        assert scores_of(name, model, groups.only(["aux.0.0"]), batches)["aux.0.0"].any()


def test_random_depends_on_the_seed_and_on_nothing_else(case) -> None:
    model, groups = case
    name = next(iter(groups))
    assert not torch.equal(random.score(model, groups, seed=0)[name], random.score(model, groups, seed=1)[name])
    torch.manual_seed(123)
    assert torch.equal(random.score(model, groups, seed=1)[name], random.score(model, groups, seed=1)[name])
