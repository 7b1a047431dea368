"""Prune and regrow: who is closed and who comes back follow the rule, the plan meets its target, and runs resume."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from prunekit.core import PruningPlan
from prunekit.errors import BudgetError, CheckpointError, InputError
from prunekit.methods import l1, regrow
from prunekit.plan import plan_macs
from prunekit.surgery import check_equivalence, find_groups, prune
from prunekit.train import TrainConfig

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
CONFIG = TrainConfig(steps=20, lr=0.01, optimizer="adamw", quiet=True, device="cpu", save_every=10)


def loader():
    dice = torch.Generator().manual_seed(0)
    images = [torch.randn(4, 3, 8, 8, generator=dice) for _ in range(4)]
    return [(x, (x[:, 0] > x[:, 1]).long()) for x in images]


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 2, 1)).eval()


def explorer(model: nn.Module, ratio: float = 0.5, **more) -> regrow.Explorer:
    given = {"rhythm": regrow.Rhythm(every=4, delta=0.5, until=0.6), **more}
    return regrow.Explorer(find_groups(model, X), l1.score, ratio, 20, **given)


def open_units(gated) -> list[set[int]]:
    return [set(gate.nonzero().flatten().tolist()) for gate in gated.gates]


def test_a_round_closes_the_lowest_and_opens_some_of_them_again() -> None:
    model = network()
    one = explorer(model)
    gated = one.gated(model)
    best = {name: set(kept) for name, kept in one.plan(model).keep.items()}
    for _ in range(3):
        one.on_gradients(gated)
    assert all(bool(gate.all()) for gate in gated.gates), "no round yet"
    one.on_gradients(gated)
    share = 0.5 * (1 + math.cos(math.pi * 4 / 12)) / 2
    for now, kept in zip(open_units(gated), best.values(), strict=True):
        assert kept <= now and len(now) == len(kept) + round(share * len(kept))
    assert one.returned == sum(len(now) for now in open_units(gated)) - sum(map(len, best.values())) > 0
    for _ in range(8):
        one.on_gradients(gated)
    assert one.share() == pytest.approx(0.0) and open_units(gated) == list(best.values()), "nobody comes back any more"


def test_another_seed_opens_others_and_without_a_share_nobody() -> None:
    model = network()
    found = []
    for one in (
        explorer(model, seed=0),
        explorer(model, seed=0),
        explorer(model, seed=1),
        explorer(model, rhythm=regrow.Rhythm(every=4, delta=0.0)),
    ):
        gated = one.gated(model)
        for _ in range(4):
            one.on_gradients(gated)
        found.append(open_units(gated))
    assert found[0] == found[1] != found[2]
    assert found[3] == [set(kept) for kept in explorer(model).plan(model).keep.values()]


def test_the_plan_meets_its_target_and_the_cut_is_exact(tmp_path: Path) -> None:
    model = network()
    groups, before = find_groups(model, X), network().state_dict()
    plan, trained = regrow.learn_plan(model, explorer(model), loader(), CONFIG, checkpoint=tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert 0.4 < plan_macs(groups, plan) / plan_macs(groups, PruningPlan({}, {})) <= 0.5
    assert check_equivalence(trained, prune(trained, groups, plan), groups, plan, X).control > 1e-3
    again = explorer(model)
    assert regrow.learn_plan(model, again, loader(), CONFIG, checkpoint=tmp_path / "run")[0] == plan
    assert again.steps == 20 and again.returned > 0, "taken up from the checkpoint"


def test_a_folder_of_another_exploration_is_not_gone_on_with(tmp_path: Path) -> None:
    model, quick = network(), replace(CONFIG, steps=4)
    regrow.learn_plan(model, explorer(model), loader(), quick, checkpoint=tmp_path)
    for other, said in (
        (explorer(model, 0.4), r"macs_ratio=0\.5, now macs_ratio=0\.4.*another folder"),
        (explorer(model, seed=1), r"seed=0, now seed=1"),
        (explorer(model, rhythm=regrow.Rhythm(every=4, delta=0.1, until=0.6)), r"delta=0\.5, now delta=0\.1"),
    ):
        with pytest.raises(CheckpointError, match=said):
            regrow.learn_plan(model, other, loader(), quick, checkpoint=tmp_path)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(BudgetError, match="is the most"):
        regrow.learn_plan(network(), explorer(network(), 0.999), loader(), replace(CONFIG, steps=4))
    for make in (
        lambda: regrow.Rhythm(every=0),
        lambda: regrow.Rhythm(delta=1.5),
        lambda: regrow.Rhythm(until=0.0),
    ):
        with pytest.raises(InputError, match=r"every is 0|shares"):
            make()
