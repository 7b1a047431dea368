"""The search from end to end: the plan is the gated network, exactly; it meets its target, resumes, and refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from prunekit.core import PruningPlan
from prunekit.errors import BudgetError, CheckpointError, GroupError, InputError, TrainingError
from prunekit.gates import Gated
from prunekit.methods import bilevel
from prunekit.plan import Limits, plan_macs
from prunekit.surgery import check_equivalence, find_groups, prune
from prunekit.train import TrainConfig

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
CONFIG = TrainConfig(steps=80, lr=0.01, optimizer="adamw", quiet=True, device="cpu", save_every=20)
QUICK = bilevel.MaskConfig(lr=0.05)


def loader(seed: int = 0):
    """Which of two colours is stronger: most channels are not needed."""
    dice = torch.Generator().manual_seed(seed)
    images = [torch.randn(4, 3, 8, 8, generator=dice) for _ in range(4)]
    return [(x, (x[:, 0] > x[:, 1]).long()) for x in images]


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU()]
    layers += [nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 2, 1)]
    return nn.Sequential(*layers).eval()


def learn(ratio: float = 0.5, **more) -> bilevel.Learned:
    model = network()
    given = {"masks": QUICK, "config": CONFIG, "loader": loader(), **more}
    return bilevel.learn_plan(
        model, find_groups(model, X), given.pop("loader"), given.pop("config"), macs_ratio=ratio, **given
    )


def test_the_plan_is_the_gated_network_exactly_and_meets_the_target() -> None:
    before = network().state_dict()
    model = network()
    groups = find_groups(model, X)
    found = bilevel.learn_plan(model, groups, loader(), CONFIG, macs_ratio=0.5, masks=QUICK)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    dense = plan_macs(groups, PruningPlan({}, {}))
    assert found.closing.after == plan_macs(groups, found.plan) / dense
    assert 0.5 - 0.04 < found.closing.after <= 0.5  # one of 12 units is 4 % of so small a network
    trained = found.model.double()
    small = prune(trained, groups, found.plan)
    gated = Gated(trained, groups)
    with torch.no_grad():
        for gate, kept in zip(gated.gates, found.plan.keep.values(), strict=True):
            gate.zero_()[list(kept)] = 1.0
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(small(x), gated.eval()(x), rtol=0, atol=1e-12)
    with torch.no_grad():
        gated.gates[0][found.plan.keep["0"][0]] = 0.0
    assert not torch.allclose(small(x), gated(x))  # the control
    assert check_equivalence(trained, small, groups, found.plan, X.double()).control > 1e-3
    assert f"{found.steps} steps" in str(found) and found.steps == 80 and found.seconds > 0


def test_masks_flip_and_the_history_ends_where_the_search_did() -> None:
    found = learn(0.6)
    history = found.history
    assert len(history.lines) == 80 and history.column("macs")[0] == 1.0 and min(history.column("macs")) < 0.9
    assert sum(history.column("flips")) > 10
    for name, s_U in found.scores.items():
        last_U = history.masks(name)[-1]
        assert torch.equal(last_U, bilevel.straight_through(s_U, 0.5, Limits(round_to=1).kept(len(s_U), 0)).bool())
    assert history.column("macs")[-1] == pytest.approx(found.closing.before)
    assert max(history.column("implicit")) > 0
    without = learn(0.6, masks=replace(QUICK, implicit=False))
    assert max(without.history.column("implicit")) == 0 and without.history.flips != history.flips
    rarely = learn(0.6, masks=replace(QUICK, inner_steps=4))
    assert len(rarely.history.lines) == 20 and rarely.steps == 80


def test_a_search_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = learn(checkpoint=tmp_path / "whole")

    update = bilevel.Masks._update

    def broken(self, model) -> None:
        if self.steps == 50:
            raise KeyboardInterrupt
        update(self, model)

    monkeypatch.setattr(bilevel.Masks, "_update", broken)
    with pytest.raises(KeyboardInterrupt):
        learn(checkpoint=tmp_path / "two")
    monkeypatch.undo()
    assert (tmp_path / "two/step-00000040").is_dir()
    again = learn(checkpoint=tmp_path / "two")
    assert again.plan == whole.plan and again.history == whole.history and again.steps == 80
    assert all(torch.equal(again.scores[name], s_U) for name, s_U in whole.scores.items())
    with pytest.raises(CheckpointError, match=r"^these masks.*macs_ratio=0\.5, now macs_ratio=0\.4.*another folder"):
        learn(0.4, checkpoint=tmp_path / "two")
    with pytest.raises(CheckpointError, match=r"lam=1\.0, now lam=2\.0"):
        learn(masks=replace(QUICK, lam=2.0), checkpoint=tmp_path / "two")


def test_a_layer_whose_masks_all_close_keeps_its_least_and_says_so() -> None:
    found = learn(0.85, masks=replace(QUICK, relative=False, beta=1e4, ramp=0.0), limits=Limits(min_keep=3))
    assert all(len(kept) >= 3 for kept in found.plan.keep.values())
    assert found.held_open and "the limits hold" in str(found)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"remove 99\.0% of the MACs.*up to 9\d\.\d% can go"):
        learn(0.99)
    for threshold, why in ((-0.1, "opens every unit"), (1.0, "closes every unit"), (7.0, "closes every unit")):
        with pytest.raises(InputError, match=f"{why}.*number in \\[0, 1\\)"):
            bilevel.MaskConfig(threshold=threshold)
    for wrong in ({"lr": 0.0}, {"beta": -1.0}, {"lam": float("nan")}, {"inner_steps": 0}, {"ramp": 2.0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            bilevel.MaskConfig(**wrong)
    with pytest.raises(InputError, match="bf16"):
        learn(config=replace(CONFIG, ema=0.9))
    groups = find_groups(network(), X)
    unread = replace(groups["0"], members=groups["0"].producers())
    with pytest.raises(GroupError, match=r"no layer reads the units of '0'.*groups\.only"):
        bilevel.Masks(replace(groups, table={"0": unread}), 0.1, 10, QUICK)
    with pytest.raises(GroupError, match="no group to gate"):
        bilevel.Masks(groups.only([]), 0.1, 10, QUICK)


def test_a_gradient_that_is_not_finite_stops_the_search_before_anything_moves() -> None:
    model = network()
    masks = bilevel.Masks(find_groups(model, X), 0.5, 10, QUICK)
    gated = masks.gated(model)
    with masks.watching(gated), pytest.raises(TrainingError, match="mask of '3' is not finite at step 1"):
        gated(X).sum().backward()
        gated.gates[1].grad[2] = torch.nan  # type: ignore[index]
        masks.on_gradients(gated)
    assert all(bool((gate == 1).all()) for gate in gated.gates)
    with pytest.raises(InputError, match="gates of gated"), masks.watching(model):
        pass
