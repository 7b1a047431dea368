"""CHIP (Sui et al., CHIP: CHannel Independence-based Pruning, NeurIPS 2021). What the other channels cannot replace.

    s_i = mean over images of ||A||_* - ||A without row i||_*

Symbols: A = (C, H W), one row a channel, as the next layer reads it; ||.||_* = sum of singular values. Needs: batches;
targets are not looked at. Heads: all d rows of a head at once. Neurons: rows over tokens.

How: the definition asks for C nuclear norms per layer and image. One decomposition A A^T = U diag(sigma^2) U^T gives
them all. From x^(1/2) = (1/pi) int x / (x + t) t^(-1/2) dt and the Sherman-Morrison formula, with t = s^2,

    ||A||_* - ||A without i||_* = -(1/pi) int_0^inf log sum_k U_ik^2 s^2 / (sigma_k^2 + s^2) ds.

In u = log s the integrand is smooth and dies out on both sides, so the plain trapezoidal rule converges geometrically:
step 1/2, 87 nodes, is exact to 1e-8 of the largest singular value. For a head the sum is a d x d matrix, and log
becomes log det.
"""

import math

import torch
from torch import Tensor, nn

from prunekit.core import Groups, Scores
from prunekit.observe import Batches, see_maps


def score(model: nn.Module, groups: Groups, batches: Batches | None = None) -> Scores:
    """How much of the nuclear norm of the feature maps is lost with each unit, (U,).

    batches: (input, target) pairs, all are used. Raises ScoreError without data and for activations that are not
    finite.
    """
    total: dict[str, Tensor] = {name: torch.zeros(group.size).double() for name, group in groups.items()}
    images = dict.fromkeys(groups, 0)

    def see(name: str, x_BUK: Tensor) -> None:
        rows = x_BUK.shape[2] if groups[name].kind in ("head", "head_dim") else 1  # a flattened map is one row
        for x_UK in x_BUK:
            total[name] += independence(x_UK.reshape(len(x_UK), rows, -1)).cpu()
            images[name] += 1

    see_maps(model, groups, batches, see, method="chip")
    return {name: total[name] / images[name] for name in groups}


def independence(rows_UKN: Tensor, *, step: float = 0.5) -> Tensor:
    """||A||_* - ||A without the K rows of unit u||_* for each unit, (U,) float64; A = (U K, N). step: of log s."""
    units, k, n = rows_UKN.shape
    basis, sigma_R = _left_basis(rows_UKN.reshape(-1, n).double())
    top = sigma_R.max()
    if not top > 0:
        return torch.zeros(units, dtype=torch.float64, device=rows_UKN.device)
    basis_UKR = basis.reshape(units, k, -1)
    log_s_T = torch.arange(-23.0, 20.5, step, dtype=torch.float64, device=basis.device)
    s_T, below_T = top * log_s_T.exp(), log_s_T < 0
    inside_RT = s_T**2 / (sigma_R[:, None] ** 2 + s_T**2)
    # past the largest sigma the sum is close to 1, and its log needs the distance from 1
    share_RT = torch.where(below_T, inside_RT, 1 / (1 + (s_T / sigma_R[:, None]) ** 2))
    sum_UKKT = (basis_UKR[:, :, None] * basis_UKR[:, None]) @ share_RT
    if basis.shape[0] > basis.shape[1]:  # the part of each row that the maps never reach
        outside_UKK = torch.eye(k).to(basis) - basis_UKR @ basis_UKR.mT
        sum_UKKT = sum_UKKT + outside_UKK[..., None] * below_T
    value_UTK = _eigenvalues(sum_UKKT.movedim(-1, 1))
    log_UTK = torch.where(below_T[:, None], value_UTK.clamp_min(1e-300).log(), torch.log1p(-value_UTK))
    return -(log_UTK.sum(2) @ s_T) * step / math.pi


def _left_basis(a_CN: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors (C, R) and singular values (R,), R = min(C, N); of a wide matrix by its Gram matrix."""
    if a_CN.shape[0] > a_CN.shape[1]:
        basis, sigma_R, _ = torch.linalg.svd(a_CN, full_matrices=False)
        return basis, sigma_R
    squares_R, basis = torch.linalg.eigh(a_CN @ a_CN.mT)
    return basis, squares_R.clamp_min(0).sqrt()


def _eigenvalues(m_UKK: Tensor) -> Tensor:
    return m_UKK[..., 0] if m_UKK.shape[-1] == 1 else torch.linalg.eigvalsh(m_UKK)
