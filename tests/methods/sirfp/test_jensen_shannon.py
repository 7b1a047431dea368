"""r = log 2 - JS: scipy's distance as the oracle, the spectral error below its bound, memory within the budget."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from prunekit.errors import InputError
from prunekit.methods.sirfp.jensen_shannon import best_spacing, error_bound, exact, harmonics_for, spectral
from prunekit.profiling import _LiveBytes


def maps(units: int = 20, pixels: int = 300, spread: float = 1.5) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return (spread * torch.randn(units, pixels, generator=draw, dtype=torch.float64)).softmax(1)


def oracle(p_UP: Tensor) -> Tensor:
    distances = [[jensenshannon(p.numpy(), q.numpy()) ** 2 for q in p_UP] for p in p_UP]
    return math.log(2) - torch.tensor(distances, dtype=torch.float64)


@pytest.mark.parametrize("units", [1, 16, 20, 33])
def test_exact_is_scipys(units: int) -> None:
    p_UP = maps(units)
    torch.testing.assert_close(exact(p_UP), oracle(p_UP), rtol=0, atol=1e-9)
    torch.testing.assert_close(exact(p_UP.float()).double(), oracle(p_UP), rtol=0, atol=1e-5)
    torch.testing.assert_close(exact(p_UP, budget_bytes=1), exact(p_UP), rtol=0, atol=1e-12)


def test_extreme_maps() -> None:
    one, other = torch.eye(4, 50).double()[:2]
    uniform = torch.full((50,), 0.02, dtype=torch.float64)
    p_UP = torch.stack([one, one, other, uniform])
    r_UU = exact(p_UP)
    torch.testing.assert_close(r_UU, oracle(p_UP), rtol=0, atol=1e-12)
    assert r_UU[0, 1] == pytest.approx(math.log(2)) and r_UU[0, 2] == 0
    torch.testing.assert_close(spectral(p_UP), r_UU, rtol=0, atol=error_bound(8))


@pytest.mark.parametrize("harmonics", [1, 3, 5, 8, 12, 20])
def test_the_spectral_error_stays_below_its_bound(harmonics: int) -> None:
    for spread in (0.1, 1.5, 6.0):
        p_UP = maps(spread=spread)
        assert float((spectral(p_UP, harmonics) - exact(p_UP)).abs().max()) <= error_bound(harmonics)


def test_the_bound_is_nearly_reached() -> None:
    """Two pixels, (t, 1 - t) against (1 - t, t): one ratio everywhere, so the worst ratio shows the whole bound."""
    for harmonics in (1, 3, 5):
        worst = 0.0
        for t in torch.linspace(0.01, 0.5, 200).tolist():
            p_UP = torch.tensor([[t, 1 - t], [1 - t, t]], dtype=torch.float64)
            worst = max(worst, float((spectral(p_UP, harmonics) - exact(p_UP)).abs().max()))
        assert 0.5 * error_bound(harmonics) < worst <= error_bound(harmonics)


def test_more_harmonics_are_better_and_the_tolerance_chooses() -> None:
    bounds = [error_bound(n) for n in range(1, 21)]
    assert bounds == sorted(bounds, reverse=True) and bounds[7] < 2e-4 and bounds[-1] < 1e-6
    assert best_spacing(8) == pytest.approx(0.24, abs=0.02)
    for tolerance in (1e-1, 1e-3, 2e-4, 1e-6):
        n = harmonics_for(tolerance)
        assert n is not None and error_bound(n) <= tolerance and (n == 1 or error_bound(n - 1) > tolerance)
    assert harmonics_for(0.0) is None and harmonics_for(1e-9) is None


@pytest.mark.parametrize("way", [exact, spectral])
def test_scratch_memory_stays_within_the_budget(way) -> None:
    p_UP = maps(48, 4000).float()
    square = p_UP.shape[0] ** 2 * 4
    peaks = {}
    for budget in (10**5, 10**6):
        with _LiveBytes([p_UP]) as live:
            way(p_UP, budget_bytes=budget)
        peaks[budget] = live.peak
        assert live.peak <= budget + 8 * square
    assert peaks[10**6] > 2 * peaks[10**5]  # the budget is used, and the meter sees it
    assert peaks[10**5] < p_UP.numel() * 4  # less than one more copy of the maps


@pytest.mark.parametrize("tolerance", [-1.0, float("nan")])
def test_a_tolerance_below_zero_is_refused(tolerance: float) -> None:
    with pytest.raises(InputError, match="the largest error of r that you accept"):
        harmonics_for(tolerance)
