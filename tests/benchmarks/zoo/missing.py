"""Arithmetic in which NaN means "this value is not there": the reference that pruned models are compared with.

Run a network whose removed weights are NaN inside `Missing()`. Elementwise ops carry the gap along by themselves. What
adds values up must skip gaps instead: a product sums over the pairs that are there, a mean or a LayerNorm counts what
is there, and a result is missing only when nothing was there to add. So the dense network, in its own coordinates and
with its own code, computes what is left of it; nothing here knows of layers, groups or indices.

A product in which one factor is there and its partner is missing raises Misaligned: a layer reads a channel that its
producer lost, or lost one that is still made. Undecidable: gaps inside a map (a convolution that runs over channels).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
SHORT = (torch.float32, torch.float16, torch.bfloat16)

# Ops that keep to positions, move them, or look around in space only: NaN passes through them rightly by itself.
# Anything else without a rule that meets a gap is remembered as suspect.
FAITHFUL = frozenset(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _native_batch_norm_legit_no_training _prelu_kernel _reshape_alias
    _to_copy _unsafe_view abs adaptive_max_pool2d add addcmul alias as_strided avg_pool2d avg_pool3d cat ceil
    celu clamp clamp_max clamp_min clone col2im copy cos detach diagonal div elu empty_like eq erf exp expand
    fill flip floor full_like gather ge gelu grid_sampler_2d gt hardsigmoid hardswish hardtanh im2col index
    index_select isnan le leaky_relu lift_fresh log log_sigmoid_forward lt masked_fill max_pool2d_with_indices
    maximum minimum mish mul ne neg new_empty new_ones new_zeros ones_like permute pixel_shuffle pixel_unshuffle
    pow reciprocal reflection_pad2d relu remainder repeat replication_pad2d roll rsqrt rsub scatter select
    sigmoid sign silu sin slice slice_scatter softplus split split_with_sizes sqrt square squeeze stack sub t
    tanh transpose tril triu unbind unfold unsafe_split unsqueeze upsample_bicubic2d upsample_bilinear2d
    upsample_linear1d upsample_nearest2d view where zeros_like
    """.split()
)


class Misaligned(Exception):
    """A layer and what it reads do not agree on which channels are left."""


class Undecidable(Exception):
    """Missing values met an op that this arithmetic has no rule for."""


class Double(TorchDispatchMode):
    """Whatever number type the code asks for, it gets float64: rounding and mistakes are then far apart."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._assert_tensor_metadata.default:
            return None
        args, kwargs = pytree.tree_map_only(torch.dtype, _wide, (args, kwargs or {}))
        return self.run(func, args, kwargs)

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        return func(*args, **kwargs)


class Missing(Double):
    """The mode. suspects: ops without a rule that met missing values."""

    def __init__(self) -> None:
        super().__init__()
        self.suspects: set[str] = set()

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        tensors = (t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.is_floating_point())
        if name in FAITHFUL or not any(bool(t.isnan().any()) for t in tensors):
            return func(*args, **kwargs)
        if name in RULES:
            return RULES[name](func, *args, **kwargs)
        self.suspects.add(name)
        return func(*args, **kwargs)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype in SHORT else dtype


def contract(product: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, counted: Any = None) -> Tensor:
    """A bilinear op over the pairs that are there. counted: a cheaper (op, a, b) that shows the same gaps."""
    out = product(a.nan_to_num(), b.nan_to_num())
    count, u, v = counted or (product, a, b)
    u, v = (~u.isnan()).float(), (~v.isnan()).float()
    pairs, left, right = count(u, v), count(u, torch.ones_like(v)), count(torch.ones_like(u), v)
    gone = (left == 0) | (right == 0)
    if bool((~gone & ((pairs != left) | (pairs != right))).any()):
        raise Misaligned("reads channels that were removed, or lost some that are still made")
    return torch.where(gone, torch.nan, out)


def _product(func: Any, a: Tensor, b: Tensor) -> Tensor:
    """a @ b. Where all rows of a (columns of b) have the same gaps, one is enough to count the pairs."""
    row, column = a[..., :1, :], b[..., :, :1]
    few_a = row if bool((a.isnan() == row.isnan()).all()) else a
    few_b = column if bool((b.isnan() == column.isnan()).all()) else b
    return contract(func, a, b, (func, few_a, few_b))


def _added(func: Any, bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return beta * bias + alpha * _product(aten.mm.default if a.dim() == 2 else aten.bmm.default, a, b)


def _convolution(func: Any, x: Tensor, w: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
    """Gaps are whole maps and whole kernels, so the pairs are counted on 1 x 1 maps."""
    stride, pad, dilation, turned, out_pad, groups = how
    one, none = [1] * len(stride), [0] * len(stride)

    def count(x: Tensor, w: Tensor) -> Tensor:
        return func(x, w, None, one, none, one, turned, none, groups)

    out = contract(lambda x, w: func(x, w, None, *how), x, w, (count, _maps(x), _maps(w)))
    return out if bias is None else out + bias.view(-1, *one)


def _maps(x: Tensor) -> Tensor:
    """(B, C, ...) -> (B, C, 1, ...): NaN where a whole map is missing."""
    gap = x.isnan().flatten(2)
    if bool((gap.any(2) != gap.all(2)).any()):
        raise Undecidable("a convolution over positions of which some are missing")
    return x.flatten(2)[:, :, 0].reshape(*x.shape[:2], *[1] * (x.dim() - 2))


def _reduction(fill: float) -> Callable[..., Any]:
    """sum, amax, ...: gaps become the value that changes nothing; NaN where there is nothing at all."""

    def rule(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        out = func(x.masked_fill(x.isnan(), fill), *args, **kwargs)
        dim, keep, _ = _axes(func, x, args, kwargs)
        first, *rest = out if isinstance(out, tuple) else (out,)
        first = torch.where(_empty(x, dim, keep), torch.nan, first)
        return (first, *rest) if rest else first

    return rule


def _mean(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    dim, keep, _ = _axes(func, x, args, kwargs)
    return x.nanmean(dim, keepdim=keep)


def _spread(root: bool, with_mean: bool) -> Callable[..., Any]:
    """var, std, and the two together with the mean."""

    def rule(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        dim, keep, correction = _axes(func, x, args, kwargs)
        mean, var = (m if keep else m.amax(dim) for m in _moments(x, dim, correction))
        out = var.sqrt() if root else var
        return (out, mean) if with_mean else out

    return rule


def _axes(func: Any, x: Tensor, args: Any, kwargs: Any) -> tuple[list[int], bool, float]:
    """The axes that a reduction goes over, whether it keeps them, and what it takes off the count."""
    given = {**dict(zip([a.name for a in func._schema.arguments][1:], args)), **kwargs}
    dim = given.get("dim")
    dim = list(range(x.dim())) if dim is None or dim == [] else [dim] if isinstance(dim, int) else list(dim)
    correction = given.get("correction", given.get("unbiased", 1))
    return [d % x.dim() for d in dim], bool(given.get("keepdim", False)), 1 if correction is None else float(correction)


def _empty(x: Tensor, dim: list[int], keep: bool) -> Tensor:
    return (~x.isnan()).sum(dim, keepdim=keep) == 0


def _moments(x: Tensor, dim: Any, correction: float = 0) -> tuple[Tensor, Tensor]:
    """Mean and variance of what is there over `dim`, which stay as axes of length 1; NaN where nothing is."""
    count = (~x.isnan()).sum(dim, keepdim=True).to(x.dtype)
    mean = x.nanmean(dim, keepdim=True)
    var = (x - mean).square().nansum(dim, keepdim=True) / (count - correction)
    return mean, torch.where(count == 0, torch.nan, var)


def _softmax(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return torch.where(x.isnan(), torch.nan, func(x.masked_fill(x.isnan(), -math.inf), *args, **kwargs))


def _layer_norm(func: Any, x: Tensor, shape: Any, w: Tensor | None, b: Tensor | None, eps: float) -> Any:
    mean, var = _moments(x, list(range(-len(shape), 0)))
    return _affine((x - mean) / (var + eps).sqrt(), w, b), mean, (var + eps).rsqrt()


def _rms_norm(func: Any, x: Tensor, shape: Any, w: Tensor | None, eps: float | None) -> Any:
    scale = (x.square().nanmean(list(range(-len(shape), 0)), keepdim=True) + (eps or 2.3e-16)).rsqrt()
    return _affine(x * scale, w, None), scale


def _group_norm(func: Any, x: Tensor, w: Any, b: Any, n: int, c: int, hw: int, groups: int, eps: float) -> Any:
    """The dense network's groups: each over those of its channels that are left."""
    mean, var = _moments(x.reshape(n, groups, -1), -1)
    out = ((x.reshape(n, groups, -1) - mean) / (var + eps).sqrt()).reshape(n, c, hw)
    out = _affine(out, *(None if t is None else t[:, None] for t in (w, b)))
    return out.reshape(x.shape), mean.flatten(1), (var + eps).rsqrt().flatten(1)


def _batch_norm(func: Any, x: Tensor, w: Any, b: Any, mean: Any, var: Any, training: bool, *rest: Any) -> Any:
    """Statistics of the batch only where a network standardises its own weights."""
    if not training:
        return func(x, w, b, mean, var, training, *rest)
    line = [1, -1, *[1] * (x.dim() - 2)]
    mean, var = _moments(x, [d for d in range(x.dim()) if d != 1])
    out = (x - mean) / (var + rest[-1]).sqrt()
    return _affine(out, *(None if t is None else t.view(line) for t in (w, b))), mean.flatten(), var.flatten()


def _pad(func: Any, x: Tensor, pad: Any, value: Any = 0) -> Tensor:
    """A border around a missing map is missing too."""
    sides = [pad[i] or pad[i + 1] for i in range(0, len(pad), 2)]
    padded = [-1 - i for i, wide in enumerate(sides) if wide]
    out = func(x, pad, value)
    return torch.where(x.isnan().all(padded, keepdim=True), torch.nan, out) if padded else out


def _affine(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
    x = x if w is None else x * w
    return x if b is None else x + b


RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("mm", "bmm"), _product),
    **dict.fromkeys(("addmm", "baddbmm"), _added),
    **dict.fromkeys(("sum", "linalg_vector_norm", "norm"), _reduction(0)),
    **dict.fromkeys(("amax", "max"), _reduction(-math.inf)),
    **dict.fromkeys(("amin", "min"), _reduction(math.inf)),
    **dict.fromkeys(("_softmax", "_safe_softmax", "_log_softmax"), _softmax),
    "mean": _mean,
    "var": _spread(root=False, with_mean=False),
    "std": _spread(root=True, with_mean=False),
    "var_mean": _spread(root=False, with_mean=True),
    "std_mean": _spread(root=True, with_mean=True),
    "convolution": _convolution,
    "constant_pad_nd": _pad,
    "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _rms_norm,
    "native_group_norm": _group_norm,
    "native_batch_norm": _batch_norm,
}
