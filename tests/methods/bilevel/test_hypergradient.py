"""The implicit term against the exact hypergradient of a small problem, three ways: the full Hessian, unrolled descent,
and finite differences of the solved lower problem."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from prunekit.gates import Gated
from prunekit.methods.bilevel.hypergradient import Balance, Terms, root_mean_square, squared_gradients
from prunekit.surgery import find_groups

dice = torch.Generator().manual_seed(0)
X = torch.randn(64, 4, generator=dice, dtype=torch.float64)
Y = (X[:, :1].sin() + X[:, 1:2] * X[:, 2:3].tanh()).detach()
START = torch.tensor([1.0, 0.6, 1.2, 0.8, 1.0, 0.5], dtype=torch.float64)


class Lower:
    """w*(s) of a 4-6-1 network: full-batch squares plus the ridge, solved by L-BFGS. readers: False = only the weights
    that make the units learn, those that read them are fixed."""

    def __init__(self, lam: float = 20.0, *, readers: bool = True) -> None:
        torch.manual_seed(3)
        self.lam = lam
        self.net = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Tanh(), nn.Linear(6, 1, bias=False)).double()
        self.groups = find_groups(self.net, X[:1])
        self.gated = Gated(self.net, self.groups)
        self.shapes = {n: p.shape for n, p in self.net.named_parameters() if readers or n == "0.weight"}
        self.first = torch.cat([self.net.get_parameter(n).detach().flatten() for n in self.shapes])

    def loss(self, w: Tensor, s_U: Tensor) -> Tensor:
        parts = w.split([shape.numel() for shape in self.shapes.values()])
        weights = {f"model.{n}": p.view(shape) for (n, shape), p in zip(self.shapes.items(), parts, strict=True)}
        return (functional_call(self.gated, {**weights, "gates.0": s_U}, (X,)) - Y).square().mean()

    def ridged(self, w: Tensor, s_U: Tensor) -> Tensor:
        return self.loss(w, s_U) + w.square().sum() / (2 * self.lam)

    def solve(self, s_U: Tensor, start: Tensor | None = None) -> Tensor:
        w = self.first.clone().requires_grad_() if start is None else start.clone().requires_grad_()
        search = torch.optim.LBFGS(
            [w], max_iter=3000, tolerance_grad=1e-12, tolerance_change=0, history_size=40, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            search.zero_grad()
            value = self.ridged(w, s_U)
            value.backward()
            return value

        search.step(closure)
        return w.detach()

    def gradients(self, w: Tensor, s_U: Tensor) -> tuple[Tensor, Tensor]:
        w, s_U = w.detach().requires_grad_(), s_U.detach().requires_grad_()
        return torch.autograd.grad(self.loss(w, s_U), (w, s_U))

    def exact(self, w: Tensor, s_U: Tensor) -> Tensor:
        """The implicit part with the full Hessian: -(d2L/dsdw) (H + I/lambda)^-1 dL/dw."""
        slope_w, _ = self.gradients(w, s_U)
        hessian = torch.autograd.functional.hessian(lambda v: self.ridged(v, s_U), w)
        leaf = s_U.detach().requires_grad_()
        point = w.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.loss(point, leaf), point, create_graph=True)
        mixed_WU = torch.stack([torch.autograd.grad(v, leaf, retain_graph=True)[0] for v in slope])
        return -mixed_WU.T @ torch.linalg.solve(hessian, slope_w)

    def approximate(self, w: Tensor, s_U: Tensor) -> Tensor:
        slope_w, _ = self.gradients(w, s_U)
        parts = slope_w.split([shape.numel() for shape in self.shapes.values()])
        named = {n: p.view(shape) for (n, shape), p in zip(self.shapes.items(), parts, strict=True)}
        return (
            -self.lam * squared_gradients(self.groups, named, [torch.ones_like(s_U)])[0] / s_U
        )  # dL/dw carries s: b = s


@pytest.fixture(scope="module")
def solved() -> tuple[Lower, Tensor]:
    lower = Lower()
    w = lower.solve(START)
    slope_w, _ = lower.gradients(w, START)
    torch.testing.assert_close(w, -lower.lam * slope_w, rtol=1e-5, atol=1e-7)  # stationary
    return lower, w


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def test_the_exact_hypergradient_is_what_moving_s_and_solving_again_gives(solved) -> None:
    lower, w = solved
    exact = lower.gradients(w, START)[1] + lower.exact(w, START)
    for unit in range(6):
        step = torch.zeros(6, dtype=torch.float64)
        step[unit] = 1e-4
        ends = [lower.loss(lower.solve(START + sign * step, w), START + sign * step) for sign in (1, -1)]
        assert float((ends[0] - ends[1]) / 2e-4) == pytest.approx(float(exact[unit]), rel=1e-2, abs=1e-6)


def test_unrolled_descent_comes_to_the_same(solved) -> None:
    lower, w = solved
    s_U, v = START.clone().requires_grad_(), w.clone()
    for _ in range(1500):
        v = v.requires_grad_() if not v.requires_grad else v
        (slope,) = torch.autograd.grad(lower.ridged(v, s_U), v, create_graph=True)
        v = v - 0.3 * slope
    (unrolled,) = torch.autograd.grad(lower.loss(v, s_U), s_U)
    exact = lower.gradients(w, START)[1] + lower.exact(w, START)
    assert cosine(unrolled, exact) > 0.99


def test_the_papers_total_points_the_same_way_though_its_implicit_term_does_not(solved, capsys) -> None:
    lower, w = solved
    direct, exact, ours = lower.gradients(w, START)[1], lower.exact(w, START), lower.approximate(w, START)
    total, guess = direct + exact, direct + ours
    agree = float((total.sign() == guess.sign()).double().mean())
    with capsys.disabled():
        print(f"\ncosine of the implicit terms {cosine(exact, ours):.2f}, of the totals {cosine(total, guess):.2f}, ")
        print(f"signs that agree {agree:.0%}, sizes exact {exact.norm():.1e}, approximate {ours.norm():.1e}")
    assert (ours <= 0).all() and agree >= 0.5 and cosine(total, guess) > 0.2
    # where the Hessian outweighs 1 / lambda, w* undoes what s does, and the term alone points the other way
    assert cosine(exact, ours) < 0


def test_the_paper_leaves_the_hessian_out_so_it_is_right_for_a_strong_ridge_only(capsys) -> None:
    found = {}
    for lam in (0.01, 1.0, 100.0):
        lower = Lower(lam, readers=False)
        w = lower.solve(START)
        found[lam] = cosine(lower.exact(w, START), lower.approximate(w, START))
    with capsys.disabled():
        print("\ncosine of the implicit terms by lambda:", {lam: round(c, 3) for lam, c in found.items()})
    assert found[0.01] > 0.99 and found[100.0] < found[1.0] < found[0.01]


def test_without_a_hessian_direct_and_implicit_agree_at_the_optimum() -> None:
    """Linear units, no tanh: s dL/ds = w . dL/dw = -lambda |dL/dw|^2 over the weights that make the unit."""
    lower = Lower()
    lower.net[1] = nn.Identity()
    w = lower.solve(START)
    direct = lower.gradients(w, START)[1]
    torch.testing.assert_close(direct, lower.approximate(w, START), rtol=1e-4, atol=1e-8)
    far = w + 0.3  # and away from the optimum it is not so
    assert not torch.allclose(lower.gradients(far, START)[1], lower.approximate(far, START), rtol=0.5)


def test_squares_are_summed_over_all_that_makes_a_unit_and_only_where_it_is_open() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.c(x + self.b(x))

    net = Residual()
    groups = find_groups(net, torch.randn(1, 3, 4, 4))
    assert len(groups) == 1
    gradients = {name: torch.randn_like(p) for name, p in net.named_parameters()}
    open_U = torch.tensor([1.0, 0.0, 1.0, 1.0])
    (found_U,) = squared_gradients(groups, gradients, [open_U])
    for unit in range(4):
        by_hand = sum(gradients[f"{n}.weight"][unit].square().sum() for n in "ab") * open_U[unit]
        torch.testing.assert_close(found_U[unit], by_hand)
    (without_U,) = squared_gradients(groups, {**gradients, "a.weight": None}, [open_U])
    assert (without_U[[0, 2, 3]] < found_U[[0, 2, 3]]).all()


def test_balance_makes_lambda_and_beta_free_of_scale() -> None:
    direct, squares, slope = [torch.randn(9)], [torch.rand(9)], [torch.rand(9) * 1e-3]
    sizes = []
    for scale in (1.0, 1e4):
        balance = Balance()
        balance.see([scale * direct[0]], [scale**2 * squares[0]])
        lam, beta = balance.lam(1.0), balance.beta(25.0, 0.01**2, slope)
        terms = Terms((scale * direct[0],), (beta * slope[0],), (-lam * scale**2 * squares[0],))
        sizes.append([size / scale for size in terms.sizes()])
        assert torch.equal(terms.total()[0], terms.direct[0] + terms.macs[0] + terms.implicit[0])
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-4)
    size = root_mean_square(direct)
    assert sizes[0] == pytest.approx([size, 2 * 25 * 0.01 * size, size], rel=1e-4)
    assert Balance().lam(1.0) == 0.0 and Balance(direct=1.0).beta(25.0, 0.5**2, [torch.ones(3)]) == 2.0  # the limit
