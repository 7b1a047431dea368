"""ThiNet (Luo et al., ThiNet: A Filter Level Pruning Method, ICCV 2017). Keep what the NEXT layer's output needs.

    greedy:  remove, one at a time, the channel that keeps  sum over samples of (sum_{j removed} z_j)^2  smallest

Symbols: z_j = what channel j adds to one output of the layer that reads it, so the bracket is what that output loses
(their Eq. 6). Needs: batches; targets are not looked at. Then repair the reading layer by least squares:
`reconstruct.reconstruct` (theirs, Eq. 8, fits one factor a channel; ours all its weights).

How: with M_jk = sum of z_j z_k, one pass over the data gives M, and the loss of a set is the sum of M over it; adding
channel j costs M_jj + 2 sum_{k removed} M_jk, so the greedy search takes O(U^2). All outputs of a sampled pixel count,
not one drawn at random. Greedy sets are nested: one search gives the plan for every width.
Differs: where several layers read a channel, each one's M counts relative to its output's energy.
"""

import torch
from torch import Tensor, nn

from prunekit.core import Groups, Member, PruningPlan, Scores
from prunekit.errors import ScoreError
from prunekit.observe import Batches, grams
from prunekit.plan import Limits, uniform_plan


def search_plan(
    model: nn.Module,
    groups: Groups,
    batches: Batches | None = None,
    *,
    ratio: float = 0.5,
    limits: Limits | None = None,
    samples: int = 64,
    seed: int = 0,
) -> PruningPlan:
    """Remove this fraction of every group, greedily. samples: pixels (tokens) drawn from each image. Raises as score
    and uniform_plan do."""
    order = score(model, groups, batches, samples=samples, seed=seed)
    plan = uniform_plan(groups, order, ratio, limits=limits)
    return PruningPlan(plan.sizes, plan.keep, f"thinet, {plan.note}")


def score(
    model: nn.Module, groups: Groups, batches: Batches | None = None, *, samples: int = 64, seed: int = 0
) -> Scores:
    """When the greedy search removes each unit, (U,): 0 = first. So any plan that cuts by score is the greedy one.

    Raises ScoreError without data, for inputs that are not finite, and for groups that are read by anything but linear
    layers and plain 2-D convolutions.
    """
    unread = [name for name, group in groups.items() if not group.consumers()]
    if unread:
        raise ScoreError(
            f"no layer reads '{unread[0]}', so ThiNet has no next output; leave it out: groups.only([...])."
        )
    readers = {member.tensor for group in groups.values() for member in group.consumers()}
    moments = grams(model, groups, readers, batches, method="thinet", samples=samples, seed=seed)
    state = model.state_dict()
    scores: Scores = {}
    for name, group in groups.items():
        shares = [shared_output(state[m.tensor], moments[m.tensor], m) for m in group.consumers()]
        scores[name] = removal_order(torch.stack(shares).mean(0))
    return scores


def shared_output(weight: Tensor, gram_DD: Tensor, member: Member) -> Tensor:
    """M (U, U): M_jk = sum over samples and outputs of z_j z_k, relative to the energy of the layer's output.

    weight: (O, C, ...) of the layer that reads the group.
    """
    weight_OD = weight.detach().double().cpu().flatten(1)
    product_DD = gram_DD[:-1, :-1] * (weight_OD.T @ weight_OD)
    channels, positions = weight.shape[1], weight[0, 0].numel()
    product_CC = product_DD.reshape(channels, positions, channels, positions).sum((1, 3))
    energy = product_CC.sum().clamp_min(1e-300)
    index_UK = member.index
    return product_CC[index_UK[:, None, :, None], index_UK[None, :, None, :]].sum((2, 3)) / energy


def removal_order(shared_UU: Tensor) -> Tensor:
    """(U,) the step at which the greedy search removes each unit, the least harmful first."""
    order_U = torch.zeros(len(shared_UU), dtype=torch.float64)
    cost_U = shared_UU.diagonal().clone()  # of removing this one next
    for step in range(len(shared_UU)):
        next_one = int(cost_U.argmin())
        order_U[next_one] = step
        cost_U += 2 * shared_UU[next_one]
        cost_U[next_one] = torch.inf
    return order_U
