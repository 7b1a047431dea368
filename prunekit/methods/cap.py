"""CAP (He et al., CAP: Context-Aware Pruning for Semantic Segmentation, WACV 2021). Channels with context are spared.

    z_i = map of channel i, averaged to p x p, made unit length     a_ij = softmax_j (z_i . z_j / t), j != i
    context_i = mean over images and i' of a_i'i, over the group's largest
    train with  L + strength * sum (1 - context_i) |gamma_i|,   then  s_i = |gamma_i|

Symbols: gamma_i = the batch-norm scale of channel i; a_ij = how much channel i leans on channel j, so context_i says
how much the layer as a whole leans on i. Needs: batch norms, and batches for the context; targets are not looked at.

Our reading: what later papers write of this one fixes the idea (affinities of pooled maps steer the sparsity of the
scales), not the formula; pooling, unit length, t, j != i and the weights above are ours. `score` without sparse
training stands for one step of it: s_i = context_i |gamma_i|. Mean over the norms of a channel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunekit.core import Groups, Scores
from prunekit.errors import ScoreError
from prunekit.observe import Batches, mean_over, norm_scales, of_units, see_maps


def score(model: nn.Module, groups: Groups, batches: Batches | None = None, *, pool: int = 4) -> Scores:
    """context_i * |gamma_i|, (U,). pool: p. Raises ScoreError for a group without batch norm and as `context` does."""
    state = model.state_dict()
    scales = {
        name: mean_over(of_units(state[t], m).abs().mean(1) for t, m in norm_scales(model, groups, name, "cap").items())
        for name in groups
    }
    return {name: share_U * scales[name] for name, share_U in context(model, groups, batches, pool=pool).items()}


def context(
    model: nn.Module, groups: Groups, batches: Batches | None = None, *, pool: int = 4, temperature: float = 0.1
) -> Scores:
    """How much the other channels lean on each, (U,) in (0, 1], the group's largest is 1.

    Raises ScoreError without data, for activations that are not finite, and for groups that are not maps.
    """
    total: dict[str, Tensor] = {name: torch.zeros(group.size).double() for name, group in groups.items()}

    def see(name: str, x_BUK: Tensor) -> None:
        if x_BUK.ndim != 5 or x_BUK.shape[2] > 1:
            raise ScoreError(f"CAP pools maps H x W, and the units of '{name}' give none; leave it out.")
        pooled_BUP = F.adaptive_avg_pool2d(x_BUK[:, :, 0], pool).flatten(2).double()
        unit_BUP = F.normalize(pooled_BUP, dim=2)
        alike_BUU = unit_BUP @ unit_BUP.mT / temperature
        alike_BUU.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
        total[name] += alike_BUU.softmax(2).nan_to_num(1.0).mean(1).sum(0).cpu()  # nan: a channel without others

    see_maps(model, groups, batches, see, method="cap")
    return {name: sum_U / sum_U.max() for name, sum_U in total.items()}


def penalty(model: nn.Module, groups: Groups, context: Scores, *, strength: float = 1e-4) -> Tensor:
    """strength * sum (1 - context_i) |gamma_i|, a scalar with gradient; finetune takes it by functools.partial."""
    names = dict(model.named_parameters())
    parts = [
        ((1 - context[name].to(names[t])) * of_units(names[t], m).abs().mean(1)).sum()
        for name in groups
        for t, m in norm_scales(model, groups, name, "cap").items()
    ]
    return strength * torch.stack(parts).sum()
