"""Running data through a model that stays exactly as it is.

All of the network runs, auxiliary heads included, but no running statistic moves and no dice are rolled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from prunekit.core import Groups
from prunekit.errors import ScoreError
from prunekit.surgery.trace import training_mode

Batches = Iterable[Any]  # of (input, target), as finetune takes them


@contextmanager
def still(model: nn.Module, groups: Groups, layers: Iterable[str] = ()) -> Iterator[None]:
    """Eval mode; every module gets its own flag back afterwards, and autocast is off meanwhile.

    Where a group, or one of the layers (by their weights) that are watched, lives in a part that only training reaches
    (an auxiliary head), the containers are in training mode, so that this part runs, and the layers (batch norm,
    dropout) are not, so that nothing changes.
    """
    makers = [member.tensor for group in groups.values() for member in group.producers()]
    hidden = any(tensor not in groups.positions for tensor in (*makers, *layers))
    with training_mode(model, hidden), torch.autocast(device_of(model).type, enabled=False):
        for module in model.modules():
            if isinstance(module, _NormBase) or not any(module.children()):
                module.eval()
        yield


def pairs(batches: Batches | None, model: nn.Module, method: str) -> Iterator[tuple[Any, Any]]:
    """(input, target) of each batch on the model's device. Raises ScoreError when there is no data, or not such."""
    if batches is None:
        raise ScoreError(
            f"{method} looks at data: pass batches, e.g. list(loader)[:8]. Where a function of (model, groups) is "
            "wanted, functools.partial(score, batches=batches) is one."
        )
    device, count = device_of(model), 0
    for count, batch in enumerate(batches, start=1):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ScoreError(f"{method} wants batches of (input, target), batch {count} is a {type(batch).__name__}.")
        yield _to(batch[0], device), _to(batch[1], device)
    if count == 0:
        raise ScoreError(f"{method} got no batch: batches is empty, or a generator that was read before.")


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter is."""
    return next(model.parameters()).device


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {key: _to(part, device) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [_to(part, device) for part in value]
    return value.to(device) if isinstance(value, Tensor) else value
