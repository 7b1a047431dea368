"""What a candidate is worth: its error on held-out training images, by the rebuilt weights, and its cost.

Legend: B images, K classes, H W size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import FunctionType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prunekit.core import PruningPlan
from prunekit.errors import InputError, PrunekitError, RuntimeFailure, ScoreError
from prunekit.methods.eapruning.rebuild import Rebuilder
from prunekit.methods.eapruning.space import Counts
from prunekit.metrics import confusion_matrix, evaluating, logits_of, miou

Error = Callable[[nn.Module], float]  # 0 = perfect, 1 = all wrong
Cost = Literal["macs", "params"] | Callable[[PruningPlan], float]


@dataclass(frozen=True)
class Misclassified:
    """Fraction of images whose largest logit is not their label's. images (B, 3, H, W), labels (B,)."""

    images: Tensor
    labels: Tensor
    batch: int = 256

    def __post_init__(self) -> None:
        _check_data(self.images, self.labels, 1, self.batch)

    def __call__(self, model: nn.Module) -> float:
        with evaluating(model):
            found = torch.cat([logits_of(model(x)).argmax(1) for x in self.images.split(self.batch)])
        return float((found != self.labels).double().mean())

    def describe(self) -> str:
        """The same text for the same data."""
        return f"misclassified {_digest(self.images, self.labels)}"


@dataclass(frozen=True)
class MissedIoU:
    """1 - mIoU of a segmenter. images (B, 3, H, W), masks (B, H, W) int64, 255 = not labelled."""

    images: Tensor
    masks: Tensor
    classes: int
    batch: int = 32

    def __post_init__(self) -> None:
        _check_data(self.images, self.masks, 3, self.batch)

    def __call__(self, model: nn.Module) -> float:
        pairs = zip(self.images.split(self.batch), self.masks.split(self.batch))
        with evaluating(model):
            parts = [confusion_matrix(logits_of(model(x)), mask, self.classes) for x, mask in pairs]
        return 1.0 - miou(torch.stack(parts).sum(0))

    def describe(self) -> str:
        """The same text for the same data."""
        return f"1 - mIoU {_digest(self.images, self.masks)}"


def _check_data(images: Tensor, targets: Tensor, axes: int, batch: int) -> None:
    """InputError unless there are images, a label or mask for each, and a batch to read them in."""
    sizes = [tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__ for each in (images, targets)]
    if str in map(type, sizes) or targets.ndim != axes or len(targets) != len(images) or not len(images):
        wanted = "(B,), one class number an image" if axes == 1 else "(B, H, W), one mask an image"
        raise InputError(f"images and targets are {sizes[0]} and {sizes[1]}; give tensors (B, 3, H, W) and {wanted}.")
    if type(batch) is not int or batch < 1:
        raise InputError(f"batch is the number of images in one pass, a whole number from 1 on, got {batch!r}.")


def _name(given: Any) -> str:
    known = getattr(given, "describe", None)
    return known() if known else getattr(given, "__qualname__", type(given).__qualname__)


def _digest(*tensors: Tensor) -> str:
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


@dataclass(frozen=True)
class Fitness:
    """counts -> (error, cost). cost: relative to the whole network's. "macs" and "params" are counted; a function of
    the plan is asked, e.g. `plan.latency_of(model, groups, x)`, by one process while no other computes, and measured
    times differ from run to run. rebuild=False leaves the weights as they are cut, a control.

    Calling it raises ScoreError for errors outside [0, 1] and costs that are not positive, InputError when error or
    cost give no number, RuntimeFailure when they fail.
    """

    rebuilder: Rebuilder
    error: Error
    cost: Cost = "macs"
    rebuild: bool = True

    def __post_init__(self) -> None:
        if not callable(self.cost) and self.cost not in ("macs", "params"):
            raise InputError(f"cost is 'macs', 'params' or a function of a plan, got {self.cost!r}.")

    def __call__(self, counts: Counts) -> tuple[float, float]:
        """One thread on the CPU, so that no number depends on how many processes there are."""
        with one_thread():
            wrong = _asked("error", self.error, self.rebuilder.masked(counts, rebuild=self.rebuild), counts)
        if not 0 <= wrong <= 1:
            raise ScoreError(f"the candidate {counts[:4]}... has the error {wrong}; errors lie in [0, 1].")
        return wrong, self.price(counts)

    def price(self, counts: Counts) -> float:
        """The relative cost alone."""
        cost = self._absolute(counts) / self.whole
        if not 0 < cost < float("inf"):
            raise ScoreError(f"the candidate {counts[:4]}... has the cost {cost}; a cost is a positive number.")
        return cost

    @cached_property
    def whole(self) -> float:
        """What the whole network costs. Measured once: a time is another one the next time."""
        return self._absolute(self.rebuilder.space.whole)

    def _absolute(self, counts: Counts) -> float:
        space = self.rebuilder.space
        if callable(self.cost):
            return _asked("cost", self.cost, space.plan(counts), counts)
        return float(space.macs(counts) if self.cost == "macs" else space.params(counts))

    def describe(self) -> dict[str, Any]:
        """What makes two searches rank alike."""
        return {
            "error": _name(self.error),
            "cost": _name(self.cost) if callable(self.cost) else self.cost,
            "rebuild": self.rebuild,
            "rebuilder": self.rebuilder.describe() if self.rebuild else "",
        }

    def refuse_nameless(self) -> None:
        """InputError for an error or cost that another search could not be told from: a lambda, a function made inside
        another one, an object without describe().
        """
        for what, given in (("error", self.error), ("cost", self.cost)):
            plain = isinstance(given, FunctionType) and given.__qualname__ == given.__name__ != "<lambda>"
            if callable(given) and not plain and not hasattr(given, "describe"):
                raise InputError(
                    f"{what} is {_name(given)}, which does not say what it measures, so a checkpoint could be another "
                    "search's. Give an object with describe() -> str that names its data, or leave checkpoint out."
                )


def _asked(what: str, given: Callable[[Any], float], of: Any, counts: Counts) -> float:
    """What the caller's error or cost says of a candidate, as a number that JSON knows."""
    try:
        value = given(of)
    except PrunekitError:
        raise
    except Exception as err:
        where = f"the {what} {_name(given)} failed on the candidate {counts[:4]}..."
        raise RuntimeFailure(f"{where}: {type(err).__name__}: {err}") from err
    try:
        return float(value + 0)  # a text of digits is no number
    except (TypeError, ValueError, RuntimeError) as err:
        raise InputError(f"the {what} {_name(given)} gave {value!r:.60}; it must give one number.") from err


@contextmanager
def one_thread() -> Iterator[None]:
    """torch with one thread on the CPU meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
