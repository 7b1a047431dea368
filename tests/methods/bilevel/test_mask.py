"""The step and its straight-through gradient, the MACs polynomial, the history: the pieces, each by itself."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from prunekit.core import PruningPlan
from prunekit.errors import BudgetError
from prunekit.methods import bilevel
from prunekit.methods.bilevel.closing import close
from prunekit.methods.bilevel.cost import Macs, check_reachable, fewest, macs_term
from prunekit.methods.bilevel.history import History
from prunekit.methods.bilevel.mask import straight_through
from prunekit.models.deeplab import deeplabv3_mini
from prunekit.models.topformer import topformer_mini
from prunekit.plan import Limits, plan_macs
from prunekit.profiling import count_macs
from prunekit.surgery import find_groups, prune

X = torch.randn(1, 3, 64, 128, generator=torch.Generator().manual_seed(0))


def test_the_mask_is_a_step_and_its_gradient_is_straight() -> None:
    s_U = torch.tensor([0.3, 0.5, 0.5001, 1.4], requires_grad=True)
    weight_U = torch.tensor([1.0, -2.0, 3.0, 4.0])
    b_U = straight_through(s_U, 0.5)
    assert b_U.tolist() == [0.0, 0.0, 1.0, 1.0]
    (b_U * weight_U).sum().backward()
    assert s_U.grad is not None and torch.equal(s_U.grad, weight_U)
    plain = (s_U.detach() > 0.5).float()
    assert not plain.requires_grad  # what the step alone would give: nothing


def test_some_stay_open_whatever_their_s() -> None:
    assert straight_through(torch.tensor([0.1, 0.3, 0.2]), 0.5, min_keep=2).tolist() == [0.0, 1.0, 1.0]
    assert straight_through(torch.zeros(5), 0.5, min_keep=2).sum() == 2  # a tie does not open all
    assert straight_through(torch.tensor([0.9, 0.6, 0.7]), 0.5, min_keep=1).sum() == 3


@lru_cache
def deeplab_groups():
    return find_groups(deeplabv3_mini().eval(), X)


def random_plan(groups, seed: int) -> PruningPlan:
    dice = torch.Generator().manual_seed(seed)
    keep = {}
    for name, group in groups.items():
        count = int(torch.randint(1, group.size + 1, (), generator=dice))
        keep[name] = tuple(sorted(torch.randperm(group.size, generator=dice)[:count].tolist()))
    return PruningPlan({name: group.size for name, group in groups.items()}, keep)


@pytest.mark.parametrize("make", [deeplabv3_mini, topformer_mini])
def test_macs_of_a_mask_are_those_of_the_pruned_network(make) -> None:
    model = make().eval()
    groups = find_groups(model, X)
    macs = Macs(groups)
    assert macs.dense == count_macs(model, X)
    for seed in range(3):
        plan = random_plan(groups, seed)
        counted = float(macs(torch.tensor([len(kept) for kept in plan.keep.values()])))
        assert counted == plan_macs(groups, plan)
        if seed == 0:
            assert counted == count_macs(prune(model, groups, plan), X)


def test_the_gradient_of_the_macs_term_is_right_and_the_outputs_only_count_is_not() -> None:
    model = nn.Sequential(*(nn.Conv2d(a, b, 3) for a, b in ((3, 8), (8, 12), (12, 5), (5, 2))))
    groups = find_groups(model, X)
    macs = Macs(groups)
    n_G = torch.tensor([5.0, 9.0, 4.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda n: macs(n) / macs.dense, n_G)
    masks = [(torch.arange(int(u)) % 3 > 0).double().requires_grad_() for u in macs.units_G]
    target = 0.3 * macs.dense
    slopes = torch.autograd.grad(macs_term(macs, masks, target), masks)
    n = torch.tensor([b_U.detach().sum() for b_U in masks], dtype=torch.float64)
    for g, slope_U in enumerate(slopes):
        step = torch.zeros(3, dtype=torch.float64)
        step[g] = 1e-4
        ends = [((float(macs(n + sign * step)) - target) / macs.dense) ** 2 for sign in (1, -1)]
        torch.testing.assert_close(slope_U, torch.full_like(slope_U, (ends[0] - ends[1]) / 2e-4))
    assert float(macs(n / 2)) < 0.35 * float(
        macs(n)
    )  # half the units are about a quarter of the work; by outputs: half


def test_the_reachable_range_is_named() -> None:
    groups = deeplab_groups()
    macs = Macs(groups)
    for ratio in (0.999, 0.0, -0.5):
        with pytest.raises(BudgetError, match=r"anything above 0 and up to 9\d\.\d% can go.*max_ratio"):
            check_reachable(groups, macs, ratio, Limits(round_to=1))
    check_reachable(groups, macs, 0.9, Limits(round_to=1))
    with pytest.raises(BudgetError, match=r"up to 4\d\.\d%|up to 3\d\.\d%"):
        check_reachable(groups, macs, 0.5, Limits(round_to=1, max_ratio=0.2))
    for limits, way in (
        (Limits(round_to=1, min_keep=500), r"Ask for less, lower Limits\(min_keep=\.\.\.\), or gate"),
        (Limits(round_to=64), r"Ask for less, lower Limits\(round_to=\.\.\.\), or gate"),
    ):
        with pytest.raises(BudgetError, match=way):  # what does not bind is not blamed
            check_reachable(groups, macs, 0.95, limits)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("start", [0.1, 0.5, 0.95])
def test_the_closing_step_meets_the_target_from_either_side(ratio: float, start: float) -> None:
    groups = deeplab_groups()
    macs, limits = Macs(groups), Limits()
    dice = torch.Generator().manual_seed(1)
    scores = {name: torch.rand(group.size, generator=dice) + start - 0.5 for name, group in groups.items()}
    masks = [straight_through(s_U, 0.5, limits.kept(len(s_U), 0)).bool() for s_U in scores.values()]
    plan, done = close(groups, scores, masks, macs, (1 - ratio) * macs.dense, limits)
    left = plan_macs(groups, plan) / macs.dense
    assert 0.99 * (1 - ratio) < left <= 1 - ratio and done.after == pytest.approx(left)
    assert done.moved > 0 and f"{done.moved} of {done.units} units moved" in str(done) and str(done) in plan.note
    for name, kept in plan.keep.items():  # the largest s stay
        assert set(kept) == set(scores[name].topk(len(kept)).indices.tolist())


def test_heads_count_as_the_channels_they_hold() -> None:
    """In multiples of 8 channels single heads of 16 may go; as units of their own, eight heads could not lose one."""
    torch.manual_seed(0)
    model = VisionTransformer(img_size=16, patch_size=8, embed_dim=128, depth=1, num_heads=8, num_classes=3).eval()
    groups = find_groups(model, torch.randn(1, 3, 16, 16))
    heads = next(name for name, group in groups.items() if group.kind == "head")
    groups = groups.only([heads])
    macs, limits = Macs(groups), Limits(round_to=8)
    assert fewest(groups, limits) == [1]
    scores, masks = {heads: torch.linspace(0.9, 0.1, 8)}, [torch.ones(8, dtype=torch.bool)]
    for count in (5, 3):
        plan, _ = close(groups, scores, masks, macs, float(macs(torch.tensor([count]))), limits)
        assert plan.keep[heads] == tuple(range(count))
    bilevel.Masks(groups, 0.2, 10, bilevel.MaskConfig(), limits=limits)


def test_the_closing_step_moves_multiples_and_leaves_what_fits() -> None:
    groups = deeplab_groups()
    macs, limits = Macs(groups), Limits(round_to=8)
    scores = {name: torch.rand(group.size) for name, group in groups.items()}
    masks = [torch.ones(group.size, dtype=torch.bool) for group in groups.values()]
    plan, _ = close(groups, scores, masks, macs, 0.5 * macs.dense, limits)
    assert all(len(kept) % 8 == 0 or len(kept) == groups[name].size for name, kept in plan.keep.items())
    assert 0.46 < plan_macs(groups, plan) / macs.dense <= 0.5
    counts = torch.tensor([len(kept) for kept in plan.keep.values()])
    met = [
        torch.zeros(group.size, dtype=torch.bool).index_fill(0, torch.tensor(plan.keep[name]), True)
        for name, group in groups.items()
    ]
    ranked = {name: met_U.float() for name, met_U in zip(groups, met, strict=True)}
    again, done = close(groups, ranked, met, macs, float(macs(counts)), limits)
    assert again.keep == plan.keep and done.moved == 0 and "no unit was moved" in str(done)


def test_history_gives_back_every_mask_and_who_returned() -> None:
    dice = torch.Generator().manual_seed(0)
    rows = [torch.ones(7, dtype=torch.bool), *(torch.rand(7, generator=dice) > 0.4 for _ in range(6))]
    history = History({"a": 3, "b": 4})
    for before, after in pairwise(rows):
        history.add(before, after, 0.5, (1.0, 2.0, 3.0))
    again = History({"a": 3, "b": 4})
    again.load_state_dict(history.state_dict())
    assert again == history
    whole = torch.stack(rows)
    assert torch.equal(again.masks("a"), whole[:, :3]) and torch.equal(again.masks("b"), whole[:, 3:])
    back = (~whole).any(0) & whole[-1]
    assert [u + 3 for u in again.returned()["b"]] + list(again.returned()["a"]) == [
        *(i for i in range(3, 7) if back[i]),
        *(i for i in range(3) if back[i]),
    ]
    opened = [(after & ~before).sum().item() for before, after in pairwise(rows)]
    assert history.column("returned") == opened and sum(opened) > 0 and history.column("implicit") == [3.0] * 6
