"""How the masks move, and whether a search is long enough for that."""

from __future__ import annotations

import math
from dataclasses import dataclass

from prunekit.errors import InputError
from prunekit.methods.bilevel.mask import START


@dataclass(frozen=True)
class MaskConfig:
    """How the masks move. threshold: tau. lr: Adam's. inner_steps: weight steps to one step of the masks. beta: weight
    of the MACs term. lam: lambda, weight of the implicit term. relative: both in units of the direct term's running
    size, see `hypergradient`; False: the paper's raw numbers. implicit: False leaves that term out. ramp: share of the
    search in which the target comes down from the dense MACs; 0: it is there from the start, as in the paper.

    Adam moves all s alike at first, and at beta 25 nearly all masks close together when they reach the threshold, ramp
    or not, and reopen. On the course's MobileNetV2 a tenth of beta and ten times lam were better (claim B3): try them.
    """

    threshold: float = 0.5
    lr: float = 0.02
    inner_steps: int = 1
    beta: float = 25.0
    lam: float = 1.0
    relative: bool = True
    implicit: bool = True
    ramp: float = 0.6

    def __post_init__(self) -> None:
        for name in ("threshold", "lr", "beta", "lam", "ramp"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise InputError(f"MaskConfig.{name} is {value!r}; give a finite number.")
        for name in ("relative", "implicit"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"MaskConfig.{name} is {getattr(self, name)!r}; give True or False.")
        if not 0 <= self.threshold < START:
            what = "opens every unit for good, s is never below 0" if self.threshold < 0 else "closes every unit"
            raise InputError(
                f"threshold {self.threshold} {what}: masks start at s = {START:g}. Give a number in [0, {START:g}), "
                "such as 0.5."
            )
        if type(self.inner_steps) is not int or self.inner_steps < 1:
            raise InputError(f"inner_steps is {self.inner_steps!r}; give a whole number from 1 on.")
        if not 0 <= self.ramp <= 1:
            raise InputError(f"ramp is {self.ramp!r}; give the share of the search, from 0 to 1.")
        for name, low in (("lr", "above 0"), ("beta", "from 0 on"), ("lam", "from 0 on")):
            value = getattr(self, name)
            if value < 0 or (name == "lr" and value == 0):
                raise InputError(f"MaskConfig.{name} is {value!r}; give a number {low}.")

    def too_short(self, steps: int) -> str:
        """Why a search of so many steps can hardly close a unit: Adam moves s by about lr an update. "" if it can."""
        updates, way = steps // self.inner_steps, START - self.threshold
        if updates * self.lr >= way - 1e-9:
            return ""
        return (
            f"{updates} updates of lr {self.lr:g} move a mask by {updates * self.lr:.2g} or so, to close it takes "
            f"{way:.2g}: the closing step chooses, not the search. Give more steps or the masks a larger lr"
        )
