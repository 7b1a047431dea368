"""Two quadratics with a shared variable: the alternation against the minimiser in closed form, and two ways to miss it.

    min  a/2 (w - p)^2 + b/2 (w - q)^2 + c/2 (v - w)^2 + (l1 + l2) |w| + l2 |v|     w shared, v the decoder's

For l1 = l2 = 0: v = w = (a p + b q) / (a + b). Else v = soft(w, l2 / c) and

    w = soft(a p + b q, l1 + 2 l2) / (a + b)          where c |w| > l2
        soft(a p + b q, l1 + l2) / (a + b + c)        else: v = 0

Legend: D numbers, w_D shared.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from prunekit.core import Groups
from prunekit.methods import mtp
from prunekit.methods.mtp.coupling import soft_threshold_
from prunekit.progressive import Training
from prunekit.train import TrainConfig

P_D, Q_D = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([4.0, 1.0, 0.5]).double()
A, B, C = 2.0, 1.0, 3.0
BEST_D = (A * P_D + B * Q_D) / (A + B)
NOTHING = mtp.Parts(Groups({}), Groups({}), "backbone")


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w_D = nn.Parameter(torch.zeros(3).double())

    def forward(self) -> Tensor:
        return self.w_D


class First(nn.Module):
    """The loss is A/2 |w - P|^2."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Shared()

    def forward(self, x: Tensor) -> Tensor:
        return A / 2 * (self.backbone() - P_D).square().sum()


class Second(nn.Module):
    """The loss is B/2 |w - Q|^2 + C/2 |v - w|^2."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.v_D = Shared(), nn.Parameter(torch.ones(3).double())

    def forward(self, x: Tensor) -> Tensor:
        w_D = self.backbone()
        return B / 2 * (w_D - Q_D).square().sum() + C / 2 * (self.v_D - w_D).square().sum()


def training(steps: int, momentum: float) -> Training:
    loader = DataLoader(TensorDataset(torch.zeros(4, 1), torch.zeros(4)), 4)
    config = TrainConfig(
        steps, 0.05 * (1 - momentum), momentum=momentum, weight_decay=0.0, schedule="constant", device="cpu", quiet=True
    )
    return Training(config, loader, lambda output, target: output)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_alternation_reaches_the_minimiser(momentum: float) -> None:
    task = training(900, momentum)
    settings = mtp.Settings(rounds=36, alpha1=0.0, alpha2=0.0, mu=1.0, rho=1.1)
    done = mtp.alternate(First(), Second(), NOTHING, task, task, settings)
    for w_D in (done.classifier.backbone.w_D, done.segmenter.backbone.w_D, done.segmenter.v_D):
        torch.testing.assert_close(w_D.detach(), BEST_D, rtol=0, atol=1e-6)
    residuals = [one.residual for one in done.history]
    assert residuals[-1] < 1e-6 < 0.1 < residuals[0] and done.history[1].mu == pytest.approx(1.1)


def test_lambda_weighs_the_second_loss() -> None:
    task = training(900, 0.0)
    settings = mtp.Settings(rounds=36, alpha1=0.0, alpha2=0.0, weight=3.0, mu=1.0, rho=1.1)
    done = mtp.alternate(First(), Second(), NOTHING, task, task, settings)
    expected_D = (A * P_D + 3 * B * Q_D) / (A + 3 * B)
    torch.testing.assert_close(done.classifier.backbone.w_D.detach(), expected_D, rtol=0, atol=1e-6)


class Penalised(mtp.Parts):
    """No batch norms here: all that is shared and the decoder's are its scales."""

    def scales(self, segmenter: nn.Module) -> dict[str, frozenset[str]]:
        return {"backbone": frozenset({"backbone.w_D"}), "decoder": frozenset({"v_D"})}


def test_with_l1_it_reaches_the_soft_thresholded_minimiser() -> None:
    task, (l1, l2) = training(900, 0.0), (0.3, 0.6)
    parts, settings = Penalised(Groups({}), Groups({}), "backbone"), mtp.Settings(36, l1, l2, mu=1.0, rho=1.1)
    done = mtp.alternate(First(), Second(), parts, task, task, settings)
    far_D, near_D = F.softshrink(A * P_D + B * Q_D, l1 + 2 * l2) / (A + B), F.softshrink(A * P_D + B * Q_D, l1 + l2)
    w_D = torch.where(C * far_D.abs() > l2, far_D, near_D / (A + B + C))
    assert ((C * w_D).abs() > l2).tolist() == [True, True, False], "both cases occur"
    for found_D in (done.classifier.backbone.w_D, done.segmenter.backbone.w_D):
        torch.testing.assert_close(found_D.detach(), w_D, rtol=0, atol=1e-6)
    torch.testing.assert_close(done.segmenter.v_D.detach(), F.softshrink(w_D, l2 / C), rtol=0, atol=1e-6)
    assert done.segmenter.v_D[2] == 0


def gap(after: str, rounds: int = 60, mu: float = 1.0) -> float:
    """How far from the minimiser both copies end; after: what happens at the end of a round."""
    w1_D, w3_D = torch.zeros(3).double(), torch.zeros(3).double()
    coupling = mtp.Coupling({"w": w1_D}, {"w": w3_D}, mu=mu, rho=1.1)
    step = 0.05
    for _ in range(rounds):
        for _ in range(40):
            w1_D -= step * A * (w1_D - P_D)
            coupling.pull_first(step)
        for _ in range(40):
            w3_D -= step * B * (w3_D - Q_D)
            coupling.pull_third(step)
        if after == "update":
            coupling.update()
        elif after == "flipped":
            coupling.multipliers["w"] -= coupling.mu * (w1_D - w3_D)
            coupling.mu *= coupling.rho
    return float(torch.cat([w1_D - BEST_D, w3_D - BEST_D]).abs().max())


def test_without_multipliers_or_with_the_wrong_sign_it_does_not() -> None:
    assert gap("update") < 1e-6
    assert gap("nothing") > 0.1  # rho = 1 and E = 0: a compromise between the two
    assert not gap("flipped") < 0.1  # the multipliers push the copies apart


def test_the_proximal_step_is_the_minimiser_of_its_objective() -> None:
    """Against a fine grid, one number at a time."""
    draw = torch.Generator().manual_seed(0)
    grid_N = torch.linspace(-4, 4, 800_001).double()
    for sign in (1, -1):
        v, other, e = torch.randn(3, generator=draw).double().unbind()
        mine, theirs, step, l1, mu = v[None].clone(), other[None].clone(), 0.3, 0.7, 2.0
        pair = (mine, theirs) if sign == 1 else (theirs, mine)
        coupling = mtp.Coupling({"w": pair[0]}, {"w": pair[1]}, mu=mu, rho=2.0)
        coupling.multipliers["w"] += e
        (coupling.pull_first if sign == 1 else coupling.pull_third)(step, l1, {"w"})
        objective_N = (grid_N - v).square() / (2 * step) + l1 * grid_N.abs()
        objective_N += sign * e * (grid_N - other) + mu / 2 * (grid_N - other).square()
        assert float(mine) == pytest.approx(float(grid_N[objective_N.argmin()]), abs=2e-5)
        assert float(theirs) == float(other)


def test_mu_may_grow_without_limit() -> None:
    """Where a gradient step would diverge, 1 / (1 + s mu) only becomes small."""
    assert gap("update", rounds=300) < 1e-6


def test_soft_threshold() -> None:
    w = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0])
    soft_threshold_(w, 0.5)
    assert w.tolist() == [-1.5, 0.0, 0.0, 0.0, 1.5]
