"""The chosen structure with fresh weights, to be trained from scratch; `train.finetune` trains both it and the rebuilt.

Convolutions: normal, variance 2 / fan out (He et al., 2015). Linear layers, embeddings and tokens: normal, 0.02, cut at
two units, as in DeiT. Biases 0, norms 1 and 0, running statistics as new. Other factors of one number a channel (layer
scale, PReLU's slope) start where their layer starts them.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from prunekit.errors import InputError

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def from_scratch(small: nn.Module, like: nn.Module, *, seed: int = 0) -> nn.Module:
    """A copy of `small` with new weights. like: the dense model, which knows the layer that each parameter belongs to,
    even where `small` is a traced graph. InputError for a factor of a layer that cannot be started anew.
    """
    fresh = copy.deepcopy(small)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, tensor in fresh.named_parameters():
            path = name.rpartition(".")[0]
            tensor.copy_(_drawn(name, tensor.cpu(), like.get_submodule(path)))
        for name, tensor in fresh.named_buffers():
            if name.endswith("running_var"):
                tensor.fill_(1)
            elif name.endswith(("running_mean", "num_batches_tracked")):
                tensor.zero_()
    return fresh


def _drawn(name: str, tensor: Tensor, owner: nn.Module) -> Tensor:
    new, kind = torch.empty_like(tensor), name.rpartition(".")[2]
    if isinstance(owner, _NORMS) or type(owner).__name__.endswith("RMSNorm"):
        return new.fill_(float(kind == "weight"))
    if kind.endswith("bias"):
        return new.zero_()
    if isinstance(owner, _ConvNd):
        fan_out = tensor.numel() // tensor.shape[1]
        return new.normal_(0, (2 / fan_out) ** 0.5)
    if tensor.ndim > 1:
        return nn.init.trunc_normal_(new, std=0.02)
    return new.fill_(_start(name, owner, kind))


def _start(name: str, owner: nn.Module, kind: str) -> float:
    """The number that a layer of one parameter a channel starts with."""
    again = copy.deepcopy(owner)
    if callable(reset := getattr(again, "reset_parameters", None)):
        reset()
        values = getattr(again, kind).detach().reshape(-1)
        if bool((values == values[0]).all()):
            return float(values[0])
    raise InputError(
        f"'{name}' of {type(owner).__name__} is a factor, and no reset_parameters() says what it starts "
        "with: set it by hand after from_scratch on a model without it, or fine-tune instead."
    )
