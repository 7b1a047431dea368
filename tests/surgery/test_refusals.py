"""Hard networks: a cut is exact or refused with a reason; it is never silently wrong and never an alien traceback."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils import prune as unstructured

sys.path.insert(0, str(Path(__file__).parent))
import nets

from prunekit.core import PruningPlan
from prunekit.errors import CertificateError, InputError, PlanError
from prunekit.surgery import check_equivalence, find_groups, prune

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Between(nn.Module):
    """a -> some code that is hard to follow -> b."""

    def __init__(self, code: Callable[[Tensor], Tensor], reads: int = 8) -> None:
        super().__init__()
        self.a, self.b, self.code = nets.conv(3, 8), nets.conv(reads, 4), code

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.code(self.a(x)))


class Beside(Between):
    """The code's result is added to what b makes of all channels."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(y) + self.code(y)


def shuffle(y: Tensor) -> Tensor:
    b, c, h, w = y.shape
    return y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


def overwrite(y: Tensor) -> Tensor:
    y = y.clone()
    y[:, :4] = y[:, 4:]
    return y


COUNTING = {
    "halves swapped": Between(lambda y: torch.cat([y[:, 4:], y[:, :4]], 1)),
    "chunks swapped": Between(lambda y: torch.cat(y.chunk(2, 1)[::-1], 1)),
    "splits swapped": Between(lambda y: torch.cat(y.split(4, 1)[::-1], 1)),
    "every other": Between(lambda y: y[:, ::2], 4),
    "tail averaged": Beside(lambda y: y[:, 4:].mean(1, keepdim=True)),
    "one by slice": Beside(lambda y: y[:, 3:4]),
    "one by number": Beside(lambda y: y[:, 3].unsqueeze(1)),
    "shuffled": Between(shuffle),
    "overwritten": Between(overwrite),
    "scaled by its width": Between(lambda y: y * y.shape[1] ** -0.5),
    "divided by its width": Between(lambda y: y / y.shape[1]),
}


@pytest.mark.parametrize("name", COUNTING)
def test_code_that_counts_positions_is_exact_or_refused(name: str) -> None:
    """prune alone, without a certificate, must not return a model that reads other channels."""
    model = COUNTING[name]
    groups = find_groups(model, X)
    for seed in range(6):
        plan = nets.random_plan(groups, (0.25, 0.5, 0.75)[seed % 3], seed)
        try:
            small = prune(model, groups, plan)
        except PlanError as err:
            assert "Freeze the layers involved" in str(err)
        else:
            check_equivalence(model, small, groups, plan, X)


@pytest.mark.parametrize(
    ("name", "keep"),
    [
        ("chunks swapped", (0, 2, 5, 7)),
        ("halves swapped", (0, 1, 2, 3, 5, 6)),  # the fixed 4 still falls between the halves
        ("one by number", (0, 1, 2, 4, 6)),
        ("scaled by its width", (0, 1, 2, 3, 4, 5, 6, 7)),
    ],
)
def test_a_plan_that_leaves_the_count_right_is_exact(name: str, keep: tuple[int, ...]) -> None:
    model = COUNTING[name]
    groups = find_groups(model, X)
    size = groups["a"].size
    plan = PruningPlan({"a": size}, {"a": keep})
    assert check_equivalence(model, prune(model, groups, plan), groups, plan, X).max_error < 1e-12


@pytest.mark.parametrize("name", ["tail averaged", "one by number", "one by slice"])
def test_a_plan_that_shifts_the_count_gets_the_numbers_set(name: str) -> None:
    model = COUNTING[name]
    groups = find_groups(model, X)
    sizes = {group: groups[group].size for group in groups}
    plan = PruningPlan(sizes, {"a": tuple(range(1, sizes["a"]))})  # unit 0 goes: everything moves up
    small = prune(model, groups, plan)
    assert isinstance(small, torch.fx.GraphModule)  # the code itself would read other channels
    assert check_equivalence(model, small, groups, plan, X).max_error < 1e-12


def test_what_the_code_does_not_count_is_not_traced_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = {net: find_groups(net(), X) for net in (nets.Residual, nets.Chunk)}
    assert groups[nets.Residual].positional == frozenset()
    assert groups[nets.Chunk].positional == {"a", "a#2"}
    monkeypatch.setattr("prunekit.surgery.positions.export", lambda *_: pytest.fail("traced"))
    model = nets.Residual()
    prune(model, groups[nets.Residual], nets.random_plan(groups[nets.Residual], 0.5))


FROZEN = {
    "pad shifts channels": (Between(lambda y: F.pad(y, (0, 0, 0, 0, 1, -1))), "no rule for pad"),
    "channels pooled": (Between(lambda y: F.max_pool3d(y, (3, 1, 1), 1, (1, 0, 0))), "pixels of max_pool3d"),
    "softmax": (Between(lambda y: y.softmax(1)), "normalised in softmax"),
    "sum": (Beside(lambda y: y.sum(1, keepdim=True)), "reduced in sum"),
    "largest": (Beside(lambda y: y.amax(1, keepdim=True)), "reduced in amax"),
    "picked by a mask": (
        Between(lambda y: y[:, torch.tensor([True, False] * 4)], 4),
        ("no rule for index", "looked up by index"),
    ),
}


@pytest.mark.parametrize("name", FROZEN)
def test_channels_that_are_mixed_stay_with_the_reason(name: str) -> None:
    model, reason = FROZEN[name]
    groups = find_groups(model, X)
    assert dict(groups) == {}
    assert groups.frozen["a"].startswith(reason)
    prune(model, groups, PruningPlan({}, {}))


def test_pooling_over_channels_of_an_unbatched_reading_is_seen() -> None:
    """max_pool2d of (B, C, L) takes C for the height."""
    model = nn.Sequential(nn.Conv1d(3, 8, 3), nn.MaxPool2d(3, 1, 1), nn.Conv1d(8, 4, 1))
    assert dict(find_groups(model, torch.randn(2, 3, 9))) == {}
    spatial = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(3, 1, 1), nn.Conv2d(8, 4, 1))
    assert list(find_groups(spatial, torch.randn(3, 9, 9))) == ["0"]  # (C, H, W)


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_computed_weight_stays_and_nothing_is_changed(norm: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(nets.conv(3, 8), nn.ReLU(), norm(nets.conv(8, 6)), nets.conv(6, 4)).train()
    before = copy.deepcopy(model.state_dict())
    groups = find_groups(model, X)
    assert "is computed, not a parameter" in groups.frozen["2"]
    assert dict(groups) == {}
    small = prune(model, groups, PruningPlan({}, {}))
    for m in (model, small):  # spectral norm's power iteration did not run
        assert all(torch.equal(t, before[n]) for n, t in m.state_dict().items())


@pytest.mark.parametrize("persistent", [True, False])
def test_a_buffer_follows_whether_it_is_saved_or_not(persistent: bool) -> None:
    class Scaled(nets.Chain):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.randn(1, 8, 1, 1), persistent=persistent)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) * self.scale)

    model = Scaled()
    groups = find_groups(model, X)
    plan = PruningPlan({"a": 8}, {"a": (1, 5)})
    small = prune(model, groups, plan)
    assert torch.equal(small.scale, model.scale[:, [1, 5]])  # type: ignore[index]
    assert check_equivalence(model, small, groups, plan, X).max_error < 1e-12


def test_a_tensor_in_a_plain_attribute_is_left_alone() -> None:
    class Plain(nets.Chain):
        def __init__(self) -> None:
            super().__init__()
            self.offset = torch.ones(1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) + self.offset)

    model = Plain()
    groups = find_groups(model, X)
    assert prune(model, groups, nets.random_plan(groups, 0.5))(X).shape == (2, 4, 8, 8)


def test_a_masked_layer_is_refused_with_the_remedy() -> None:
    model = nets.Chain()
    unstructured.l1_unstructured(model.a, "weight", amount=0.5)
    groups = find_groups(model, X)
    with pytest.raises(PlanError, match="cannot be copied .* remove\\(\\) first"):
        prune(model, groups, PruningPlan({}, {}))
    unstructured.remove(model.a, "weight")
    assert list(find_groups(model, X)) == ["a"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.compile(nets.Chain()), "the model is compiled"),
        (lambda: nn.Sequential(torch.compile(nets.Chain()), nn.ReLU()), "'0' is compiled"),
        (lambda: torch.jit.trace(nets.Chain().eval(), X), "the model is a TorchScript module"),
        (lambda: nn.Sequential(nn.LazyConv2d(4, 3)), "'0' is a lazy layer"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_models_that_are_not_plain_are_refused(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_groups(make(), X)


def test_compiled_in_place_after_the_groups_were_found_is_refused() -> None:
    model = nets.Chain()
    groups = find_groups(model, X)
    model.compile()
    with pytest.raises(InputError, match="prune the model before torch.compile"):
        prune(model, groups, nets.random_plan(groups, 0.5))


def test_attention_that_checks_its_width_runs_or_is_refused_by_prune() -> None:
    """The fused fast path of nn.TransformerEncoderLayer checks no shapes, so the test run avoids it."""
    model, x = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), torch.randn(2, 5, 8)
    groups = find_groups(model, x)
    name = next(n for n in groups if n.startswith("self_attn"))
    plan = PruningPlan({name: groups[name].size}, {name: (0,)})
    try:
        small = prune(model, groups, plan)
    except PlanError as err:
        assert "Freeze it: find_groups" in str(err)
    else:
        assert check_equivalence(model, small, groups, plan, x).max_error < 1e-12


def test_code_that_makes_float32_itself_is_named_by_the_certificate() -> None:
    model = Beside(lambda y: F.grid_sample(y, torch.zeros(2, 8, 8, 2), align_corners=False)[:, :4])
    groups = find_groups(model, X)
    with pytest.raises(CertificateError, match="does not run in float64"):
        check_equivalence(model, prune(model, groups, PruningPlan({}, {})), groups, PruningPlan({}, {}), X)
