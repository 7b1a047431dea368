"""DCFP (Wang et al., DCFP: Distribution Calibrated Filter Pruning, TCSVT 2024): how hard the loss pulls at a channel.

    s_i <- r s_i + (1 - r) |dL/dgamma_i|   in every batch where gamma_i dL/dgamma_i > 0,   else s_i stays;   r = 0.99

Symbols: gamma_i = the batch-norm scale of channel i. Only batches count in which descent would make |gamma_i| smaller
(a gamma_i of exactly 0 has none).
Needs: batch norms, batches with targets and the training loss: GSRL (prunekit.train.gsrl_loss) on class-balanced crops
(prunekit.data.crops.BalancedCrops), so that rare classes have their say.

Differs: the authors' code starts at 0, which after few batches ranks channels by how often they counted; we start
from the first batch that counts (after thousands of steps both agree). Gradients are taken at fixed weights, in full
precision, so no loss scale of mixed precision is in them. Mean over the norms of a channel made by several layers.
The authors rank backbone and head apart: pass each one's groups (groups.only([...])).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.core import Groups, Scores
from prunekit.errors import InputError
from prunekit.observe import Batches, gradients, mean_over, norm_scales, of_units
from prunekit.train import segmentation_loss


def score(
    model: nn.Module,
    groups: Groups,
    batches: Batches | None = None,
    *,
    loss_fn: Callable[[Any, Any], Tensor] = segmentation_loss,
    decay: float = 0.99,
) -> Scores:
    """Running mean of |dL/dgamma| over the batches that count, (U,); 0 for a channel for which none did.

    Raises ScoreError for a group without batch norm, without data, for a loss that is not finite and when no batch
    gives a gradient; InputError for a decay outside [0, 1).
    """
    if not 0 <= decay < 1:
        raise InputError(f"decay is {decay}; give a number in [0, 1), the paper has 0.99.")
    norms = {name: norm_scales(model, groups, name, "dcfp") for name in groups}
    tensors = {tensor for members in norms.values() for tensor in members}
    state = model.state_dict()
    pull: dict[str, Tensor] = {}
    for grads in gradients(model, groups, batches, loss_fn, tensors, method="dcfp"):
        for tensor, gradient in grads.items():
            before = pull.get(tensor, torch.full_like(gradient, torch.nan))
            now = torch.where(before.isnan(), gradient.abs(), decay * before + (1 - decay) * gradient.abs())
            pull[tensor] = torch.where(state[tensor] * gradient > 0, now, before)
    return {
        name: mean_over(of_units(pull[tensor].nan_to_num(0.0), m).mean(1) for tensor, m in members.items())
        for name, members in norms.items()
    }
