"""Activations of a group's units where they are made: the signed output of the norm, before the activation.

Where no batch norm follows, the output of the layers that make the units. A group that several layers make, or that
several norms ride on, is seen at each of these places; where some makers have a norm and others have none, at the norms
alone.

Legend: B images, U units, K positions of a unit (1, or those of a head), ... what is left of the shape (H W or tokens).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from prunekit.core import ChannelGroup, Groups
from prunekit.errors import ScoreError
from prunekit.observe.maps import See, channel_positions, layer_of
from prunekit.observe.units import known_state


@contextmanager
def watch_made(model: nn.Module, groups: Groups, see: See) -> Iterator[None]:
    """Meanwhile every forward pass of `model` calls see(group name, activations (B, U, K, ...)) once for each place.

    Gradients are attached. Copies that are made of the model meanwhile are not watched. Usable during training too.
    Raises ScoreError for another model than the groups know, and for groups that no norm and no layer here makes.
    """
    known_state(model, groups, groups)
    handles = []
    try:
        for name, group in groups.items():
            for layer, index_UK in _places(model, groups, group):
                handles.append(_listen(name, layer, index_UK, see))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _places(model: nn.Module, groups: Groups, group: ChannelGroup) -> list[tuple[nn.Module, Tensor]]:
    """The modules that give out the group's units, and where they are on the output's channels, (U, K)."""
    modules, norms = dict(model.named_modules()), {}
    for member in group.members:
        path = member.tensor.rpartition(".")[0]
        if member.role == "follower" and isinstance(modules.get(path), _NormBase):
            norms[path] = modules[path], member.index
    if norms:
        return list(norms.values())
    layers = [(layer_of(model, member.tensor), member) for member in group.producers()]
    places = [(layer, channel_positions(layer, member, groups)) for layer, member in layers if layer is not None]
    if not places:
        raise ScoreError(
            f"what makes '{group.name}' is no convolution or linear layer of its own, so its activations cannot be "
            "seen; leave it out: groups.only([...])."
        )
    return places


def _listen(name: str, layer: nn.Module, index_UK: Tensor, see: See) -> Any:
    channel = -1 if isinstance(layer, nn.Linear) else 1

    def show(x: Tensor) -> None:
        see(name, x.movedim(channel, 1)[:, index_UK.to(x.device)])

    # timm's norms hold their activation: what its first part gets is still signed
    inside = next(layer.children(), None)
    if inside is not None:
        return inside.register_forward_pre_hook(_only_of(inside, lambda args, _: show(args[0])))
    return layer.register_forward_hook(_only_of(layer, lambda _, out: show(out)))


def _only_of(layer: nn.Module, see: Callable[[Any, Any], None]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], out: Any = None) -> None:
        if module is layer:  # a copy keeps its hooks
            see(args, out)

    return hook
