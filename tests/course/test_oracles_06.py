"""The references of lesson 06's exercises, against the library, autograd and a problem that is solved on paper."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from prunekit.course.exercises import lesson_06, levels_06
from prunekit.methods.bilevel.cost import Macs, macs_term
from prunekit.methods.bilevel.history import History
from prunekit.methods.bilevel.hypergradient import squared_gradients
from prunekit.methods.bilevel.mask import straight_through
from prunekit.surgery import find_groups


def test_a_mask_feels_what_the_librarys_step_passes_on():
    s_U, threshold, maps_UP, slope_UP = lesson_06._felt(6, 5, 3)
    leaf = s_U.clone().requires_grad_()
    (straight_through(leaf, threshold)[:, None] * maps_UP * slope_UP).sum().backward()
    torch.testing.assert_close(lesson_06.mask_gradient(s_U, threshold, maps_UP, slope_UP), leaf.grad)


def test_the_work_of_a_mask_is_the_librarys():
    net = nn.Sequential(*(nn.Conv2d(a, b, k) for a, b, k in ((3, 8, 3), (8, 6, 3), (6, 2, 1))))
    groups = find_groups(net, torch.randn(1, 3, 8, 8))
    macs, widths = Macs(groups), [3, 5, 4, 2]
    masks = [torch.arange(n) < k for n, k in ((8, 5), (6, 4))]
    answer = lesson_06.regulariser(widths, [3, 3, 1], [36.0, 16.0, 16.0], [3, 8, 6, 2], 4000.0)
    assert answer == pytest.approx(float(macs_term(macs, masks, 4000.0)))


def test_the_implicit_term_is_the_librarys():
    net = nn.Sequential(nn.Conv2d(3, 5, 2), nn.Conv2d(5, 2, 1))
    lam, gradient = 0.3, torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    b_U = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    groups = find_groups(net, torch.randn(1, 3, 6, 6))
    (square_U,) = squared_gradients(groups, {"0.weight": gradient}, [b_U])
    torch.testing.assert_close(levels_06.implicit(gradient, b_U, lam), -lam * square_U)


def test_the_exact_term_is_that_of_a_solved_quadratic():
    """L = (w - Ms)' H (w - Ms) / 2: its best weights with a ridge are known, and what moving s does to the loss."""
    mixed, hessian, _, lam = levels_06._problem(5, 3, 0.7, 4)
    s = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    ridge, pull = torch.eye(5, dtype=torch.float64) / lam, hessian @ mixed

    def loss(w, s):
        away = w - mixed @ s
        return away @ hessian @ away / 2

    best = torch.linalg.solve(hessian + ridge, pull @ s)
    implicit = levels_06.exact(-pull, hessian, hessian @ (best - mixed @ s), lam)
    whole = torch.autograd.functional.jacobian(lambda s: loss(torch.linalg.solve(hessian + ridge, pull @ s), s), s)
    direct = torch.autograd.functional.jacobian(lambda s: loss(best, s), s)
    torch.testing.assert_close(direct + implicit, whole)


def test_who_came_back_is_the_historys():
    dice = torch.Generator().manual_seed(0)
    rows_TU = torch.cat([torch.ones(1, 6, dtype=torch.bool), torch.rand(8, 6, generator=dice) > 0.4])
    history = History({"a": 6})
    for before, after in pairwise(rows_TU):
        history.add(before, after, 0.5, (0.0, 0.0, 0.0))
    assert tuple(lesson_06.returned(rows_TU)) == history.returned()["a"] != ()
