"""Least-squares repair: after a cut, the layers that read fewer channels get the weights that miss them least.

    W' = argmin sum ||W x - W' x'||^2 + ridge ||W'||^2  =  W G[:, keep] (G[keep, keep] + ridge I)^-1,   G = sum x x^T

x = what the layer read (a one at its end stands for the bias), x' = what is left of it. The layer's own output is
matched, before batch norm, so the norm's statistics stay right. G comes from the ORIGINAL network, one pass for any
number of plans; that earlier layers were cut too is not seen. Sources: Luo et al. (ThiNet, ICCV 2017, Eq. 8, one
factor a channel); He et al. (Channel Pruning, ICCV 2017); EAPruning's weight reconstruction.

Legend: O outputs, C inputs, P kernel positions, D = C P + 1.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from prunekit.core import Groups, PruningPlan
from prunekit.errors import InputError, ScoreError
from prunekit.observe import Batches, grams
from prunekit.observe.grams import readable
from prunekit.observe.maps import layer_of
from prunekit.surgery.cut import kept_positions


def reconstruct(
    model: nn.Module,
    small: nn.Module,
    groups: Groups,
    plan: PruningPlan,
    batches: Batches | None,
    *,
    ridge: float = 1e-6,
    samples: int = 64,
    seed: int = 0,
) -> nn.Module:
    """A copy of `small` in which every layer that lost inputs has its weights (and bias) fitted anew.

    model: the dense network; small: `prune(model, groups, plan)`. batches: (input, target) pairs; samples: outputs
    drawn from each image; in all they should be several times D. ridge: relative to the mean square of the inputs,
    keeps the solution small where inputs are few or alike. Warns, naming layers, where samples are fewer than the
    unknowns: there the ridge alone decides. Layers that `readable` refuses (grouped convolutions) stay
    as they are cut. Raises PlanError for a foreign plan, ScoreError without data or for inputs that are not finite,
    InputError for a negative ridge.
    """
    kept = kept_positions(groups, plan)
    lost = [tensor for tensor, axes in kept.items() if 1 in axes and readable(layer_of(model, tensor))]
    moments = grams(model, groups, lost, batches, method="reconstruct", samples=samples, seed=seed)
    fitted, few = copy.deepcopy(small), []
    parameters = dict(fitted.named_parameters())  # by name: a small model may be a graph without layer objects
    for tensor in lost:
        old, weight = layer_of(model, tensor), parameters[tensor]
        assert isinstance(old, (nn.Linear, nn.Conv2d))
        outputs = kept[tensor].get(0, torch.arange(len(old.weight)))
        weight_OD, positions = with_bias(old)[outputs], old.weight[0, 0].numel()
        inputs = (kept[tensor][1][:, None] * positions + torch.arange(positions)).flatten()
        if old.bias is not None:
            inputs = torch.cat([inputs, torch.tensor([weight_OD.shape[1] - 1])])
        if (seen := round(float(moments[tensor][-1, -1]))) < len(inputs):
            few.append(f"'{tensor}' ({seen} samples, {len(inputs)} unknowns)")
        found_OD = fit(weight_OD, moments[tensor], inputs, ridge=ridge, name=f"'{tensor}'")
        with torch.no_grad():
            weight.copy_(found_OD[:, : weight[0].numel()].reshape(weight.shape))
            if old.bias is not None:
                parameters[f"{tensor.removesuffix('.weight')}.bias"].copy_(found_OD[:, -1])
    if few:
        more = f" and {len(few) - 3} more" if len(few) > 3 else ""
        warnings.warn(
            f"reconstruct: fewer samples than unknowns in {', '.join(few[:3])}{more}: give more images or samples.",
            RuntimeWarning,
            stacklevel=2,
        )
    return fitted


def fit(weight_OD: Tensor, gram_DD: Tensor, keep: Tensor, *, ridge: float = 1e-6, name: str = "a layer") -> Tensor:
    """W' (O, len(keep)) float64: what comes nearest to W x from the inputs x[keep] alone, in the least-squares sense.

    weight_OD: over all D inputs of `gram_DD`, a bias in the last column (0 when there is none). name:
    whose inputs these are, for the message. Raises InputError for a negative ridge, ScoreError when it is too small.
    """
    if ridge < 0:
        raise InputError(f"ridge is {ridge}; it must not be negative.")
    left_KK, right_KO = gram_DD[keep][:, keep], gram_DD[keep] @ weight_OD.double().cpu().T
    weight = ridge * gram_DD.diagonal().mean() + 1e-300
    factor, failed = torch.linalg.cholesky_ex(left_KK + weight * torch.eye(len(keep), dtype=torch.float64))
    if failed:
        raise ScoreError(
            f"the inputs that {name} keeps depend on each other to rounding; give a larger ridge, such as 1e-6."
        )
    return torch.cholesky_solve(right_KO, factor).T


def solvable(gram_DD: Tensor, *, condition: float = 1e8, name: str = "a layer") -> tuple[Tensor, float, float]:
    """The Cholesky factor of G + ridge I, the ridge, and the condition number that G alone has (inf: singular).

    gram_DD: float64. The ridge is 0 where G is well conditioned, else its largest eigenvalue divided by `condition`, so
    that the condition number of what is factored is at most that; ten times as much, and again, where rounding eats it.
    That holds for every choice of inputs too: eigenvalues of a principal submatrix lie between those of the whole
    (Cauchy's interlacing). Both ends are estimated by power iterations, the lower one through the factor; they cost
    little beside it. name: whose inputs these are, for the message. Raises InputError for a `condition` that float64
    cannot tell, ScoreError when no ridge helps (nan, inf).
    """
    if not 1 < condition <= 1e14:
        raise InputError(f"condition is {condition}; give a number above 1 and up to 1e14 (float64), such as 1e8.")
    largest = _top(lambda v_D: gram_DD @ v_D, len(gram_DD))
    factor_DD, failed = torch.linalg.cholesky_ex(gram_DD)
    found = float("inf")
    if not failed:
        inverse = _top(lambda v_D: torch.cholesky_solve(v_D[:, None], factor_DD)[:, 0], len(gram_DD))
        found = largest * inverse
    if found <= condition:
        return factor_DD, 0.0, found
    ridge = largest / condition if largest > 0 else 1.0
    for _ in range(16):
        shifted_DD = gram_DD.clone()
        shifted_DD.diagonal().add_(ridge)
        factor_DD, failed = torch.linalg.cholesky_ex(shifted_DD)
        if not failed:
            return factor_DD, ridge, found
        ridge *= 10
    raise ScoreError(
        f"the Gram matrix of what {name} reads cannot be factored with any ridge: does that hold nan or inf?"
    )


def _top(times: Callable[[Tensor], Tensor], size: int, steps: int = 30) -> float:
    """The largest eigenvalue of a symmetric positive operator, from below, usually to a percent or two."""
    v_D = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value = 0.0
    for _ in range(steps):
        v_D = times(v_D / v_D.norm())
        value = float(v_D.norm())
        if not 0 < value < float("inf"):
            break
    return value


def error(weight_OD: Tensor, other_OD: Tensor, gram_DD: Tensor) -> float:
    """sum ||W x - W' x||^2 / sum ||W x||^2 over the samples of `gram_DD`: 0 = the same outputs, 1 = as good as zero."""
    weight_OD, other_OD = weight_OD.double().cpu(), other_OD.double().cpu()
    gap_OD = weight_OD - other_OD
    return float(((gap_OD @ gram_DD) * gap_OD).sum() / ((weight_OD @ gram_DD) * weight_OD).sum())


def with_bias(layer: nn.Linear | nn.Conv2d) -> Tensor:
    """(O, D) float64: the weights, and the bias (or 0) as the column of the one."""
    weight_OD = layer.weight.detach().flatten(1).double().cpu()
    bias_O = layer.bias.detach().double().cpu() if layer.bias is not None else torch.zeros(len(weight_OD)).double()
    return torch.cat([weight_OD, bias_O[:, None]], 1)
