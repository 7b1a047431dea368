"""Channel gates: one number per unit that scales it where it is READ, so that gate 0 is the same as removing it.

    what a layer reads:  sum_u W[:, u] (g_u x_u) = sum_u (g_u W[:, u]) x_u

Scaling a channel is scaling the weights that read it, so no layer is inserted and none is rewired: the wrapped model
runs with gated weights. Biases and norms in between cannot leak, and coupled layers need no care.
Legend: U = units of a group, K = positions of one unit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from prunekit.core import ChannelGroup, Groups, Member
from prunekit.surgery.cut import check_model


class Gated(nn.Module):
    """`model` with a gate on every unit of `groups`; forward as the model's own. The model is used, not copied.

    gates: parameters (U,) in the order of `groups`, all 1 at first, so nothing changes. shape: what is done to them
    before they multiply (a step, a sigmoid); itself differentiable. Raises PlanError for groups of another model.
    """

    def __init__(self, model: nn.Module, groups: Groups, *, shape: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        check_model(model, groups)
        self.model, self.groups, self.shape = model, groups, shape
        weight = next(model.parameters())
        self.gates = nn.ParameterList(
            [nn.Parameter(torch.ones(g.size, device=weight.device, dtype=weight.dtype)) for g in groups.values()]
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return functional_call(self.model, self.gated_weights(), args, kwargs)

    def gated_weights(self) -> dict[str, Tensor]:
        """The weights that read a gated unit, times its gate: tensor name -> tensor."""
        weights = dict(self.model.named_parameters(remove_duplicate=False))
        gated: dict[str, Tensor] = {}
        for gate_U, group in zip(self.gates, self.groups.values(), strict=True):
            value_U = gate_U if self.shape is None else self.shape(gate_U)
            for member in _gated(group):
                weight = gated.get(member.tensor, weights[member.tensor])
                line = weight.new_ones(weight.shape[member.dim])
                index_UK = member.index.to(weight.device)
                line = line.index_put((index_UK,), value_U[:, None].expand(index_UK.shape))
                gated[member.tensor] = weight * line.reshape([-1 if d == member.dim else 1 for d in range(weight.ndim)])
        return gated


def _gated(group: ChannelGroup) -> tuple[Member, ...]:
    """Where the gate sits: on every axis that reads the units. Positions inside heads are read by one another and by no
    weight; scaling what makes the queries is the same there, 0 * k = 0."""
    if group.consumers():
        return group.consumers()
    layer = group.producers()[0].tensor.rpartition(".")[0]
    return tuple(member for member in group.members if member.tensor.rpartition(".")[0] == layer)
