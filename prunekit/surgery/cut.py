"""prune: a new model with smaller tensors. mask: a copy of the same size in which nobody reads the removed units."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from prunekit.core import Groups, PruningPlan
from prunekit.errors import PlanError
from prunekit.surgery.adapters import fit_heads
from prunekit.surgery.positions import check_positions
from prunekit.surgery.trace import as_call, check_kind, failing_place, first_line, plain_attention, quiet, tensors_of

Kept = dict[str, dict[int, Tensor]]  # tensor name -> axis -> kept positions, ascending


def prune(model: nn.Module, groups: Groups, plan: PruningPlan) -> nn.Module:
    """A new model of the same class with the removed units gone from every tensor; `model` is left untouched.

    Where the class has sizes built into its Python code (a split at 32, twelve heads), its traced eval-mode forward
    comes back instead, a torch.fx GraphModule with the same parameter names and the numbers set. Hooks, attributes and
    modes are kept (see edit.py for that graph). Only the tensors that shrink are written anew, so the extra memory is
    the small model. `save_pruned` stores the result.
    Raises PlanError when the plan or the model does not fit `groups`, or when the code fails all the same.
    """
    check_kind(model)
    check_model(model, groups)
    kept = kept_positions(groups, plan)
    small = _with_tensors(model, {n: take(t, k) for n, t, k in _each(model, kept)})
    for name, module in small.named_modules():
        _fit_sizes(module, model.get_submodule(name))
    try:
        fit_heads(small, groups, plan)
        _check_runs(small, groups)
        check_positions(model, small, groups, plan, kept, _example(small, groups))
    except PlanError as built_in:
        return _edited(model, small, groups, plan, built_in)
    return small


def _edited(model: nn.Module, small: nn.Module, groups: Groups, plan: PruningPlan, built_in: PlanError) -> nn.Module:
    """The graph with its numbers fitted; the first error stands when that does not help."""
    from prunekit.surgery.edit import edited_graph

    try:
        whole = edited_graph(model, small, groups, plan)
        _check_runs(whole, groups)
    except Exception as err:  # whatever went wrong there, what the user can act on is the first error
        raise built_in from err
    return whole


def mask(model: nn.Module, groups: Groups, plan: PruningPlan) -> nn.Module:
    """A copy of the same size in which the removed units are zeroed where they are READ.

    Zeroing what makes a channel is not enough: a batch norm's shift or a sigmoid turns the zero into something. The
    next layer's weights on that channel are set to zero instead, so nothing can leak.
    """
    check_model(model, groups)
    zeros = removed_positions(groups, plan, read=True)
    return _with_tensors(model, {n: _zeroed(t, z) for n, t, z in _each(model, zeros)})


def kept_positions(groups: Groups, plan: PruningPlan) -> Kept:
    """For each tensor that shrinks, the positions that stay on each axis."""
    kept: Kept = {}
    for tensor, axes in removed_positions(groups, plan).items():
        for dim, gone in axes.items():
            stays = torch.ones(groups.shapes[tensor][dim], dtype=torch.bool)
            stays[gone] = False
            kept.setdefault(tensor, {})[dim] = stays.nonzero().flatten()
    return kept


def removed_positions(groups: Groups, plan: PruningPlan, *, read: bool = False) -> Kept:
    """For each tensor, the positions that go on each axis, over all groups; with `read` only where they are read.

    A position of a head is read by another one, not by a weight; there zeros in what makes it are as good: 0 * k = 0.
    """
    if not isinstance(plan, PruningPlan):
        raise PlanError(
            f"plan is a {type(plan).__name__}; make a PruningPlan, e.g. pk.uniform_plan(groups, scores, 0.5)."
        )
    plan.check(groups)
    gone: dict[str, dict[int, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
    for name, keep in plan.keep.items():
        group = groups[name]
        out = torch.ones(group.size, dtype=torch.bool)
        out[list(keep)] = False
        if out.any():
            for member in group.members:
                if not read or member.role == "consumer" or group.kind == "head_dim":
                    gone[member.tensor][member.dim].append(member.index[out].flatten())
    return {tensor: {dim: torch.cat(parts) for dim, parts in axes.items()} for tensor, axes in gone.items()}


def take(tensor: Tensor, kept: dict[int, Tensor]) -> Tensor:
    """The tensor with only the kept positions on each axis; always new memory, channels last where it was."""
    out = tensor.detach()
    for dim, index in kept.items():
        out = out.index_select(dim, index.to(out.device))
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    if last is not None and tensor.is_contiguous(memory_format=last) and not tensor.is_contiguous():
        out = out.contiguous(memory_format=last)
    return out


def _zeroed(tensor: Tensor, gone: dict[int, Tensor]) -> Tensor:
    out = tensor.detach().clone()
    for dim, index in gone.items():
        out.index_fill_(dim, index.to(out.device), 0)
    return out


def check_model(model: nn.Module, groups: Groups) -> None:
    """PlanError unless the model has exactly the tensors that `groups` was found on."""
    if not isinstance(groups, Groups):
        raise PlanError(f"groups is a {type(groups).__name__}; give what find_groups(model, x) returned.")
    shapes = {name: tuple(t.shape) for name, t in tensors_of(model).items()}
    for name, shape in groups.shapes.items():
        if shapes.get(name) != shape:
            raise PlanError(
                f"groups were found on a model whose '{name}' is {shape}, here it is {shapes.get(name, 'missing')}: "
                "already pruned, or another model? Call find_groups on this one."
            )


def _each(model: nn.Module, cuts: Kept) -> list[tuple[str, Tensor, dict[int, Tensor]]]:
    state = tensors_of(model)
    return [(name, state[name], axes) for name, axes in cuts.items()]


def _with_tensors(model: nn.Module, new: dict[str, Tensor]) -> nn.Module:
    """A deep copy in which some tensors are replaced: deepcopy asks `memo` first, so the old ones are not copied."""
    state = tensors_of(model)
    memo: dict[int, object] = {}
    for name, tensor in new.items():
        memo[id(state[name])] = _as(state[name], tensor)
    try:
        return copy.deepcopy(model, memo)
    except Exception as err:  # whatever the model's own parts raise
        raise PlanError(
            f"{type(model).__name__} cannot be copied ({first_line(err)}) Does it keep a "
            "tensor that was computed (torch.nn.utils.prune, the old weight_norm)? Make it permanent with their "
            "remove() first."
        ) from err


def _fit_sizes(module: nn.Module, source: nn.Module) -> None:
    """Set the numbers that torch's own layers keep beside their tensors."""
    weight = module._parameters.get("weight")  # one that is computed is not asked for: that could change it
    if isinstance(module, _ConvNd):
        if weight is not None:
            _fit_conv(module, source.weight.shape)  # type: ignore[arg-type,union-attr]
    elif isinstance(module, nn.Linear) and weight is not None:
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _NormBase) and (weight is not None or module.running_mean is not None):
        module.num_features = len(weight if weight is not None else module.running_mean)  # type: ignore[arg-type]
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and isinstance(weight, Tensor):
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.GroupNorm) and isinstance(weight, Tensor):
        module.num_channels = len(weight)
    elif isinstance(module, nn.PReLU) and weight is not None:
        module.num_parameters = weight.numel()


def _fit_conv(conv: _ConvNd, old: torch.Size) -> None:
    new = conv.weight.shape
    if conv.groups > 1 and old[1] == 1:  # depth-wise: one group a channel (or a multiple)
        conv.groups = conv.groups * new[0] // old[0]  # type: ignore[misc]
    across, along = (new[1] * conv.groups, new[0]) if conv.transposed else (new[0], new[1] * conv.groups)
    conv.out_channels, conv.in_channels = across, along


def _check_runs(small: nn.Module, groups: Groups) -> None:
    """Run the shapes, not the numbers: sizes that live in Python code show up here and not on the user's device."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    memo = {id(t): _as(t, fake.from_tensor(t)) for t in (*small.parameters(), *small.buffers())}
    stand_in = copy.deepcopy(small, memo).eval()
    with quiet(), plain_attention(), fake, torch.no_grad():
        args, kwargs = as_call(pytree.tree_map_only(Tensor, fake.from_tensor, _example(small, groups)))
        try:
            stand_in(*args, **kwargs)
        except (DynamicOutputShapeException, DataDependentOutputException):
            return  # what follows depends on values, which a run of shapes does not have
        except Exception as err:
            raise PlanError(
                f"the pruned {type(small).__name__} does not run{failing_place(stand_in, err)}: {first_line(err)} Its "
                "Python code has a size built in. Freeze the layers involved: find_groups(model, x, freeze=[...])."
            ) from err


def _as(old: Tensor, new: Tensor) -> Tensor:
    return nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new


def _example(model: nn.Module, groups: Groups) -> Any:
    """An input of the shapes that the groups were found with, in the model's type and on its device."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), next(model.parameters()))
    return pytree.tree_map_only(Tensor, lambda t: _like_weight(t, weight), groups.example)


def _like_weight(tensor: Tensor, weight: Tensor) -> Tensor:
    dtype = weight.dtype if tensor.is_floating_point() else tensor.dtype
    return torch.empty(tensor.shape, dtype=dtype, device=weight.device)
