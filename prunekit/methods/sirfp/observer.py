"""Edge weights gathered while the network trains: the paper's exponential moving average (Eq. 4).

    a_ij <- w a_ij + (1 - w)(1 - r_ij),   w = min(decay, 1 - 1/n) at the n-th observation

so it starts as the plain mean of what was seen and becomes the paper's average, bias-free from the first batch on.

Legend: U units, a_UU edge weights; one clique a group.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.core import Groups, Scores
from prunekit.errors import CheckpointError, InputError, ScoreError
from prunekit.methods.sirfp.clique import ScoreScale, unit_scores
from prunekit.methods.sirfp.jensen_shannon import harmonics_for
from prunekit.methods.sirfp.redundancy import Metric, Normalize, Resolution, check_names, pixels, redundancy
from prunekit.observe import watch_made


class Observer:
    """Looks on while a model runs, and knows how much its channels repeat each other.

    metric, normalize_map, resolution, tolerance: how redundancy is measured, see sirfp.redundancy. decay: alpha of the
    moving average. every: look at one forward pass in so many. edges: group -> a_UU, on the model's device.

        observer = sirfp.Observer(groups)
        finetune(model, loader, config, observer=observer)   # or: with observer.watching(model): your own loop
        scores = observer.scores(groups)

    Several processes each see their part of the batches; finetune gives them the mean.
    """

    def __init__(
        self,
        groups: Groups,
        *,
        metric: Metric = "js",
        normalize_map: Normalize = "softmax",
        resolution: Resolution = "full",
        decay: float = 0.99,
        every: int = 1,
        tolerance: float = 2e-4,
    ) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"decay is {decay}; give a number in [0, 1), the paper has 0.99.")
        if type(every) is not int or every < 1:
            raise InputError(f"every is {every!r}; give a whole number from 1 on: look at one pass in so many.")
        check_names(metric, normalize_map, resolution)
        harmonics_for(tolerance)
        self.groups, self.decay, self.every = groups, decay, every
        self.pixels = partial(pixels, resolution=resolution)
        self.redundancy = partial(redundancy, metric=metric, normalize_map=normalize_map, tolerance=tolerance)
        self.settings = {"metric": metric, "normalize_map": normalize_map, "resolution": resolution, "decay": decay}
        self.settings |= {"tolerance": tolerance}
        self.edges: dict[str, Tensor] = {}
        self.observations: dict[str, int] = {}
        self.passes = 0

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Meanwhile observe every forward pass of `model` itself; copies of it are left alone.

        Raises ScoreError for another model than the groups', and later for maps that are not finite.
        """
        sums: dict[str, tuple[Tensor, int]] = {}  # redundancies of this pass, and from how many places
        looking = False

        def begin(module: nn.Module, args: Any) -> None:
            nonlocal looking
            looking = module is model and self.passes % self.every == 0
            sums.clear()

        def see(name: str, x_BUK: Tensor) -> None:
            if looking:
                with torch.no_grad(), torch.autocast(x_BUK.device.type, enabled=False):
                    r_UU = self.redundancy(self.pixels(name, x_BUK))
                before_UU, places = sums.get(name, (0.0, 0))
                sums[name] = before_UU + r_UU, places + 1

        def end(module: nn.Module, args: Any, output: Any) -> None:
            nonlocal looking
            looking = False
            if module is model:
                self.passes += 1
                for name, (sum_UU, places) in sums.items():
                    self._average(name, 1 - sum_UU / places)
                sums.clear()

        handles = [model.register_forward_pre_hook(begin), model.register_forward_hook(end)]
        try:
            with watch_made(model, self.groups, see):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def scores(self, groups: Groups, *, score_scale: ScoreScale = "sum") -> Scores:
        """EHGP's order as one score a unit, (U,), see sirfp.clique. Raises ScoreError for what was not observed."""
        for name, group in groups.items():
            if name not in self.edges:
                raise ScoreError(
                    f"sirfp has not observed '{name}' yet: run the model inside observer.watching(model), or leave the "
                    "group out: groups.only([...])."
                )
            if len(self.edges[name]) != group.size:
                raise ScoreError(
                    f"sirfp observed {len(self.edges[name])} units of '{name}', these groups have {group.size}; "
                    "observe the pruned model anew."
                )
        return {name: unit_scores(self.edges[name], score_scale) for name in groups}

    def state_dict(self) -> dict[str, Tensor]:
        """All that was gathered; empty before the first pass."""
        if not self.edges:
            return {}
        settings = torch.tensor(list(json.dumps(self.settings).encode()), dtype=torch.uint8)
        counts = {f"observations.{name}": torch.tensor(n) for name, n in self.observations.items()}
        edges = {f"edges.{name}": a_UU.clone() for name, a_UU in self.edges.items()}
        return {**edges, **counts, "passes": torch.tensor(self.passes), "settings": settings}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Undo `state_dict`. Raises CheckpointError for the state of another model, or one measured in another way."""
        if state and "settings" not in state:
            raise CheckpointError("this is no state of a sirfp.Observer: it has no settings.")
        if state and (stored := json.loads(bytes(state["settings"].tolist()))) != self.settings:
            raise CheckpointError(f"these edge weights were measured with {stored}, now {self.settings}; start anew.")
        edges = {key.removeprefix("edges."): value for key, value in state.items() if key.startswith("edges.")}
        for name, a_UU in edges.items():
            size = self.groups[name].size if name in self.groups else 0
            if tuple(a_UU.shape) != (size, size):
                have = f"{size} units" if size else "no such group"
                raise CheckpointError(
                    f"'{name}' has {len(a_UU)} units there and {have} here: the state of another model?"
                )
        self.edges = {name: a_UU.clone() for name, a_UU in edges.items()}
        self.observations = {name: int(state[f"observations.{name}"]) for name in edges}
        self.passes = int(state["passes"]) if state else 0

    def _average(self, name: str, a_UU: Tensor) -> None:
        self.observations[name] = n = self.observations.get(name, 0) + 1
        before_UU = self.edges.get(name, a_UU).to(a_UU)
        self.edges[name] = before_UU.lerp(a_UU, max(1 - self.decay, 1 / n))
