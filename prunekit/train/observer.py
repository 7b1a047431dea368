"""Who looks on while a network trains: statistics of its feature maps or gradients, gathered on the way.

Such a criterion needs no pass over the data of its own, but its statistics belong to the run: they are stored in the
run's checkpoints and taken up again with it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn


class Observer(Protocol):
    """What `finetune(observer=...)` takes."""

    def watching(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Meanwhile look on at every forward pass of `model`, the copy that trains, on its device."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """All that was gathered so far; empty before the first forward pass."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Undo `state_dict`. The tensors may be on another device."""
        ...


@runtime_checkable
class GradientObserver(Observer, Protocol):
    """An observer that also looks at the gradients of every step."""

    def on_gradients(self, model: Any) -> None:
        """Called between a step's gradients and its update, before clipping; with fp16 the loss scale is in them."""
        ...


def share(observer: Observer, accelerator: Accelerator) -> None:
    """Give all processes the mean of what each has seen on its part of the batches.

    Running means are linear: the mean of theirs is the running mean of the whole batches. Counters stay as they are.
    """
    if accelerator.num_processes == 1:
        return
    state = {name: tensor.to(accelerator.device) for name, tensor in observer.state_dict().items()}
    floats = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    means: Any = {name: accelerator.reduce(tensor, "mean") for name, tensor in sorted(floats.items())}
    observer.load_state_dict({**state, **means})
