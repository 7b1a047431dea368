"""Lesson 09: the proof of a file, how much of a promise is kept, round widths within a budget, 8 bits by hand."""

from __future__ import annotations

from statistics import mean, median

import torch
from torch import Tensor

from prunekit.course.exercises import Exercise, Mistake
from prunekit.course.exercises.quiz_09 import QUIZ
from prunekit.course.exercises.widths_09 import WIDTHS

__all__ = ["EXERCISES", "QUIZ"]


def kept_promise(dense_ms, small_ms, ideal):
    from statistics import median

    return median(dense_ms) / median(small_ms) / ideal


def _laps() -> tuple[tuple[list[float], list[float], float], ...]:
    first = ([10.0, 11.0, 31.0, 10.5, 10.2], [5.4, 6.2, 5.9, 17.0, 6.0], 2.0)
    return first, ([8.0, 8.4, 9.9, 20.0], [4.0, 12.0, 5.0, 4.4], 4.0)


def _median_by_hand(values):
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2


PROMISE = Exercise(
    id="09.2",
    title="how much of the promise was kept",
    reference=kept_promise,
    cases=_laps,
    hints=(
        "One number for each network first. Which one does a slow lap not spoil?",
        "`from statistics import median`. The speed-up is the dense network's median divided by the small one's.",
        "The share of the promise is `median(dense_ms) / median(small_ms) / ideal`.",
    ),
    mistakes=(
        Mistake(
            "mean",
            lambda dense_ms, small_ms, ideal: mean(dense_ms) / mean(small_ms) / ideal,
            "the mean carries every slow lap with it: take the median",
        ),
        Mistake(
            "upside down",
            lambda dense_ms, small_ms, ideal: median(small_ms) / median(dense_ms) / ideal,
            "that is small over dense: a speed-up is the old time divided by the new one",
        ),
        Mistake(
            "speed-up only",
            lambda dense_ms, small_ms, ideal: median(dense_ms) / median(small_ms),
            "that is the speed-up: divide it by the ideal one",
        ),
        Mistake(
            "difference",
            lambda dense_ms, small_ms, ideal: ideal - median(dense_ms) / median(small_ms),
            "that is a difference: asked is which share of `ideal` was reached",
        ),
        Mistake(
            "median of ratios",
            lambda dense_ms, small_ms, ideal: median(d / s for d, s in zip(dense_ms, small_ms)) / ideal,
            "the median of the laps' ratios can be defended, but here each network gets its own median first",
        ),
        Mistake(
            "best lap",
            lambda dense_ms, small_ms, ideal: min(dense_ms) / min(small_ms) / ideal,
            "the best lap says what is possible on an idle machine, the median what is usual: take the median",
        ),
    ),
    alternatives=(
        lambda dense_ms, small_ms, ideal: _median_by_hand(dense_ms) / (_median_by_hand(small_ms) * ideal),
        lambda dense_ms, small_ms, ideal: (
            torch.tensor(dense_ms).quantile(0.5) / torch.tensor(small_ms).quantile(0.5) / ideal
        ).item(),
    ),
    note="1 means that the MACs kept their word. Above 1 happens too: a smaller network may fit a cache.",
)


def error_and_limit(file, eager, exact, tolerance):
    scale = exact.abs().max()
    error = (file - exact).abs().max() / scale
    eager_error = (eager - exact).abs().max() / scale
    return error.item(), (tolerance * eager_error + 1e-6).item()


def _outputs() -> tuple[tuple[Tensor, Tensor, Tensor, float], ...]:
    def three(seed: int, size: float) -> tuple[Tensor, Tensor, Tensor]:
        dice = torch.Generator().manual_seed(seed)
        exact, a, b = (torch.randn(2, 3, 4, generator=dice, dtype=torch.float64) for _ in range(3))
        exact[0, 0, 0] = -9.0  # the largest output is a negative one
        return exact + 0.5 * size * a, exact + 0.1 * b, exact

    return (*three(0, 0.2), 10.0), (*three(1, 4.0), 5.0)


def _error(y, exact, *, scale=None):
    return ((y - exact).abs().max() / (exact.abs().max() if scale is None else scale)).item()


PROOF = Exercise(
    id="09.1",
    title="the proof of a file",
    reference=error_and_limit,
    cases=_outputs,
    hints=(
        "Two errors are needed, both against `exact`: the file's, and eager's.",
        "An error is `(y - exact).abs().max()` divided by `exact.abs().max()`.",
        "The limit is `tolerance` times eager's error, plus `1e-6`. Return both as numbers, the file's error first.",
    ),
    mistakes=(
        Mistake(
            "not relative",
            lambda file, eager, exact, tolerance: (
                _error(file, exact, scale=1),
                tolerance * _error(eager, exact, scale=1) + 1e-6,
            ),
            "these are absolute errors: divide by the largest output, so that large logits do not look wrong",
        ),
        Mistake(
            "against eager",
            lambda file, eager, exact, tolerance: (_error(file, eager), tolerance * _error(eager, exact) + 1e-6),
            "the file is compared with eager float32, which is wrong too: compare it with `exact`",
        ),
        Mistake(
            "element by element",
            lambda file, eager, exact, tolerance: (
                ((file - exact) / exact).abs().max().item(),
                tolerance * ((eager - exact) / exact).abs().max().item() + 1e-6,
            ),
            "each element is divided by itself, and one near zero decides: divide by the largest output",
        ),
        Mistake(
            "mean",
            lambda file, eager, exact, tolerance: (
                ((file - exact).abs().mean() / exact.abs().max()).item(),
                tolerance * ((eager - exact).abs().mean() / exact.abs().max()).item() + 1e-6,
            ),
            "the mean hides a single broken channel: take the largest difference",
        ),
        Mistake(
            "no abs",
            lambda file, eager, exact, tolerance: (_error(file, exact, scale=exact.max()), _limit(eager, exact, 0)),
            "the largest output may be a negative one: `exact.abs().max()`",
        ),
        Mistake(
            "no tolerance",
            lambda file, eager, exact, tolerance: (_error(file, exact), _error(eager, exact) + 1e-6),
            "the limit is `tolerance` times eager's error: a file may round in another order",
        ),
    ),
    alternatives=(
        lambda file, eager, exact, tolerance: (
            torch.dist(file, exact, p=float("inf")).item() / exact.abs().amax().item(),
            tolerance * torch.dist(eager, exact, p=float("inf")).item() / exact.abs().amax().item() + 1e-6,
        ),
        lambda file, eager, exact, tolerance: (_error(file, exact), 1e-6 + _error(eager, exact) * tolerance),
    ),
    note="The limit moves with the network. What float32 itself cannot hold, no file can.",
)


def _limit(eager, exact, tolerance):
    return tolerance * _error(eager, exact, scale=exact.max()) + 1e-6


def scale_and_zero(x):
    low, high = min(x.min().item(), 0.0), max(x.max().item(), 0.0)
    scale = (high - low) / 255
    return scale, round(-low / scale)


def _values() -> tuple[tuple[Tensor], ...]:
    return (torch.tensor([-1.3, 0.2, 3.4, 0.9]),), (torch.tensor([2.0, 5.1, 3.3]),), (torch.tensor([-7.0, -0.52]),)


def _between(low, high, steps=255):
    scale = (high - low) / steps
    return scale, round(-low / scale)


INT8 = Exercise(
    id="09.4",
    title="scale and zero point",
    reference=scale_and_zero,
    cases=_values,
    hints=(
        "256 integers have 255 steps between them. Which range do they have to cover?",
        "From `low = min(x.min(), 0)` to `high = max(x.max(), 0)`: zero is padding, and must have a code.",
        "`scale = (high - low) / 255`; the integer that stands for 0 is `round(-low / scale)`.",
    ),
    mistakes=(
        Mistake(
            "without zero",
            lambda x: _between(x.min().item(), x.max().item()),
            "the range has to contain 0, even where x does not: padding and ReLU make zeros",
        ),
        Mistake(
            "256 steps",
            lambda x: _between(min(x.min().item(), 0.0), max(x.max().item(), 0.0), 256),
            "256 integers have 255 steps between them",
        ),
        Mistake(
            "symmetric",
            lambda x: (x.abs().max().item() / 127, 0),
            "that is the symmetric way, which suits weights: here the range goes from low to high",
        ),
        Mistake(
            "sign",
            lambda x: (scale_and_zero(x)[0], -scale_and_zero(x)[1]),
            "low becomes integer 0, so 0 becomes `-low / scale`, which is not negative",
        ),
        Mistake(
            "not rounded",
            lambda x: (scale_and_zero(x)[0], -min(x.min().item(), 0.0) / scale_and_zero(x)[0]),
            "the zero point is an integer, or 0 would have no code of its own: round it",
        ),
        Mistake(
            "low",
            lambda x: (scale_and_zero(x)[0], min(x.min().item(), 0.0)),
            "the second number is the integer that stands for 0, not the smallest value",
        ),
    ),
    alternatives=(
        lambda x: (
            ((x.clamp_min(0).max() - x.clamp_max(0).min()) / 255).item(),
            int((-x.clamp_max(0).min() * 255 / (x.clamp_min(0).max() - x.clamp_max(0).min())).round()),
        ),
        lambda x: _by_cat(x),
    ),
    note="Nothing is off by more than half a step. A wide range makes a wide step: one outlier costs all the others.",
)


def _by_cat(x):
    low, high = (value.item() for value in torch.cat([x, torch.zeros(1)]).aminmax())
    return (high - low) / 255, round(255 * -low / (high - low))


EXERCISES = (PROOF, PROMISE, WIDTHS, INT8)
