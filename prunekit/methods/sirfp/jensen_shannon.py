"""What two maps have in common: r = log 2 - JS(p, q), for all pairs of a layer, exactly or as one matrix product.

Exact. With s = p + q the divergence is three entropies, and each pair costs one logarithm a pixel:

    r = 1/2 (sum s log s - sum p log p - sum q log q)            log 2 for p = q, 0 where the maps never overlap

Spectral (Vedaldi & Zisserman, Efficient Additive Kernels via Explicit Feature Maps, TPAMI 2012). Pixel by pixel r is
a function of the ratio alone, k(p, q) = sqrt(p q) K(log q - log p), and K is the Fourier transform of

    kappa(l) = 2 / log 4 * sech(pi l) / (1 + 4 l^2).

Sampled at l = 0, L, .. n L the integral becomes a sum of products, cos(a - b) = cos a cos b + sin a sin b, so

    psi(p) = sqrt(p) [sqrt(L kappa(0)), sqrt(2 L kappa(jL)) cos(jL log p), sqrt(2 L kappa(jL)) sin(jL log p), ...]

is a vector of 2n + 1 numbers a pixel, and r = log 2 * psi(p) . psi(q): all pairs are one matrix product.

Error bound: sqrt(p q) = (p + q) / 2 * sech(w / 2) with w = log q - log p, and (p + q) / 2 sums to 1 over the map. So
the error of r is at most log 2 * max over w of sech(w / 2) |K(w) - K_n(w)|, whatever the maps.

Legend: U units, P pixels, p_UP: rows of probabilities that sum to 1; L, n: spacing and number of harmonics.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from prunekit.errors import InputError

TILE = 16  # units a side: the logarithms of 16 x 16 pairs at once
MOST = 20  # harmonics: a bound of 7e-7, what float32 can tell apart
TINY = 1e-30  # stands for a probability of 0, which has no logarithm


def exact(p_UP: Tensor, *, budget_bytes: int = 2**22) -> Tensor:
    """r for all pairs of rows, (U, U), exact to rounding. Scratch memory stays within budget_bytes (and some U x U)."""
    units, width = len(p_UP), max(1, budget_bytes // (3 * TILE**2 * p_UP.element_size()))
    mixed_UU = p_UP.new_zeros(units, units)  # sum s log s
    for i in range(0, units, TILE):
        for j in range(i, units, TILE):
            for a_TP, b_TP in zip(p_UP[i : i + TILE].split(width, 1), p_UP[j : j + TILE].split(width, 1), strict=True):
                s_TTP = a_TP.clamp_min(TINY)[:, None] + b_TP
                mixed_UU[i : i + TILE, j : j + TILE] += s_TTP.log().mul_(s_TTP).sum(2)
    own_U = torch.stack([-torch.special.entr(row_P).sum() for row_P in p_UP])
    return _mirrored((mixed_UU - own_U[:, None] - own_U) / 2).clamp_(0, math.log(2))


def spectral(p_UP: Tensor, harmonics: int = 8, *, budget_bytes: int | None = None) -> Tensor:
    """r for all pairs of rows, (U, U), within error_bound(harmonics).

    Scratch memory as for `exact`; left alone, 8 MB, which stay in a processor's cache, or 256 MB on a GPU.
    """
    budget_bytes = budget_bytes or (2**28 if p_UP.is_cuda else 2**23)
    spacing, units = best_spacing(harmonics), len(p_UP)
    weights = [2 * math.log(2) * spacing * _kappa(j * spacing) for j in range(harmonics + 1)]
    r_UU = p_UP.new_zeros(units, units)
    for part_UP in p_UP.split(max(1, budget_bytes // (10 * units * p_UP.element_size())), 1):
        part_UP = part_UP.clamp_min(TINY)
        angle_UP, real_UP = spacing * part_UP.log(), part_UP.sqrt()
        cos_UP, sin_UP, imag_UP = angle_UP.cos(), angle_UP.sin(), torch.zeros_like(real_UP)
        _add_products(r_UU, real_UP, weights[0] / 2)
        for weight in weights[1:]:  # turn sqrt(p) by the angle once more: no further cosine is needed
            real_UP, imag_UP = real_UP * cos_UP - imag_UP * sin_UP, real_UP * sin_UP + imag_UP * cos_UP
            _add_products(r_UU, real_UP, weight)
            _add_products(r_UU, imag_UP, weight)
    return _mirrored(r_UU).clamp_(0, math.log(2))


@lru_cache
def error_bound(harmonics: int) -> float:
    """The largest error of `spectral` in r (nats), for any two maps; rounding comes on top."""
    return _bound(harmonics, best_spacing(harmonics))


@lru_cache
def best_spacing(harmonics: int) -> float:
    """The spacing L with the smallest error bound, to two digits: 0.44 for one harmonic, 0.24 for eight."""
    return min((hundredths / 100 for hundredths in range(10, 60)), key=lambda spacing: _bound(harmonics, spacing))


def harmonics_for(tolerance: float) -> int | None:
    """The fewest harmonics with an error bound of at most `tolerance`; None where only the exact way is that good.

    Raises InputError for a tolerance below 0.
    """
    if not tolerance >= 0:
        raise InputError(f"tolerance is {tolerance}; it is the largest error of r that you accept, 0 or more.")
    return next((n for n in range(1, MOST + 1) if error_bound(n) <= tolerance), None)


def _kappa(frequency: float) -> float:
    return 2 / math.log(4) / math.cosh(math.pi * frequency) / (1 + 4 * frequency**2)


def _bound(harmonics: int, spacing: float) -> float:
    w = torch.linspace(0, 60, 6001, dtype=torch.float64)  # K is even; beyond 60 sech(w / 2) leaves nothing
    true = ((w / 2).exp() * (-w).exp().log1p() + (-w / 2).exp() * w.exp().log1p()) / math.log(4)
    waves = [2 * _kappa(j * spacing) * torch.cos(j * spacing * w) for j in range(1, harmonics + 1)]
    ours = spacing * (_kappa(0) + torch.stack(waves).sum(0))
    margin = 1.001  # for what lies between two points of the grid
    return margin * math.log(2) * float(((ours - true).abs() / torch.cosh(w / 2)).max())


def _add_products(r_UU: Tensor, wave_UP: Tensor, weight: float, rows: int = 128) -> None:
    """r += weight * wave wave^T, the upper triangle only (and what shares a block with it)."""
    for i in range(0, len(r_UU), rows):
        r_UU[i : i + rows, i:].addmm_(wave_UP[i : i + rows], wave_UP[i:].T, alpha=weight)


def _mirrored(upper_UU: Tensor) -> Tensor:
    return upper_UU.triu() + upper_UU.triu(1).T
