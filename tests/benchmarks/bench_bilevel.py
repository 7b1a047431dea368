"""Bi-level pruning: what the masks add to a training step, in CPU seconds and in bytes, with and without the implicit
gradient. The paper: 1.3 GPU days against 1.1."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from prunekit.core import Groups
from prunekit.methods.bilevel import MaskConfig, Masks
from prunekit.models.deeplab import deeplabv3_mini
from prunekit.models.topformer import topformer_mini
from prunekit.profiling import step_memory
from prunekit.surgery import find_groups
from prunekit.train import segmentation_loss

X = torch.randn(8, 3, 64, 128, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 12, (8, 64, 128), generator=torch.Generator().manual_seed(0))


@dataclass
class Way:
    """One way to train. masks: None = plainly. seconds: of each step."""

    model: nn.Module
    masks: Masks | None
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        weights = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(weights, lr=1e-4)

    def step(self) -> None:
        """As finetune takes it: gradients, masks, weights."""
        segmentation_loss(self.model(X), Y).backward()
        if self.masks is not None:
            self.masks.on_gradients(self.model)  # type: ignore[arg-type]
        self.optimizer.step()
        self.optimizer.zero_grad()


def way(make: Callable[[], nn.Module], groups: Groups | None, implicit: bool = True) -> Way:
    torch.manual_seed(0)
    model = make().train()
    if groups is None:
        return Way(model, None)
    masks = Masks(groups, 0.5, 100, MaskConfig(implicit=implicit))
    gated = masks.gated(model).train()
    masks.watching(gated).__enter__()
    return Way(gated, masks)


@pytest.mark.parametrize("make", [deeplabv3_mini, topformer_mini])
def test_a_step_of_the_search_costs_about_a_step_of_training(make: Callable[[], nn.Module]) -> None:
    groups = find_groups(make().eval(), X[:1])
    ways = {"plain": way(make, None), "implicit": way(make, groups), "without": way(make, groups, implicit=False)}
    for round_ in range(13):
        for one in ways.values():  # in turns: a machine that slows down slows all
            start = time.process_time()
            one.step()
            if round_:
                one.seconds.append(time.process_time() - start)
    plain = ways["plain"].seconds
    times = {name: statistics.median(b / a for a, b in zip(plain, one.seconds)) for name, one in ways.items()}
    peaks = {name: _peak(one) for name, one in ways.items()}
    for name in ways:
        middle = statistics.median(ways[name].seconds)
        print(f"{make.__name__}, {name}: {middle:.3f} s, {times[name]:.2f}x, {peaks[name] / 1e6:.0f} MB")
    assert times["implicit"] <= 1.3 and times["without"] <= 1.1
    assert max(peaks.values()) <= 1.2 * peaks["plain"]


def _peak(one: Way) -> int:
    """Most bytes alive in a step, weights and their optimizer's moments included."""
    moments = [v for state in one.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    resident = [*one.model.parameters(), *one.model.buffers(), *moments, X, Y]
    return step_memory(one.step, resident)
