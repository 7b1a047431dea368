"""The benchmark's verifier: right models pass, and every kind of mistake that a pruning tool makes is called wrong."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from zoo.missing import FAITHFUL, RULES, Missing
from zoo.verifier import prepared, verify

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Convs(nn.Module):
    """Batch norm, a residual, a depth-wise and a grouped convolution, group norm, squeeze and excite."""

    def __init__(self, width: int = 8, inner: int = 6) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width)
        self.inner, self.deep = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.back, self.gate = nn.Conv2d(inner, width, 1), nn.Conv2d(width, width, 1)
        self.norm, self.mix = nn.GroupNorm(2, width), nn.Conv2d(width, width, 1, groups=2)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.bn(self.stem(x)))
        x = x + self.back(torch.tanh(self.deep(self.inner(x))))
        x = self.mix(self.norm(x)) * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        return self.head(x.mean((2, 3)))


class Tokens(nn.Module):
    """A class token, LayerNorm over the stream, fused attention and an MLP, as in DeiT."""

    def __init__(self, width: int = 12, heads: int = 3, inner: int = 10) -> None:
        super().__init__()
        self.heads, self.token = heads, nn.Parameter(torch.randn(1, 1, width))
        self.embed, self.n1 = nn.Conv2d(3, width, 4, 4), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 12 * heads), nn.Linear(4 * heads, width)
        self.n2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, inner), nn.Linear(inner, width)
        self.n3, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        q, k, v = self.qkv(self.n1(x)).unflatten(-1, (3, self.heads, 4)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.down(nn.functional.gelu(self.up(self.n2(x))))
        return self.head(self.n3(x)[:, 0])


STREAM, INNER = [0, 2, 3, 5, 6, 7], [1, 2, 4]  # of Convs: whole halves of the groups of 4, 3 of each stay
WIDTH, NEURONS = [0, 1, 3, 4, 6, 7, 9, 11], [0, 3, 4, 7, 9]  # of Tokens; heads 0 and 2 stay
QKV = [12 * part + 4 * head + i for part in range(3) for head in (0, 2) for i in range(4)]


def convs_by_hand(dense: nn.Module) -> nn.Module:
    """Written out, without any engine."""
    in_group = [0, 2, 3]  # of group 0; group 1 keeps 5, 6, 7, which are 1, 2, 3 of its own four
    mix = dense.get_parameter("mix.weight")
    mixed = torch.cat([mix[[0, 2, 3]][:, in_group], mix[[5, 6, 7]][:, [1, 2, 3]]])
    cut = {
        **dict.fromkeys("stem.weight bn.weight bn.bias bn.running_mean bn.running_var stem.bias".split(), (STREAM,)),
        **dict.fromkeys("back.bias gate.bias norm.weight norm.bias mix.bias".split(), (STREAM,)),
        **dict.fromkeys(("inner.bias", "deep.weight", "deep.bias"), (INNER,)),
        "inner.weight": (INNER, STREAM),
        "back.weight": (STREAM, INNER),
        "gate.weight": (STREAM, STREAM),
        "head.weight": (None, STREAM),
    }
    return filled(Convs(len(STREAM), len(INNER)), dense, cut, {"mix.weight": mixed})


def tokens_by_hand(dense: nn.Module) -> nn.Module:
    proj = [4 * head + i for head in (0, 2) for i in range(4)]
    norms = [f"n{i}.{kind}" for i in (1, 2, 3) for kind in ("weight", "bias")]
    cut = {
        **dict.fromkeys((*norms, "embed.weight", "embed.bias", "proj.bias", "down.bias"), (WIDTH,)),
        "token": (None, None, WIDTH),
        "qkv.weight": (QKV, WIDTH),
        "qkv.bias": (QKV,),
        "proj.weight": (WIDTH, proj),
        "up.weight": (NEURONS, WIDTH),
        "up.bias": (NEURONS,),
        "down.weight": (WIDTH, NEURONS),
        "head.weight": (None, WIDTH),
    }
    return filled(Tokens(len(WIDTH), 2, len(NEURONS)), dense, cut, {})


def filled(small: nn.Module, dense: nn.Module, cut: dict[str, tuple], given: dict[str, Tensor]) -> nn.Module:
    """`small` with the named positions of each of the dense model's tensors."""
    state = {}
    for name, tensor in dense.state_dict().items():
        for dim, kept in enumerate(cut.get(name, ())):
            tensor = tensor if kept is None else tensor.index_select(dim, torch.tensor(kept))
        state[name] = given.get(name, tensor)
    small.load_state_dict(state)
    return small.eval()


@pytest.mark.parametrize(("make", "by_hand"), [(Convs, convs_by_hand), (Tokens, tokens_by_hand)])
def test_a_model_cut_by_hand_is_correct(make: type[nn.Module], by_hand: Callable[[nn.Module], nn.Module]) -> None:
    dense = prepared(make(), X)
    found = verify(dense, by_hand(dense), X)
    assert found.kind == "correct" and found.error < 1e-12, found
    assert found.control > 1e-3, "removing units must change what the dense model computes"
    assert verify(dense, copy.deepcopy(dense), X).kind == "correct"


def swap(tensor: str, dim: int = 0) -> Callable[[nn.Module, nn.Module], None]:
    """The first two positions of one axis change places."""

    def change(small: nn.Module, dense: nn.Module) -> None:
        moved = small.get_parameter(tensor).data
        order = torch.arange(moved.shape[dim])
        order[:2] = torch.tensor([1, 0])
        moved.copy_(moved.index_select(dim, order))

    return change


def shift(tensor: str, kept: list[int], dim: int = 0) -> Callable[[nn.Module, nn.Module], None]:
    """Other positions than those of the layers around it."""

    def change(small: nn.Module, dense: nn.Module) -> None:
        small.get_parameter(tensor).data.copy_(dense.get_parameter(tensor).index_select(dim, torch.tensor(kept)))

    return change


def rounded(small: nn.Module, dense: nn.Module) -> None:
    small.get_parameter("head.weight").data.mul_(1 + 1e-6)


def unsorted_norms(small: nn.Module, dense: nn.Module) -> None:
    """All LayerNorms keep the right channels in another order than the stream: Torch-Pruning's DeiT."""
    order = torch.tensor([3, 0, 1, 2, 4, 7, 5, 6])
    for norm in ("n1", "n2", "n3"):
        for tensor in small.get_submodule(norm).parameters():
            tensor.data.copy_(tensor.data[order])


def other_head(small: nn.Module, dense: nn.Module) -> None:
    """The projection reads heads 0 and 1, attention computes heads 0 and 2."""
    columns = dense.get_parameter("proj.weight")[:, :8].index_select(0, torch.tensor(WIDTH))
    small.get_parameter("proj.weight").data.copy_(columns)


@pytest.mark.parametrize(
    ("make", "by_hand", "spoil"),
    [
        (Convs, convs_by_hand, swap("stem.weight")),
        (Convs, convs_by_hand, swap("inner.weight", 1)),
        (Convs, convs_by_hand, swap("deep.weight")),
        (Convs, convs_by_hand, swap("norm.bias")),
        (Convs, convs_by_hand, swap("back.weight", 1)),
        (Convs, convs_by_hand, swap("mix.weight", 1)),
        (Convs, convs_by_hand, shift("bn.bias", [0, 2, 3, 4, 6, 7])),
        (Convs, convs_by_hand, rounded),
        (Tokens, tokens_by_hand, swap("n1.weight")),
        (Tokens, tokens_by_hand, shift("n2.bias", [i + 1 if i < 11 else 10 for i in WIDTH])),
        (Tokens, tokens_by_hand, shift("up.bias", [1, 3, 4, 7, 9])),
        (Tokens, tokens_by_hand, shift("qkv.bias", [*range(4, 12), *QKV[8:]])),
        (Tokens, tokens_by_hand, unsorted_norms),
        (Tokens, tokens_by_hand, other_head),
    ],
)
def test_mistakes_are_called_wrong(make, by_hand, spoil) -> None:
    dense = prepared(make(), X)
    small = by_hand(dense)
    spoil(small, dense)
    found = verify(dense, small, X)
    assert found.kind == "wrong" and found.detail, found


def test_a_mistake_is_placed() -> None:
    dense = prepared(Tokens(), X)
    small = tokens_by_hand(dense)
    other_head(small, dense)
    assert verify(dense, small, X).detail.startswith("proj reads channels that were removed")


def test_a_model_that_does_not_run_is_a_crash() -> None:
    dense = prepared(Tokens(), X)
    small = tokens_by_hand(dense)
    small.heads = 3
    assert verify(dense, small, X).kind == "crash"


class OverChannels(nn.Module):
    """A convolution that runs over the channels: what is left of it cannot be said."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.over, self.head = nn.Conv2d(3, width, 3), nn.Conv1d(1, 1, 3, padding=1), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.over(self.stem(x).mean((2, 3))[:, None])[:, 0])


class Sorted(OverChannels):
    """An op without a rule."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).mean((2, 3)).cumsum(1))


@pytest.mark.parametrize(("make", "why"), [(OverChannels, "over.*some are missing"), (Sorted, "cumsum")])
def test_what_cannot_be_decided_is_not_called_wrong(make: type[nn.Module], why: str) -> None:
    dense = prepared(make(), X)
    kept = [0, 1, 2, 4, 6]
    cut = {"stem.weight": (kept,), "stem.bias": (kept,), "head.weight": (None, kept)}
    found = verify(dense, filled(make(len(kept)), dense, cut, {}), X)
    assert found.kind == "unverified", found
    assert re.search(why, found.detail)


@pytest.mark.parametrize(
    ("op", "small"),
    [
        (lambda x: x.mean(1), lambda x: x.mean(1)),
        (lambda x: x.var(1, keepdim=True), lambda x: x.var(1, keepdim=True)),
        (lambda x: x.sum((1, 2)), lambda x: x.sum((1, 2))),
        (lambda x: x.norm(dim=1), lambda x: x.norm(dim=1)),
        (lambda x: x.amax(1), lambda x: x.amax(1)),
        (lambda x: x.transpose(1, 2) @ x, lambda x: x.transpose(1, 2) @ x),
        (lambda x: nn.functional.rms_norm(x.mT, (6,)).mT, lambda x: nn.functional.rms_norm(x.mT, (4,)).mT),
        (lambda x: nn.functional.group_norm(x, 2), lambda x: nn.functional.group_norm(x, 2)),
        (lambda x: nn.functional.instance_norm(x), lambda x: nn.functional.instance_norm(x)),
        (lambda x: x.softmax(1), lambda x: x.softmax(1)),
        (lambda x: nn.functional.pad(x, (1, 2)), lambda x: nn.functional.pad(x, (1, 2))),
        (lambda x: nn.functional.normalize(x, dim=1), lambda x: nn.functional.normalize(x, dim=1)),
    ],
)
def test_missing_values_are_skipped(op: Callable[[Tensor], Tensor], small: Callable[[Tensor], Tensor]) -> None:
    """An op on six channels of which two are missing equals the op on the four, wherever those end up."""
    x = torch.randn(2, 6, 5, dtype=torch.float64)
    kept = torch.tensor([0, 2, 3, 5])
    x[:, [1, 4]] = torch.nan
    mode = Missing()
    with mode:
        got = op(x)
    expected = small(x[:, kept])
    got = got if got.shape == expected.shape else got[:, kept]
    torch.testing.assert_close(got, expected)
    assert not mode.suspects


def test_activations_carry_gaps_along() -> None:
    for op in (torch.relu, torch.sigmoid, nn.functional.gelu, nn.functional.hardswish, nn.functional.hardsigmoid):
        assert op(torch.full((33,), torch.nan)).isnan().all(), op
    assert not FAITHFUL & set(RULES)
