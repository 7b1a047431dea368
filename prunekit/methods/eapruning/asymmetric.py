"""Rebuilding one network layer after layer, each on the inputs that the layers before it, already rebuilt, really give.

    W' = argmin sum ||W x - W' x_hat||^2  =  (sum y x_hat^T) (sum x_hat x_hat^T + ridge I)^-1,   y = W x

x = the original network's input of the layer, x_hat = the cut one's: errors of earlier layers are made good as far as
they can be (He et al., Channel Pruning, ICCV 2017, call it asymmetric). A depth-wise layer is rescaled, one factor a
channel. It takes a pass over the data for each layer, so it is for chosen networks and not for candidates.

Legend: S samples, O outputs, D inputs, C channels, P kernel positions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunekit.errors import ScoreError
from prunekit.methods.eapruning.doubts import Doubts
from prunekit.methods.eapruning.rebuild import Rebuilder
from prunekit.methods.eapruning.space import Counts
from prunekit.observe import Batches
from prunekit.observe.grams import check_samples, patches
from prunekit.observe.passes import pairs, still
from prunekit.reconstruct import solvable, with_bias


def asymmetric(
    rebuilder: Rebuilder,
    counts: Counts,
    batches: Batches | None,
    *,
    samples: int = 10,
    first: int = 0,
    condition: float = 1e8,
    seed: int = 0,
) -> nn.Module:
    """The candidate cut to size, its layers fitted in the order in which they run.

    batches: read again for every layer, so a list or a loader, no generator. samples, first, condition: as in
    `rebuilder`, whose warnings it gives too. Raises ScoreError without data, InputError for samples or first that are
    no counts.
    """
    check_samples(samples, first)
    doubts = Doubts()
    model, groups = rebuilder.model, rebuilder.space.groups
    work = copy.deepcopy(rebuilder.masked(counts))
    chosen = dict(zip(rebuilder.space.names, counts, strict=True))
    with still(model, groups), still(work, groups), torch.no_grad():
        for path in _running_order(rebuilder, batches):
            layer, own = model.get_submodule(path), work.get_submodule(path)
            rows = _Rows(path, (model, work), (samples, first), seed)
            if _depthwise(layer):
                own.weight.mul_(_factors(rows, batches, layer, own))  # type: ignore[operator]
            else:
                _refit(rows, batches, rebuilder, chosen, condition, doubts)
    doubts.warn()
    return rebuilder.shrunk(work, counts)


def _running_order(rebuilder: Rebuilder, batches: Batches | None) -> list[str]:
    """Layers to fit, the first to run first."""
    model, order = rebuilder.model, dict[str, None]()
    handles = []
    for path, module in model.named_modules():
        if f"{path}.weight" in rebuilder.solvers or _depthwise(module):
            note = lambda *_, path=path: order.setdefault(path)  # noqa: E731
            handles.append(module.register_forward_pre_hook(note))
    try:
        x, _ = next(iter(pairs(batches, model, "eapruning")))
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return list(order)


class _Rows:
    """What a layer reads in both networks, at the same places: see(x_SD, x_hat_SD)."""

    def __init__(self, path: str, models: tuple[nn.Module, nn.Module], few: tuple[int, int], seed: int) -> None:
        self.path, self.models, self.few, self.seed = path, models, few, seed

    def each(self, batches: Batches | None, see: Callable[[Tensor, Tensor], None]) -> None:
        """Over all batches, float64."""
        dice = [torch.Generator().manual_seed(self.seed) for _ in self.models]
        for x, _ in pairs(batches, self.models[0], "eapruning"):
            see(*(self._read(model, x, draw) for model, draw in zip(self.models, dice)))

    def _read(self, model: nn.Module, x: Any, draw: torch.Generator) -> Tensor:
        found: list[Tensor] = []
        samples, first = self.few

        def hook(layer: nn.Module, args: tuple[Any, ...]) -> None:
            found.append(patches(layer, args[0], samples, draw, first=first).double())

        handle = model.get_submodule(self.path).register_forward_pre_hook(hook)
        try:
            model(x)
        finally:
            handle.remove()
        return torch.cat(found)


def _refit(
    rows: _Rows,
    batches: Batches | None,
    rebuilder: Rebuilder,
    chosen: dict[str, int],
    condition: float,
    doubts: Doubts,
) -> None:
    """Set the layer's weights in the cut network."""
    name = f"{rows.path}.weight"
    layer, own = (model.get_submodule(rows.path) for model in rows.models)
    assert isinstance(layer, (nn.Linear, nn.Conv2d)) and isinstance(own, (nn.Linear, nn.Conv2d))
    target_OD, keep = with_bias(layer).to(layer.weight.device), rebuilder.solvers[name].keep(chosen)
    sums, seen = [torch.zeros(0)] * 2, 0

    def see(x_SD: Tensor, hat_SD: Tensor) -> None:
        nonlocal seen
        seen += len(x_SD)
        y_SO = F.pad(x_SD, (0, 1), value=1.0) @ target_OD.T
        hat_Sn = F.pad(hat_SD, (0, 1), value=1.0)[:, keep]
        for n, part in enumerate((hat_Sn.T @ hat_Sn, hat_Sn.T @ y_SO)):
            sums[n] = part.cpu() + sums[n] if sums[n].numel() else part.cpu()

    rows.each(batches, see)
    if not all(torch.isfinite(part).all() for part in sums):
        raise ScoreError(f"what '{rows.path}' reads or gives holds nan or inf: are there such inputs or weights?")
    factor, _, found = solvable(sums[0], condition=condition, name=f"'{rows.path}'")
    dead = int((sums[0].diagonal() == 0).sum())
    doubts.add(name, samples=seen, unknowns=len(keep), dead=dead, condition=found)
    weight_OD = torch.zeros_like(target_OD, device="cpu")
    weight_OD[:, keep] = torch.cholesky_solve(sums[1], factor).T
    weight_OD = rebuilder.zeroed(name, weight_OD, chosen)
    own.weight.copy_(weight_OD[:, :-1].reshape(own.weight.shape))
    if own.bias is not None:
        own.bias.copy_(weight_OD[:, -1])


def _depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels == layer.out_channels


def _factors(rows: _Rows, batches: Batches | None, layer: Any, own: Any) -> Tensor:
    """(C, 1, 1, 1): the least-squares scale of each channel's kernel, 1 where it gives nothing. Biases stay."""
    sums = torch.zeros(2, len(layer.weight), dtype=torch.float64)

    def outputs(x_SD: Tensor, weight: Tensor) -> Tensor:
        kernel_CP = weight.double().flatten(1)
        return (x_SD.reshape(len(x_SD), *kernel_CP.shape) * kernel_CP).sum(2)

    def see(x_SD: Tensor, hat_SD: Tensor) -> None:
        y_SC, hat_SC = outputs(x_SD, layer.weight), outputs(hat_SD, own.weight)
        sums.add_(torch.stack([(y_SC * hat_SC).sum(0), hat_SC.square().sum(0)]).cpu())

    rows.each(batches, see)
    factor_C = torch.where(sums[1] > 0, sums[0] / sums[1].clamp_min(1e-300), torch.ones_like(sums[1]))
    return factor_C[:, None, None, None].to(own.weight)
