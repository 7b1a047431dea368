"""Gradients of a loss, batch by batch, without touching the model's own `.grad`.

They are computed here, in the model's precision with autocast off: no loss scale of mixed precision can be in them,
which is a common slip of criteria that read `.grad` in the middle of training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from prunekit.core import Groups
from prunekit.errors import ScoreError
from prunekit.observe.passes import Batches, pairs, still


def gradients(
    model: nn.Module,
    groups: Groups,
    batches: Batches | None,
    loss_fn: Callable[[Any, Any], Tensor],
    tensors: Iterable[str],
    *,
    method: str,
) -> Iterator[dict[str, Tensor]]:
    """dL/dtensor for each named parameter, one dict a batch; 0 where the loss does not depend on it.

    loss_fn(output, target): a scalar, as in training. A batch without any gradient (all its pixels ignored) is left
    out. Raises ScoreError, in the name of `method`, without data, for a loss that is not finite, and when every batch
    was left out.
    """
    names = dict(model.named_parameters(remove_duplicate=False))
    used = False
    for number, (x, target) in enumerate(pairs(batches, model, method), start=1):
        leaves = {name: names[name].detach().requires_grad_() for name in tensors}
        with still(model, groups), torch.enable_grad():
            loss = loss_fn(functional_call(model, leaves, (x,)), target)
            if not torch.isfinite(loss):
                raise ScoreError(
                    f"the loss is {loss.item()} in batch {number}: nan weights or inputs, or no labelled pixel in it "
                    "(F.cross_entropy gives 0 / 0 then, segmentation_loss 0)?"
                )
            found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        if any(bool(gradient.any()) for gradient in found):
            used = True
            yield dict(zip(leaves, found, strict=True))
    if not used:
        raise ScoreError(f"{method} found no gradient in any batch: are all pixels ignored?")
