"""Is a pruned model what is left of the dense one? Decided without either engine's graphs, groups, plans or masks.

1. `prepared` gives every number of every weight a value of its own, so that the pruned tensors say by themselves which
   positions they hold: a surviving number that its source does not have is WRONG.
2. The dense model with NaN at every position that is gone runs in the arithmetic of missing.py: its own code, its own
   coordinates, removed units are not read, statistics (LayerNorm, means over channels) go over what is left.
3. Its outputs and the pruned model's must agree, in float64, on a batch of another size than the example.

Order is what the comparison of outputs sees; a producer and a consumer that kept different channels already show as a
misaligned product. Where missing values meet an op without a rule, the verdict is "unverified".
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.utils import _pytree as pytree
from zoo.missing import Double, Misaligned, Missing, Undecidable

TOLERANCE = 1e-9
Kind = Literal["correct", "wrong", "unverified", "crash"]


@dataclass(frozen=True)
class Verdict:
    """error: largest difference of outputs, relative to the largest output. control: the same to the dense model."""

    kind: Kind
    detail: str = ""
    error: float = float("nan")
    control: float = float("nan")


def prepared(model: nn.Module, x: Any, seed: int = 0) -> nn.Module:
    """A copy in eval mode without constants, with batch-norm statistics that fit, and no number twice in a tensor.

    Fresh layers hide mistakes: scales of 1, shifts of 0, gates of 1e-6.
    """
    model = copy.deepcopy(model).eval()
    draw = torch.Generator().manual_seed(seed)
    hooks = [m.register_forward_pre_hook(_calibrate(draw)) for m in model.modules() if isinstance(m, _NormBase)]
    with torch.no_grad():
        for name, tensor in floats(model).items():
            if not name.endswith(("running_mean", "running_var")):
                _enliven(tensor, name, draw)
        model(x)
        for tensor in floats(model).values():
            _distinct(tensor)
    for hook in hooks:
        hook.remove()
    return model


def floats(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of real numbers by name, saved or not, all names of a shared one."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: t for name, t in named if t.is_floating_point() and t.numel()}


def _enliven(tensor: Tensor, name: str, draw: torch.Generator) -> None:
    """Constants become random numbers around what a trained network has there; buffers get a trace of noise."""
    learned = isinstance(tensor, nn.Parameter)
    if learned and tensor.min() != tensor.max():
        return
    noise = torch.rand(tensor.shape, generator=draw)
    if learned:
        if tensor.dim() > 1 and min(tensor.shape[:2]) > 1:
            tensor.copy_((noise * 2 - 1) / tensor[0].numel() ** 0.5)
        else:
            tensor.copy_(noise - 0.5 if name.endswith("bias") else noise + 0.5)
    else:
        tensor.mul_(1 + 1e-3 * noise)


def _calibrate(draw: torch.Generator) -> Any:
    """Statistics that fit keep the signal alive through a hundred layers; the disturbance makes channels differ."""

    def hook(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        if norm.running_mean is not None:
            flat = args[0].transpose(0, 1).flatten(1)
            spread = flat.var(1, unbiased=False).clamp_min(1e-6)
            noise = torch.rand(2, len(spread), generator=draw)
            norm.running_mean.copy_(flat.mean(1) + spread.sqrt() * (noise[0] - 0.5))
            norm.running_var.copy_(spread * (noise[1] + 0.5))

    return hook


def _distinct(tensor: Tensor) -> None:
    """Move equal float32 numbers apart by single bits: sorted as integers, each becomes larger than the one before."""
    bits = tensor.detach().float().contiguous().numpy().view(np.int32).ravel()
    order = bits.argsort()
    steps = np.arange(len(bits), dtype=np.int64)
    bits[order] = np.maximum.accumulate(bits[order] - steps) + steps
    tensor.copy_(torch.from_numpy(bits.view(np.float32)).view(tensor.shape))


def verify(dense: nn.Module, small: nn.Module, x: Any, full: list[Tensor] | None = None) -> Verdict:
    """dense: a `prepared` model. small: what a tool made of a copy of it. full: `dense_outputs`, when known already."""
    try:
        got = outputs(_double(small), x, Double())
    except Exception as err:  # whatever a broken model raises
        return Verdict("crash", f"the pruned model does not run: {type(err).__name__}: {first_line(err)}")
    full = full or dense_outputs(dense, x)
    whole = _double(dense)
    stray = _remove(whole, small)
    if stray:
        return Verdict("wrong", f"'{stray[0]}' holds numbers that its source does not ({len(stray)} tensors)")
    mode, place = Missing(), _Place(whole)
    try:
        expected = outputs(whole, x, mode)
    except Undecidable as err:
        return Verdict("unverified", f"{place.name}: {err}")
    except Misaligned as err:
        return Verdict("unverified" if mode.suspects else "wrong", f"{place.name} {err}{_after(mode)}")
    except Exception as err:  # of the reference, not of the model that is judged
        return Verdict("unverified", f"the reference stops in {place.name}: {type(err).__name__}: {first_line(err)}")
    error, control = difference(expected, got), difference(full, expected)
    if error <= TOLERANCE:
        return Verdict("correct", "", error, control)
    detail = f"outputs differ by {error:.1e} of the largest{_after(mode)}"
    return Verdict("unverified" if mode.suspects else "wrong", detail, error, control)


def dense_outputs(dense: nn.Module, x: Any) -> list[Tensor]:
    """What the whole model computes, in float64; ValueError when that is not finite."""
    found = outputs(_double(dense), x, Double())
    if not all(bool(t.isfinite().all()) for t in found):
        raise ValueError("the dense model's outputs are not finite: nothing can be compared.")
    return found


def _remove(whole: nn.Module, small: nn.Module) -> list[str]:
    """NaN wherever `small` does not hold the number of `whole`; returns the tensors of `small` that hold others."""
    left, stray = floats(small), []
    for name, tensor in floats(whole).items():
        if name in left:
            here = _found(tensor.float(), left[name].detach().float())
            if here is None:
                stray.append(name)
            else:
                tensor.data[~here] = torch.nan
        elif isinstance(tensor, nn.Parameter):
            tensor.data.fill_(torch.nan)
    return stray


def _found(source: Tensor, part: Tensor) -> Tensor | None:
    """Which numbers of `source` are in `part`; None when `part` has others."""
    if source.shape == part.shape and torch.equal(source, part):
        return torch.ones_like(source, dtype=torch.bool)
    here = _grid(source, part)
    if here is None:  # rows of different lengths, as in a grouped convolution: look for every number by itself
        here = torch.isin(source, part)
        here = here if bool(torch.isin(part, source).all()) else None
    return here


def _grid(source: Tensor, part: Tensor) -> Tensor | None:
    """The same where whole positions of each axis stay, which is quick to see; None when it is not so simple."""
    start = (source == part.flatten()[0]).nonzero() if source.dim() == part.dim() and part.numel() else part[:0]
    if len(start) != 1:
        return None
    cut, here = source, torch.ones_like(source, dtype=torch.bool)
    for dim, size in enumerate(source.shape):
        line = source[tuple(slice(None) if d == dim else i for d, i in enumerate(start[0].tolist()))]
        wanted = part[tuple(slice(None) if d == dim else 0 for d in range(part.dim()))].contiguous()
        ordered, order = line.sort()
        kept = order[torch.searchsorted(ordered, wanted).clamp_max(size - 1)]
        cut = cut.index_select(dim, kept)
        here &= torch.isin(torch.arange(size), kept).view([-1 if d == dim else 1 for d in range(source.dim())])
    return here if torch.equal(cut, part) else None


class _Place:
    """The path of the module that was entered last."""

    def __init__(self, model: nn.Module) -> None:
        self.name = ""
        for name, module in model.named_modules():
            module.register_forward_pre_hook(self._hook(name))

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            self.name = name

        return hook


def _after(mode: Missing) -> str:
    return f" (after {', '.join(sorted(mode.suspects))})" if mode.suspects else ""


def _double(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double().eval()


def outputs(model: nn.Module, x: Any, mode: Double) -> list[Tensor]:
    """All output tensors for the input, in float64; attention step by step, so that the mode sees its products."""
    x = pytree.tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, x)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch.set_default_dtype(torch.float64)  # for the tensors that the code makes itself
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), mode:
            out = model(x)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.backends.mha.set_fastpath_enabled(fast)
    out = dict(out) if isinstance(out, Mapping) else out
    return [t for t in pytree.tree_leaves(out) if isinstance(t, Tensor)]


def difference(first: list[Tensor], second: list[Tensor]) -> float:
    """Largest difference relative to the largest value, over all outputs; inf when shapes or finiteness differ."""
    if [t.shape for t in first] != [t.shape for t in second]:
        return float("inf")
    worst = 0.0
    for a, b in zip(first, second, strict=True):
        if not (a.isfinite().all() and b.isfinite().all()):
            return float("inf")
        worst = max(worst, float((a - b).abs().max() / a.abs().max().clamp_min(1e-300)))
    return worst


def first_line(err: BaseException) -> str:
    """An error's message in one line, however long it is."""
    return next((line.strip() for line in str(err).splitlines() if line.strip()), "")[:400]
