"""L1 (Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017). s_i = sum |w_i|: small filters matter little.

Symbols: w_i = all weights that make unit i. Needs: weights. Differs: the paper prunes one layer at a time; where
several layers make the same channel (a residual sum) their norms are added, so every maker has its say.
"""

import torch
from torch import nn

from prunekit.core import Groups, Scores
from prunekit.errors import ScoreError


def score(model: nn.Module, groups: Groups) -> Scores:
    """L1 norm of the weights that make each unit, (U,). Raises ScoreError when a group has no such weights."""
    state = model.state_dict()
    scores: Scores = {}
    for name, group in groups.items():
        makers = group.producers()
        if not makers:
            raise ScoreError(f"no weight makes the channels of '{name}'; leave it out of the scores.")
        total_U = torch.zeros(group.size)
        for maker in makers:
            if maker.tensor not in state or len(state[maker.tensor]) != groups.shapes[maker.tensor][0]:
                raise ScoreError(f"'{maker.tensor}' is not as the groups know it; call find_groups on this model.")
            filters = state[maker.tensor].detach().movedim(maker.dim, 0).flatten(1)  # (positions, weights each)
            total_U += filters.abs().sum(1).cpu()[maker.index].sum(1)  # (U, K) -> (U,)
        scores[name] = total_U
    return scores
