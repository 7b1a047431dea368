"""Which numbers of a tensor belong to which unit.

Legend: U = units of a group, K = positions of one unit on an axis, D = all weights that make one unit.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from prunekit.core import Groups, Member
from prunekit.errors import ScoreError


def of_units(tensor: Tensor, member: Member) -> Tensor:
    """(U, D): row u holds everything in `tensor` that unit u owns on the member's axis."""
    positions = tensor.movedim(member.dim, 0)
    return positions[member.index.to(tensor.device)].flatten(1)


def filters(model: nn.Module, groups: Groups, name: str) -> dict[str, Tensor]:
    """The weights that make each unit of group `name`: tensor name -> (U, D), one entry a layer that makes them.

    Raises ScoreError when nothing makes the channels, or when the model is not the one the groups were found on.
    """
    members = groups[name].producers()
    if not members:
        raise ScoreError(f"no weight makes the channels of '{name}'; leave it out: groups.only([...]).")
    return {member.tensor: of_units(_tensor(model, groups, member), member) for member in members}


def norm_scales(model: nn.Module, groups: Groups, name: str, method: str) -> dict[str, Member]:
    """The batch-norm scales (gamma) that ride on group `name`: tensor name -> Member.

    Raises ScoreError, in the name of `method`, when there is none.
    """
    found = {}
    for member in groups[name].members:
        module, _, kind = member.tensor.rpartition(".")
        if member.role == "follower" and kind == "weight" and isinstance(_submodule(model, module), _NormBase):
            _tensor(model, groups, member)
            found[member.tensor] = member
    if not found:
        raise ScoreError(
            f"{method} reads batch-norm scales, and no batch norm follows '{name}'. Score the groups that have one "
            "(groups.only([...])), or choose a criterion that needs none, such as l1 or taylor."
        )
    return found


def mean_over(parts: Iterable[Tensor]) -> Tensor:
    """The mean of equally long score vectors, on the CPU in float64: what several layers say about the same units."""
    return torch.stack([part.detach().double().cpu() for part in parts]).mean(0)


def _tensor(model: nn.Module, groups: Groups, member: Member) -> Tensor:
    tensor = model.state_dict().get(member.tensor)
    if tensor is None or tuple(tensor.shape) != groups.shapes[member.tensor]:
        raise ScoreError(f"'{member.tensor}' is not as the groups know it; call find_groups on this model.")
    return tensor


def _submodule(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None
