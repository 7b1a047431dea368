"""Lesson 06's exercises about the two levels: the paper's implicit term, and the exact one. U units, W weights."""

from __future__ import annotations

import torch
from torch import Tensor

from prunekit.course.exercises import Exercise, Mistake


def implicit(gradient, b, lam):
    return -lam * b * gradient.square().sum((1, 2, 3))


def _filters(out: int, inside: int, seed: int) -> tuple[Tensor, Tensor, float]:
    """A convolution's gradient, masks of both kinds, lambda."""
    dice = torch.Generator().manual_seed(seed)
    b = (torch.arange(out) % 3 > 0).float()
    return torch.randn(out, inside, 2, 2, generator=dice), b, 0.3


IMPLICIT = Exercise(
    id="06.3",
    title="the paper's implicit term",
    reference=implicit,
    cases=lambda: (_filters(4, 3, 0), _filters(5, 5, 1)),
    hints=(
        "Each unit is made by one filter, `gradient[u]`. How large is its gradient, squared?",
        "`gradient.square()` first, then the sum over all axes but the first: `sum((1, 2, 3))`.",
        "Times the mask, times lambda, with a minus in front.",
    ),
    mistakes=(
        Mistake(
            "sign",
            lambda gradient, b, lam: lam * b * gradient.square().sum((1, 2, 3)),
            "yours is positive and would close what still learns; the term holds it open, so it is never positive",
        ),
        Mistake(
            "square of the sum",
            lambda gradient, b, lam: -lam * b * gradient.sum((1, 2, 3)).square(),
            "square first, then add: slopes of opposite sign must not cancel",
        ),
        Mistake(
            "no mask",
            lambda gradient, b, lam: -lam * gradient.square().sum((1, 2, 3)),
            "the mask is missing: a closed unit's filter is not trained, and there is nothing to follow",
        ),
        Mistake(
            "by inputs",
            lambda gradient, b, lam: -lam * b * gradient.square().sum((0, 2, 3)).mean() * torch.ones_like(b),
            "the first axis is what the layer makes: sum over the other three",
        ),
        Mistake(
            "mean",
            lambda gradient, b, lam: -lam * b * gradient.square().mean((1, 2, 3)),
            "a sum over the filter's weights is wanted; the mean depends on how many they are",
        ),
        Mistake(
            "length",
            lambda gradient, b, lam: -lam * b * gradient.flatten(1).norm(dim=1),
            "that is the gradient's length; its square is wanted, one factor from the loss and one from the weights",
        ),
    ),
    alternatives=(
        lambda gradient, b, lam: -lam * b * gradient.flatten(1).norm(dim=1) ** 2,
        lambda gradient, b, lam: torch.einsum("uikl,uikl,u->u", gradient, gradient, -lam * b),
    ),
    note="It costs nothing: the gradient of the weights is there anyway. No second pass, no Hessian.",
)


def exact(mixed, hessian, slope, lam):
    ridge = torch.eye(len(slope), dtype=slope.dtype) / lam
    return -mixed.T @ torch.linalg.solve(hessian + ridge, slope)


def _problem(weights: int, units: int, lam: float, seed: int) -> tuple[Tensor, Tensor, Tensor, float]:
    """d(grad_w L)/ds (W, U), a Hessian (W, W), grad_w L (W,), lambda."""
    dice = torch.Generator().manual_seed(seed)
    root = torch.randn(weights, weights, generator=dice, dtype=torch.float64)
    mixed = torch.randn(weights, units, generator=dice, dtype=torch.float64)
    return mixed, root @ root.T / weights, torch.randn(weights, generator=dice, dtype=torch.float64), lam


def _solved(mixed: Tensor, matrix: Tensor, slope: Tensor) -> Tensor:
    return -mixed.T @ torch.linalg.solve(matrix, slope)


EXACT = Exercise(
    id="06.4",
    title="with the Hessian",
    reference=exact,
    cases=lambda: (_problem(5, 2, 0.5, 0), _problem(4, 4, 3.0, 1)),
    hints=(
        "Start at dw/ds = -(H + I / lambda)^-1 · mixed. The ridge adds 1 / lambda on the diagonal.",
        "The implicit part is its transpose times `slope`. Solve for `slope` once, and no matrix has to be inverted.",
        "`-mixed.T @ torch.linalg.solve(hessian + torch.eye(len(slope), dtype=slope.dtype) / lam, slope)`.",
    ),
    mistakes=(
        Mistake(
            "no ridge",
            lambda mixed, hessian, slope, lam: _solved(mixed, hessian, slope),
            "the ridge is missing: the weights minimise it too, so its second derivative, 1 / lambda, counts",
        ),
        Mistake(
            "lambda for 1 / lambda",
            lambda mixed, hessian, slope, lam: _solved(mixed, hessian + lam * torch.eye(len(slope)), slope),
            "the ridge is |w|^2 / (2 lambda): its second derivative is 1 / lambda",
        ),
        Mistake(
            "half of it",
            lambda mixed, hessian, slope, lam: _solved(mixed, hessian + torch.eye(len(slope)) / (2 * lam), slope),
            "the square's derivative takes the 2 away: 1 / lambda is left, not 1 / (2 lambda)",
        ),
        Mistake(
            "sign",
            lambda mixed, hessian, slope, lam: -exact(mixed, hessian, slope, lam),
            "the weights move AGAINST the change of their gradient: a minus is missing",
        ),
        Mistake(
            "no Hessian",
            lambda mixed, hessian, slope, lam: -lam * mixed.T @ slope,
            "that is the paper's step, the Hessian left out; here it is to stay in",
        ),
        Mistake(
            "everywhere",
            lambda mixed, hessian, slope, lam: _solved(mixed, hessian + 1 / lam, slope),
            "`hessian + 1 / lam` adds to every entry: the ridge stands on the diagonal, so use `torch.eye`",
        ),
    ),
    alternatives=(
        lambda mixed, hessian, slope, lam: (
            -(torch.linalg.inv(hessian + torch.eye(len(slope)).double() / lam) @ mixed).T @ slope
        ),
        lambda mixed, hessian, slope, lam: (
            -lam * mixed.T @ torch.linalg.solve(lam * hessian + torch.eye(len(slope)).double(), slope)
        ),
    ),
    note="W weights need a table of W times W. That is why nobody does this with a real network, and why a "
    "shortcut was looked for.",
)
