"""While the gates learn: the sparsity rises step by step, and an L1 penalty draws the gates to 0.

sparsity_t = sparsity min(1, t / T)          loss + lambda_m sum |G|
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prunekit.errors import InputError, TrainingError
from prunekit.methods.dynasegformer.gate import Gate, check_sparsity, is_number, is_whole
from prunekit.methods.dynasegformer.insert import gates_of, set_sparsity


class GateTraining:
    """Pass it to `finetune` or `distill` twice: observer=gates and penalty=gates.penalty.

    sparsity: what the network ends at. steps: T, over which it gets there; None: it is there from the first step.
    weight: lambda_m. reduction: "mean" weighs the mean |G| of each gate, summed over gates, whatever their widths;
    "sum" weighs the sum over all neurons, as printed. Both are means over the images of a step. One object serves one
    training, or several that follow one another: its steps go on. It is stored in the run's checkpoints.
    """

    def __init__(
        self,
        sparsity: float,
        *,
        steps: int | None,
        weight: float = 0.005,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        check_sparsity(sparsity)
        if steps is not None and not (is_whole(steps) and steps >= 1):
            raise InputError(
                f"annealing over {steps!r} steps: give a whole number from 1 on, or None for no annealing, the whole "
                "sparsity from the first step."
            )
        if not (is_number(weight) and weight >= 0) or reduction not in ("mean", "sum"):
            raise InputError(
                f"weight={weight!r}, reduction={reduction!r}: need a finite number >= 0, and 'mean' or 'sum'."
            )
        self.sparsity, self.steps, self.weight, self.reduction = sparsity, steps, float(weight), reduction
        self.step = 0
        self._seen: list[Tensor] = []

    def now(self) -> float:
        """sparsity_t."""
        return self.sparsity * (1.0 if self.steps is None else min(1.0, self.step / self.steps))

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Meanwhile the gates of `model` follow the schedule, and what they give is kept for the penalty."""
        set_sparsity(model, self.sparsity)  # what cannot be reached is refused now, not at the step that would
        set_sparsity(model, self.now())
        with ExitStack() as stack:
            for gate in gates_of(model).values():
                stack.enter_context(gate.register_forward_hook(self._see))
            try:
                yield
            finally:
                self._seen.clear()
                set_sparsity(model, self.sparsity)
        if self.steps is not None and self.step < self.steps:
            warnings.warn(
                f"the training ended at step {self.step} of the {self.steps} over which gates close, at sparsity "
                f"{self.now():.2g}; from here on it is {self.sparsity:g}, which nothing was trained for: give fewer "
                "steps, unless another training follows.",
                stacklevel=4,
            )

    def on_gradients(self, model: nn.Module) -> None:
        """After each step: one step further."""
        self.step += 1
        self._seen.clear()
        set_sparsity(model, self.now())

    def penalty(self, model: nn.Module) -> Tensor:
        """lambda_m |G|, of the last forward pass."""
        if not self._seen:
            raise TrainingError("the penalty has seen no gate: pass observer=gates beside penalty=gates.penalty.")
        sizes = [gate_BU.abs().sum(1).mean() for gate_BU in self._seen]
        if self.reduction == "mean":
            sizes = [size / gate_BU.shape[1] for size, gate_BU in zip(sizes, self._seen, strict=True)]
        self._seen.clear()
        return self.weight * torch.stack(sizes).sum()

    def state_dict(self) -> dict[str, Tensor]:
        """How far it is."""
        return {"step": torch.tensor(self.step)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from there."""
        self.step = int(state["step"])

    def _see(self, gate: nn.Module, args: Any, gate_BU: Tensor) -> None:
        if gate.training and isinstance(gate, Gate):
            self._seen.append(gate_BU)
