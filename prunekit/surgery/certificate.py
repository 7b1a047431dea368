"""check_equivalence: the certificate that a cut was exact.

The small model must compute what the original computes when nobody reads the removed units. Both run in float64, so
that rounding (1e-15) and mistakes (anything else) are far apart, and with batch-norm statistics and affines drawn at
random, because freshly made layers (scale 1, shift 0, mean 0) hide most mistakes. A control shows that the check
could have failed: the unmasked original must differ.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils import _pytree as pytree

from prunekit.core import Groups, PruningPlan
from prunekit.errors import CertificateError
from prunekit.surgery.cut import kept_positions, mask, prune, take
from prunekit.surgery.trace import (
    all_names,
    as_call,
    check_inputs,
    check_kind,
    first_names,
    plain_attention,
    tensors_of,
    training_mode,
)

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Certificate:
    """What was compared and how far apart it was.

    max_error: largest difference of any output, relative to the largest output, masked original against small model.
    control: the same between the original with and without its removed units; near 0 would mean a blind check.
    tensors: how many tensors of the small model were compared with their source, number by number.
    inexact: pruned groups whose removal changes the statistics of a LayerNorm or GroupNorm; no masking can equal
    that, so they are named and left out of the comparison of outputs.
    """

    max_error: float
    control: float
    tolerance: float
    tensors: int
    inexact: tuple[str, ...] = ()

    def __str__(self) -> str:
        compared = (
            f"masked == pruned to {self.max_error:.0e} in float64 (limit {self.tolerance:.0e}), "
            f"control differs by {self.control:.0e}; "
        )
        if self.inexact and not self.control:
            compared = ""  # nothing exact was cut: there are no outputs to compare
        text = f"certificate: {compared}{self.tensors} tensors equal their source"
        return text + (f"; not exact by nature: {', '.join(self.inexact)}" if self.inexact else "")


def check_equivalence(
    model: nn.Module,
    small: nn.Module,
    groups: Groups,
    plan: PruningPlan,
    x: Any,
    *,
    tolerance: float = 1e-9,
    seed: int = 0,
) -> Certificate:
    """Prove that `small` is `model` without the units that `plan` removes; raises CertificateError when it is not.

    x: an example input, as for find_groups. Call it before fine-tuning: it also compares every surviving weight with
    its source. Neither model is changed.
    """
    for given in (model, small):
        check_kind(given)
    check_inputs(model, x)
    tensors = _compare_tensors(model, small, groups, plan)
    inexact = tuple(n for n, k in plan.keep.items() if not groups[n].exact and len(k) < groups[n].size)
    noisy = _randomised(model, x, seed)
    exact = PruningPlan(plan.sizes, {n: k for n, k in plan.keep.items() if n not in inexact}, plan.note)
    candidate = prune(noisy, groups, exact) if inexact else _loaded(small, noisy, groups, plan)
    expected, got = _outputs(mask(noisy, groups, exact), x), _outputs(candidate, x)
    error = _difference(expected, got)
    removes = any(len(k) < groups[n].size for n, k in exact.keep.items())
    control = _difference(_outputs(noisy, x), expected) if removes else 0.0
    if removes and not control > tolerance:
        raise CertificateError(
            f"the check is blind: removing units changes this model's output by only {control:.1e}. "
            "Are the layers around them zero, or is the example input constant?"
        )
    if not error <= tolerance:
        raise CertificateError(
            f"pruned and masked outputs differ by {error:.1e} of the largest output, more than {tolerance:.0e}: a "
            "channel is read that the groups do not know about, or the code takes another way at another width. Please "
            "report the model; freeze the layers meanwhile."
        )
    return Certificate(error, control, tolerance, tensors, inexact)


def _compare_tensors(model: nn.Module, small: nn.Module, groups: Groups, plan: PruningPlan) -> int:
    kept, cut, saved = kept_positions(groups, plan), all_names(small), model.state_dict()
    for name, source in tensors_of(model).items():
        if name not in cut and name not in saved:
            continue  # a table that only the class makes, and its graph does not read
        expected = take(source, kept.get(name, {}))
        if name not in cut or cut[name].shape != expected.shape:
            have = tuple(cut[name].shape) if name in cut else "missing"
            raise CertificateError(
                f"'{name}' should be {tuple(expected.shape)} after this plan, it is {have}: "
                "was the small model made by another plan?"
            )
        if not torch.equal(cut[name], expected.to(cut[name].device)):
            raise CertificateError(
                f"'{name}' does not hold the kept weights of the original: check before fine-tuning, "
                "or was the small model made by another plan?"
            )
    return len(groups.shapes)


def _loaded(small: nn.Module, noisy: nn.Module, groups: Groups, plan: PruningPlan) -> nn.Module:
    """The small model itself, in float64, with its share of the randomised weights."""
    kept = kept_positions(groups, plan)
    candidate = _double(small)
    first = first_names(noisy)
    state = noisy.state_dict().items()  # which may hold more than tensors
    candidate.load_state_dict({n: take(t, kept.get(first[n], {})) if n in first else t for n, t in state})
    return candidate


def _double(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double()


def _randomised(model: nn.Module, x: Any, seed: int) -> nn.Module:
    """A float64 copy with random norm affines, and batch-norm statistics that fit its activations, then disturbed.

    Parameters that are constant (a head made of zeros, a layer scale of 1e-6) are drawn at random too. Statistics that
    fit keep the signal alive through a hundred layers; the disturbance makes every channel different.
    """
    noisy = _double(model)
    draw = torch.Generator().manual_seed(seed)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return (torch.rand(like.shape, generator=draw, dtype=torch.float64) * (high - low) + low).to(like.device)

    def calibrate(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        x_BC = args[0].detach().transpose(0, 1).flatten(1)
        spread = x_BC.var(1, unbiased=False)
        spread = torch.where(spread > 1e-12, spread, torch.ones_like(spread))
        norm.running_mean.copy_(x_BC.mean(1) + spread.sqrt() * uniform(spread, -0.5, 0.5))  # type: ignore[operator,union-attr]
        norm.running_var.copy_(spread * uniform(spread, 0.5, 1.5))  # type: ignore[operator,union-attr]

    hooks = []
    with torch.no_grad():
        for weight in noisy.parameters():
            if weight.numel() > 1 and weight.is_floating_point() and weight.min() == weight.max():
                weight.copy_(uniform(weight, -1, 1) / weight[0].numel() ** 0.5)
        for module in noisy.modules():
            if isinstance(module, _NORMS) and isinstance(module.weight, Tensor):
                module.weight.copy_(uniform(module.weight, 0.5, 1.5))
                if isinstance(getattr(module, "bias", None), Tensor):
                    module.bias.copy_(uniform(module.bias, -0.5, 0.5))  # type: ignore[union-attr,arg-type]
            if isinstance(module, _NormBase) and module.running_mean is not None:
                hooks.append(module.register_forward_pre_hook(calibrate))
        _outputs(noisy, x)
    for hook in hooks:
        hook.remove()
    return noisy


def _outputs(model: nn.Module, x: Any) -> list[Tensor]:
    args, kwargs = as_call(pytree.tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, x))
    with training_mode(model, False), plain_attention(), torch.no_grad():
        try:
            outputs = model(*args, **kwargs)
        except (RuntimeError, ValueError, TypeError, IndexError) as err:
            raise CertificateError(
                f"{type(model).__name__} does not run in float64 on this input ({type(err).__name__}: "
                f"{str(err).splitlines()[0] if str(err) else ''}): is the input of the shape the groups were found "
                "with, or does its code make float32 tensors itself? Make them with dtype=x.dtype."
            ) from err
    return [t for t in pytree.tree_leaves(outputs) if isinstance(t, Tensor)]


def _difference(first: list[Tensor], second: list[Tensor]) -> float:
    """Largest difference relative to the largest value, over all outputs; inf when shapes or finiteness differ."""
    worst = 0.0
    for a, b in zip(first, second, strict=True):
        if a.shape != b.shape or not (torch.isfinite(a).all() and torch.isfinite(b).all()):
            return float("inf")
        worst = max(worst, float((a - b).abs().max() / a.abs().max().clamp_min(1e-300)))
    return worst
