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
    members, state = groups[name].producers(), known_state(model, groups, [name])
    if not members:
        raise ScoreError(f"no weight makes the channels of '{name}'; leave it out: groups.only([...]).")
    return {member.tensor: of_units(state[member.tensor], member) for member in members}


def norm_scales(model: nn.Module, groups: Groups, name: str, method: str) -> dict[str, Member]:
    """The batch-norm scales (gamma) that ride on group `name`: tensor name -> Member.

    Raises ScoreError, in the name of `method`, when there is none.
    """
    known_state(model, groups, [name])
    norms = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, _NormBase)}
    found = {m.tensor: m for m in groups[name].members if m.role == "follower" and m.tensor in norms}
    if not found:
        raise ScoreError(
            f"{method} reads batch-norm scales, and no batch norm follows '{name}'. Score the groups that have one "
            "(groups.only([...])), or choose a criterion that needs none, such as l1 or taylor."
        )
    return found


def mean_over(parts: Iterable[Tensor]) -> Tensor:
    """The mean of equally long score vectors, on the CPU in float64: what several layers say about the same units."""
    return torch.stack([part.detach().double().cpu() for part in parts]).mean(0)


def known_state(model: nn.Module, groups: Groups, names: Iterable[str]) -> dict[str, Tensor]:
    """The model's state dict; ScoreError unless what these groups speak about is in it, in the known shapes."""
    state = model.state_dict()
    for tensor in (member.tensor for name in names for member in groups[name].members):
        if tensor not in state or tuple(state[tensor].shape) != groups.shapes[tensor]:
            raise ScoreError(f"'{tensor}' is not as the groups know it; call find_groups on this model.")
    return state
