"""DepGraph's group norm (Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023, section 3.2).

    s_i = sum over the tensors w of the group of ||w[i]||^2,   divided by the group's mean

Symbols: w[i] = what unit i owns in w: the filter that makes it, its norm scale, its depth-wise kernel, and the weights
that read it. A unit is unimportant when everything that goes with it is small. Needs: weights. Biases do not count, as
in the authors' Torch-Pruning. Differs: the group-sparse training that precedes it in the paper is left out.
"""

import torch
from torch import nn

from prunekit.core import Groups, Scores
from prunekit.errors import ScoreError
from prunekit.observe import filters, of_units


def score(model: nn.Module, groups: Groups) -> Scores:
    """Squared norm of all weights a unit owns, relative to the group's mean, (U,). Raises ScoreError."""
    state = model.state_dict()
    scores: Scores = {}
    for name, group in groups.items():
        filters(model, groups, name)  # refuses groups of another model
        counted = [m for m in group.members if m.tensor in groups.parameters and not m.tensor.endswith("bias")]
        total_U = torch.stack([of_units(state[m.tensor], m).double().square().sum(1).cpu() for m in counted]).sum(0)
        if not total_U.mean() > 0:
            raise ScoreError(f"all weights of '{name}' are zero or nan: nothing tells its units apart.")
        scores[name] = total_U / total_U.mean()
    return scores
