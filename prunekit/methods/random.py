"""Random scores: the baseline every criterion has to beat.

s_i ~ U(0, 1). Needs: nothing. Worth more than it looks: after fine-tuning, random channels at the right widths are
often close to carefully chosen ones (Mittal et al., WACV 2018), so a criterion's gain is read against this line.
"""

import torch
from torch import nn

from prunekit.core import Groups, Scores


def score(model: nn.Module, groups: Groups, *, seed: int = 0) -> Scores:
    """One random number per unit, (U,), the same for the same seed and groups. `model` is not looked at."""
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.rand(group.size, generator=draw) for name, group in groups.items()}
