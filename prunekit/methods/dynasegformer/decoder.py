"""The additive decoder: SegFormer's four maps added instead of concatenated, from trained weights, exactly.

Between a stage's projection P_i and the fuse layer there is nothing but bilinear resizing, which commutes with any
matrix over channels. So with the fuse layer's batch norm folded into it, F = (F_4 ... F_1),

    F cat(up P_4 x_4, ..., up P_1 x_1) = sum_i up (F_i P_i) x_i

and the sum of the four maps under the projections F_i P_i is what the original computes. The additive decoder gives up
nothing; the original computes one matrix product as two. (The paper trains it; this is ours.)
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from prunekit.errors import InputError
from prunekit.models.segformer.network import MLPDecoder, SegFormer


@torch.no_grad()
def additive_decoder(model: SegFormer, *, fuse_layer: bool = False) -> SegFormer:
    """A copy of a SegFormer with the decoder that adds. In eval mode it computes what `model` computes.

    fuse_layer: False leaves the fuse layer out (sum, ReLU, classifier: the reading that gives the paper's MACs), True
    keeps it, as the identity, to train on. Batch norm becomes part of the projections. The encoder may be gated.
    Raises InputError for another model, and for a decoder that adds already.
    """
    old = getattr(model, "decoder", None)
    if not isinstance(model, SegFormer) or not isinstance(old, MLPDecoder):
        raise InputError(f"{type(model).__name__} has no decoder of SegFormer's.")
    if not old.concatenate:
        raise InputError("this decoder adds already: nothing to replace.")
    first = cast(nn.Linear, old.project[0])
    width, channels = first.out_features, tuple(cast(nn.Linear, layer).in_features for layer in old.project)
    classes, dropout = old.classifier.out_channels, old.dropout.p
    new = MLPDecoder(channels, width, classes, "sum", fuse_layer, dropout).to(first.weight)
    parts = cast(nn.Conv2d, old.fuse).weight[:, :, 0, 0].chunk(len(channels), dim=1)[::-1]  # it reads coarse to fine
    scale_D, shift_D = _affine(cast(nn.BatchNorm2d, old.norm))
    for i, part_DD in enumerate(parts):
        project, ours = cast(nn.Linear, old.project[i]), cast(nn.Linear, new.project[i])
        ours.weight.copy_(scale_D[:, None] * (part_DD @ project.weight))
        ours.bias.copy_(scale_D * (part_DD @ project.bias) + (shift_D if i == 0 else 0))
    if fuse_layer:
        cast(nn.Conv2d, new.fuse).weight.copy_(torch.eye(width)[:, :, None, None])
        norm = cast(nn.BatchNorm2d, new.norm)
        cast(Tensor, norm.running_var).fill_(1 - norm.eps)  # the identity in eval mode
    new.classifier.load_state_dict(old.classifier.state_dict())
    changed = copy.deepcopy(model)
    changed.decoder = new.train(old.training)
    return changed


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Batch norm in eval mode as (scale, shift), each (D,)."""
    mean_D, variance_D = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    scale_D = norm.weight / (variance_D + norm.eps).sqrt()
    return scale_D, norm.bias - scale_D * mean_D
