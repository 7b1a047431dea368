"""L1 (Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017). s_i = ||w_i||_p: small filters matter little.

Symbols: w_i = all weights that make unit i; p = 1 in the paper, p = 2 gives the L2 norm. Needs: weights. Differs: the
paper prunes one layer at a time; where several layers make the same channel (a residual sum) s_i is the mean of their
norms, so that groups with many makers do not weigh more. Layers of unlike width have norms of unlike size:
`global_plan` divides by each group's mean.
"""

from torch import nn

from prunekit.core import Groups, Scores
from prunekit.errors import InputError
from prunekit.observe import filters, mean_over


def score(model: nn.Module, groups: Groups, *, p: float = 1) -> Scores:
    """The p-norm of the weights that make each unit, (U,). Raises ScoreError when a group has no such weights."""
    if not p > 0:
        raise InputError(f"p is {p}; a norm needs p > 0, 1 and 2 are usual.")
    makers = {name: filters(model, groups, name).values() for name in groups}
    return {name: mean_over(w_UD.norm(p, dim=1) for w_UD in weights) for name, weights in makers.items()}
