"""FPGM (He et al., Filter Pruning via Geometric Median, CVPR 2019). s_i = sum_j ||w_i - w_j||: what is replaceable.

Symbols: w_i = all weights that make unit i, one vector; Euclidean distances. A filter near the geometric median of
its layer is close to all the others, so they can stand in for it; a small filter far from the others stays. Needs:
weights. Differs: mean over the layers that make a channel together. Torch-Pruning takes distances between |w|^p
instead, in which w and -w are the same filter; we follow the paper. Two units are always equally far from each other,
so a group of two (the heads of a small attention layer) ties.
"""

import torch
from torch import nn

from prunekit.core import Groups, Scores
from prunekit.observe import filters, mean_over


def score(model: nn.Module, groups: Groups) -> Scores:
    """Sum of distances from each unit's filter to all others of the layer, (U,). Raises ScoreError as l1 does."""
    scores: Scores = {}
    for name in groups:
        weights = [w_UD.double() for w_UD in filters(model, groups, name).values()]
        # the exact distances: the fast matrix-product form cannot tell two equal filters from two near ones
        exact = "donot_use_mm_for_euclid_dist"
        scores[name] = mean_over(torch.cdist(w_UD, w_UD, compute_mode=exact).sum(1) for w_UD in weights)
    return scores
