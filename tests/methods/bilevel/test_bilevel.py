"""The search from end to end: the plan is the gated network, exactly; it meets its target, resumes, and refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from prunekit.core import PruningPlan
from prunekit.errors import BudgetError, CheckpointError, GroupError, InputError, PlanError, TrainingError
from prunekit.gates import Gated
from prunekit.methods import bilevel
from prunekit.methods.bilevel.hypergradient import squared_gradients
from prunekit.methods.bilevel.mask import CEILING
from prunekit.models.segformer import segformer_mini
from prunekit.models.topformer import topformer_mini
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


@pytest.mark.parametrize(
    ("make", "kind"), [(segformer_mini, "head"), (segformer_mini, "head_dim"), (topformer_mini, "head")]
)
def test_heads_their_dimensions_and_coupled_layers_are_searched_too(make, kind: str) -> None:
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(2, 3, 32, 64)
    groups = find_groups(model, x[:1], heads="dimension" if kind == "head_dim" else "number")
    assert kind in {group.kind for group in groups.values()}
    assert any(len(group.producers()) > 1 for group in groups.values())  # coupled
    data, fast = [(x, torch.randint(0, 12, (2, 32, 64)))], bilevel.MaskConfig(lr=0.2)
    found = bilevel.learn_plan(model, groups, data, replace(CONFIG, steps=8), macs_ratio=0.6, masks=fast)
    dense, flipped = plan_macs(groups, PruningPlan({}, {})), sum(found.history.column("flips"))
    assert 0.39 < plan_macs(groups, found.plan) / dense <= 0.4 and flipped > 0
    assert any(len(kept) < groups[name].size for name, kept in found.plan.keep.items() if groups[name].kind == kind)
    small = prune(found.model, groups, found.plan)
    check_equivalence(found.model, small, groups, found.plan, x[:1])


def test_scores_alone_are_those_of_the_plan() -> None:
    model = network()
    groups = find_groups(model, X)
    scores = bilevel.learn_scores(model, groups, loader(), CONFIG, macs_ratio=0.5, masks=QUICK)
    assert all(torch.equal(scores[name], s_U) for name, s_U in learn().scores.items()) and set(scores) == set(groups)
    assert any(bool((s_U != 1).any()) for s_U in scores.values())


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
    assert found.held_open and "at its end only the limits held" in str(found)


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
    with pytest.raises(InputError, match="without a loss scale.*bf16"):
        learn(config=replace(CONFIG, mixed_precision="fp16"))
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


@pytest.mark.parametrize("wrong", [{"beta": 1e39, "ramp": 0.0}, {"lam": 1e39}])
def test_a_weight_that_makes_a_term_infinite_is_refused_before_anything_moves(wrong: dict[str, float]) -> None:
    with held(relative=False, **wrong) as (masks, gated):
        with pytest.raises(TrainingError, match=r"the gradient of the mask of .*Lower beta, .*1e\+39"):
            masks.on_gradients(gated)
        assert all(bool((gate == 1).all()) for gate in gated.gates)


@pytest.mark.parametrize("inner_steps", [1, 4])
def test_a_gradient_that_is_not_finite_never_gets_into_a_checkpoint(inner_steps: int, tmp_path: Path) -> None:
    """Between two steps of the masks as well, where nobody looks at gates."""
    calls = iter(range(100))

    def loss(output, target):
        bad = 0 * ((output * 0).abs().sqrt().sum()) if next(calls) == 5 else 0  # its value 0, its slope 0 * inf
        return F.cross_entropy(output, target) + bad

    config = replace(CONFIG, save_every=1)
    with pytest.raises(TrainingError, match=r"finite at step 5, but the gradient of '.*\.weight' is not"):
        learn(config=config, masks=replace(QUICK, inner_steps=inner_steps), loss_fn=loss, checkpoint=tmp_path)
    (left,) = tmp_path.glob("step-*")
    saved = load_file(left / "model.safetensors")
    assert left.name == "step-00000005" and all(bool(tensor.isfinite().all()) for tensor in saved.values())


@contextmanager
def held(**more) -> Iterator[tuple[bilevel.Masks, Gated]]:
    """Masks and their network after one backward pass."""
    model = network()
    masks = bilevel.Masks(find_groups(model, X), 0.5, 10, replace(QUICK, **more))
    gated = masks.gated(model)
    x, y = loader()[0]
    with masks.watching(gated):
        F.cross_entropy(gated(x), y).backward()
        yield masks, gated


@pytest.mark.parametrize("relative", [False, True])
def test_the_implicit_term_holds_open(relative: bool) -> None:
    """It is -lambda times the squares, never above 0: descending it lifts s."""
    with held(relative=relative, lam=0.3) as (masks, gated):
        terms = masks.terms(gated)
        weights = {name: p.grad for name, p in gated.model.named_parameters()}
        squares = squared_gradients(masks.groups, weights, [torch.ones_like(g) for g in gated.gates])
        lam = 0.3 * (masks.balance.direct / masks.balance.squares) ** 0.5 if relative else 0.3
        for implicit_U, square_U in zip(terms.implicit, squares, strict=True):
            assert (implicit_U <= 0).all() and (square_U > 0).all()
            torch.testing.assert_close(implicit_U, -lam * square_U)
        for direct_U, gate in zip(terms.direct, gated.gates, strict=True):
            assert gate.grad is not None and torch.equal(direct_U, gate.grad) and direct_U.any()
    with held(relative=relative, implicit=False) as (masks, gated):
        assert not any(part.any() for part in masks.terms(gated).implicit)


def test_the_target_comes_down_over_the_ramp_and_stays() -> None:
    masks = bilevel.Masks(find_groups(network(), X), 0.5, 10, replace(QUICK, ramp=0.6))
    shares = []
    for masks.steps in range(11):
        shares.append(masks.target() / masks.macs.dense)
    assert shares == pytest.approx([1 - 0.5 * min(1, step / 6) for step in range(11)])
    at_once = bilevel.Masks(find_groups(network(), X), 0.5, 10, replace(QUICK, ramp=0.0))
    assert at_once.target() == pytest.approx(0.5 * at_once.macs.dense)


def test_s_stays_within_reach_of_the_threshold() -> None:
    """However long a unit is wanted or not: s never leaves [0, CEILING]."""
    for sign, end in ((1.0, 0.0), (-1.0, CEILING)):
        with held(lr=0.3, beta=0.0, lam=0.0) as (masks, gated):
            for _ in range(6):
                for gate in gated.gates:
                    gate.grad = torch.full_like(gate, sign)
                masks.on_gradients(gated)
            assert all(s_U.tolist() == [end] * len(s_U) for s_U in gated.gates)


def test_what_the_search_cost_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that share what they have seen do not count their seconds again; the peak outlives a checkpoint."""
    now = iter(float(second) for second in range(0, 1000, 10))
    monkeypatch.setattr("prunekit.methods.bilevel.masks.time.perf_counter", lambda: next(now))
    peaks = {"cpu": 700}
    monkeypatch.setattr("prunekit.methods.bilevel.masks.watch_peak", lambda device: lambda: peaks[device.type])
    masks = bilevel.Masks(find_groups(network(), X), 0.5, 10, QUICK)
    gated = masks.gated(network())
    with masks.watching(gated):  # starts at 0
        masks.load_state_dict(masks.state_dict())  # looks at 10, starts again at 20
        masks.load_state_dict(masks.state_dict())  # looks at 30, starts again at 40
    assert masks.seconds == 10 + 10 + 10 and masks.peak_bytes == 700  # ends at 50
    later = bilevel.Masks(find_groups(network(), X), 0.5, 10, QUICK)
    later.load_state_dict(masks.state_dict())
    peaks["cpu"] = 300  # the new process has not come so far
    with later.watching(gated):
        pass
    assert later.seconds == 40 and later.peak_bytes == 700


def test_a_search_too_short_to_close_a_unit_says_so_everywhere() -> None:
    with pytest.warns(
        RuntimeWarning, match=r"20 updates of lr 0\.02 move a mask by 0\.4 or so, to close it takes 0\.5"
    ):
        found = learn(masks=bilevel.MaskConfig(), config=replace(CONFIG, steps=20))
    assert "too short a search" in found.plan.note and "too short a search" in str(found)
    assert found.history.column("flips") == [0.0] * 20  # and it was
    config = bilevel.MaskConfig()
    assert config.too_short(24) and not config.too_short(25)
    assert replace(config, inner_steps=4).too_short(99) and not replace(config, inner_steps=4).too_short(100)
    assert not replace(config, threshold=0.9).too_short(5)
    assert not learn().too_short
    with pytest.raises(InputError, match=r"inner_steps is 100, the search has 80 steps: no mask would move"):
        learn(masks=bilevel.MaskConfig(inner_steps=100))


def test_arguments_of_another_kind_are_named() -> None:
    for name in ("threshold", "lr", "beta", "lam", "ramp", "relative", "implicit"):
        with pytest.raises(InputError, match=rf"MaskConfig\.{name} is '0\.5'"):
            bilevel.MaskConfig(**{name: "0.5"})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="threshold is None"):
        bilevel.MaskConfig(threshold=None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"macs_ratio is '0\.5'; give the fraction"):
        learn("0.5")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="macs_ratio is nan; give the fraction"):
        learn(float("nan"))
    with pytest.raises(InputError, match="config is a NoneType.*give a TrainConfig"):
        learn(config=None)
    with pytest.raises(InputError, match=r"loss_fn is a int.*loss_fn\(output, target\)"):
        learn(loss_fn=3)
    with pytest.raises(InputError, match="limits is a int"):
        learn(limits=3)
    with pytest.raises(InputError, match="masks is a dict"):
        learn(masks={"lr": 0.1})


def test_groups_of_another_model_are_refused() -> None:
    groups = find_groups(network(), X)
    other = nn.Sequential(nn.Conv2d(3, 12, 3), nn.Conv2d(12, 2, 1)).eval()
    wider = network()
    wider[0], wider[1], wider[3] = nn.Conv2d(3, 13, 3), nn.BatchNorm2d(13), nn.Conv2d(13, 16, 3)
    for model, named in ((other, "'1.weight'"), (wider, "'0.weight' is (12, 3, 3, 3), here it is (13, 3, 3, 3)")):
        with pytest.raises(PlanError, match=re.escape(named)):
            bilevel.learn_plan(model, groups, loader(), CONFIG, macs_ratio=0.5, masks=QUICK)
