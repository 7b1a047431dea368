"""Network slimming (Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017).

    train with  L + strength * sum |gamma|,   then  s_i = |gamma_i|

Symbols: gamma_i = the batch-norm scale of channel i, the spread of what leaves the norm. The penalty pulls scales that
the task does not hold towards zero. Needs: batch norms, and a network trained with `penalty`. Differs: only scales of
channels that can go are penalised; where several norms follow one channel (a residual sum) s_i is the mean of theirs.

Two pitfalls. A norm that is initialised at gamma = 0 or 1 and was not trained says nothing: refused. And scales that
started at 0 (the last norm of a residual block) stay small for that reason alone: rank them within their group.
"""

import torch
from torch import Tensor, nn

from prunekit.core import Groups, Scores
from prunekit.errors import ScoreError
from prunekit.observe import mean_over, norm_scales, of_units


def score(model: nn.Module, groups: Groups) -> Scores:
    """|gamma| of each channel, (U,). Raises ScoreError for a group without batch norm, or with untrained ones."""
    state = model.state_dict()
    scores: Scores = {}
    for name in groups:
        members = norm_scales(model, groups, name, "slimming")
        gamma = [of_units(state[tensor], member) for tensor, member in members.items()]
        if all(groups[name].size > 1 and bool((g == g.flatten()[0]).all()) for g in gamma):
            tensor, value = next(iter(members)), gamma[0].flatten()[0].item()
            raise ScoreError(f"all scales in '{tensor}' are {value:g}, as initialised: train the network first.")
        scores[name] = mean_over(g_UK.abs().mean(1) for g_UK in gamma)
    return scores


def penalty(model: nn.Module, groups: Groups, *, strength: float = 1e-4) -> Tensor:
    """strength * sum |gamma| over the groups' batch norms, a scalar with gradient.

    finetune(model, loader, config, penalty=functools.partial(slimming.penalty, groups=groups)). Raises ScoreError for a
    group without batch norm.
    """
    names = dict(model.named_parameters())
    scales = {tensor for name in groups for tensor in norm_scales(model, groups, name, "slimming")}
    return strength * torch.stack([names[tensor].abs().sum() for tensor in sorted(scales)]).sum()
