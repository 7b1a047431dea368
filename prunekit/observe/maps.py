"""Activations of a group's units, as the layer that reads them sees them: after norm and activation.

Legend: B images, U units, K positions of a unit (1, or those of a head), ... what is left of the shape (H W or tokens).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from prunekit.core import ChannelGroup, Groups, Member
from prunekit.errors import ScoreError
from prunekit.observe.passes import Batches, pairs, still
from prunekit.observe.units import known_state

See = Callable[[str, Tensor], None]  # group name, activations (B, U, K, ...)


def see_maps(model: nn.Module, groups: Groups, batches: Batches | None, see: See, *, method: str) -> None:
    """Run all batches and call see(group name, activations (B, U, K, ...)) whenever a group is read.

    Raises ScoreError, in the name of `method`, without data, for activations that are not finite, and for a group that
    no layer here reads.
    """
    seen = set()

    def checked(name: str, x_BUK: Tensor) -> None:
        if not torch.isfinite(x_BUK).all():
            raise ScoreError(f"the activations of '{name}' hold nan or inf: are there such inputs or weights?")
        seen.add(name)
        see(name, x_BUK)

    known_state(model, groups, groups)
    with watch(model, groups, checked), still(model, groups), torch.no_grad():
        for x, _ in pairs(batches, model, method):
            model(x)
    unseen = [name for name in groups if name not in seen]
    if unseen:
        raise ScoreError(f"'{unseen[0]}' did not run on this data; leave it out: groups.only([...]).")


@contextmanager
def watch(model: nn.Module, groups: Groups, see: See) -> Iterator[None]:
    """Meanwhile every forward pass of `model` calls see(group name, activations (B, U, K, ...)), gradients attached.

    Of several layers that read a group the first is listened to. Usable during training too.
    """
    handles = []
    try:
        for name, group in groups.items():
            layer, index_UK = _reader(model, groups, group)
            handles.append(layer.register_forward_pre_hook(_hook(name, layer, index_UK, see)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(name: str, layer: nn.Module, index_UK: Tensor, see: See) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    channel = -1 if isinstance(layer, nn.Linear) else 1

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        x_BC = args[0].movedim(channel, 1)
        see(name, x_BC[:, index_UK.to(x_BC.device)])

    return hook


def _reader(model: nn.Module, groups: Groups, group: ChannelGroup) -> tuple[nn.Module, Tensor]:
    """The first layer that reads the group, and where its units are on the layer's input channels, (U, K)."""
    for member in group.consumers():
        layer = layer_of(model, member.tensor)
        if layer is not None:
            return layer, channel_positions(layer, member, groups)
    raise ScoreError(
        f"what reads '{group.name}' is no convolution or linear layer of its own, so its activations cannot be seen; "
        "leave it out: groups.only([...])."
    )


def layer_of(model: nn.Module, tensor: str) -> nn.Module | None:
    """The convolution or linear layer that this weight belongs to and that runs as a module."""
    path, _, kind = tensor.rpartition(".")
    if kind != "weight":
        return None
    try:
        layer, owner = model.get_submodule(path), model.get_submodule(path.rpartition(".")[0])
    except AttributeError:
        return None
    inside = isinstance(owner, nn.MultiheadAttention)  # its out_proj is never called
    return layer if isinstance(layer, (_ConvNd, nn.Linear)) and not inside else None


def channel_positions(layer: nn.Module, member: Member, groups: Groups) -> Tensor:
    """(U, K) channels of what the layer reads or gives: a grouped convolution's axis 1 counts within one group only."""
    if not isinstance(layer, _ConvNd) or layer.groups == 1 or member.dim == 0:
        return member.index
    inside = groups.shapes[member.tensor][1]
    starts = torch.arange(layer.groups) * inside
    return (member.index[:, None, :] + starts[None, :, None]).flatten(1)
