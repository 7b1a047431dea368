"""What gates do over a data set: how often each neuron is on, and which kind of neuron that makes it.

    type I     on for every image: informative whatever the input
    type II    on for some
    type III   on for none

On means M > 0: among the largest, and positive. The paper counts G > 0, which no choice has to follow. Kept means
M != 0: a neuron kept with a gate below 0 is computed and multiplied as any other, so it is kept_U that tells choices
from signs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.errors import DataError, InputError
from prunekit.methods.dynasegformer.gate import Selector
from prunekit.methods.dynasegformer.insert import gates_of, one_batch
from prunekit.metrics import evaluating
from prunekit.train.batches import with_sizes


@dataclass(frozen=True)
class GateCounts:
    """One gate over a data set. on_U, kept_U: images for which each neuron was on, and kept, int64. images: of all."""

    on_U: Tensor
    kept_U: Tensor
    images: int

    def types(self) -> Tensor:
        """1, 2 or 3 for each neuron, int64 (U,)."""
        return self._kinds(self.on_U)

    def choices(self) -> Tensor:
        """The same by who was kept, whatever the sign of its gate."""
        return self._kinds(self.kept_U)

    def _kinds(self, count_U: Tensor) -> Tensor:
        never, always = count_U == 0, count_U == self.images
        return torch.where(always, 1, torch.where(never, 3, 2))

    def __str__(self) -> str:
        kinds = self.types()
        counts = ", ".join(f"{int((kinds == t).sum())} of type {'I' * t}" for t in (1, 2, 3))
        return f"{len(kinds)} neurons over {self.images} images: {counts}"


@torch.no_grad()
def masks_of(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The gates of each image: gate name -> M, (B, U). x: (B, C, H, W).

    Raises GroupError for a network without gates, and InputError, by name, for a gate that does not decide once for
    each image: its layer runs several times or never, or folds space into the batch (MobileViT's do).
    """
    with evaluating(model), _recorded(model) as masks:
        model(x)
    for name, found in masks.items():
        decided = sum(map(len, found))
        if len(found) != 1 or decided != len(x):
            why = "folds space into the batch" if len(found) == 1 else f"runs {len(found)} times"
            raise InputError(f"gate '{name}' decided {decided} times for {len(x)} images: this layer {why}.")
    return {name: mask_BU for name, (mask_BU,) in masks.items()}


def gate_statistics(model: nn.Module, batches: Iterable[Any]) -> dict[str, GateCounts]:
    """Count over a data set: gate name -> GateCounts. batches: tensors (B, C, H, W), or pairs that begin with one.

    Batches may differ in size. Raises the errors of masks_of, and DataError when there is no image.
    """
    on, kept, images = {}, {}, 0
    for x in _inputs(model, batches):
        for name, mask_BU in masks_of(model, x).items():
            on[name] = on.get(name, 0) + (mask_BU > 0).sum(0).cpu()
            kept[name] = kept.get(name, 0) + (mask_BU != 0).sum(0).cpu()
        images += len(x)
    if not images:
        raise DataError("gate_statistics was given no image: the loader is empty.")
    return {name: GateCounts(on_U, kept[name], images) for name, on_U in on.items()}


@torch.no_grad()
def neuron_magnitudes(model: nn.Module, layer: str, batches: Iterable[Any]) -> Tensor:
    """Mean |output| over the tokens, of each neuron of the linear layer named `layer`, for each image: (images, U)."""
    try:
        module = model.get_submodule(layer)
    except AttributeError as err:
        raise InputError(f"{type(model).__name__} has no layer '{layer}'; see model.named_modules().") from err
    found: list[Tensor] = []

    def see(module: nn.Module, args: Any, y: Tensor) -> None:
        found.append(y.abs().flatten(1, -2).mean(1).cpu() if y.ndim > 2 else y.abs().cpu())

    with evaluating(model), module.register_forward_hook(see):
        for x in _inputs(model, batches):
            model(x)
    if not found:
        raise DataError("neuron_magnitudes was given no image: the loader is empty.")
    return torch.cat(found)


def _inputs(model: nn.Module, batches: Iterable[Any]) -> Iterator[Tensor]:
    """What the model reads of each batch. InputError for an image by itself."""
    for batch in with_sizes(batches):
        x = batch[0] if isinstance(batch, (tuple, list)) else batch
        one_batch(model, (x,))
        yield x


@contextmanager
def _recorded(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Meanwhile every pass adds to the masks of each gate."""
    masks: dict[str, list[Tensor]] = {name: [] for name in gates_of(model)}

    def hook(name: str, gate: Selector) -> Any:
        return gate.register_forward_hook(lambda _module, _args, gate_BU: masks[name].append(gate.mask(gate_BU)))

    with ExitStack() as stack:
        for name, gate in gates_of(model).items():
            stack.enter_context(hook(name, gate))
        yield masks
