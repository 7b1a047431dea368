"""Lesson 06: what a mask feels, its work, who came back (both hypergradients: levels_06). U units, P pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from prunekit.course.exercises import Exercise, Mistake
from prunekit.course.exercises.levels_06 import EXACT, IMPLICIT
from prunekit.course.exercises.quiz_06 import QUIZ

__all__ = ["EXERCISES", "QUIZ"]


def mask_gradient(s, threshold, maps, slope):
    return (maps * slope).sum(1)


def _felt(count: int, pixels: int, seed: int) -> tuple[Tensor, float, Tensor, Tensor]:
    """s on both sides of the threshold, maps, and what the loss says of each masked pixel."""
    dice = torch.Generator().manual_seed(seed)
    s = torch.linspace(0.1, 1.2, count)[torch.randperm(count, generator=dice)]
    return s, 0.5, torch.rand(count, pixels, generator=dice) + 0.1, torch.randn(count, pixels, generator=dice)


def _open(s: Tensor, threshold: float) -> Tensor:
    return (s > threshold).float()


FEELS = Exercise(
    id="06.1",
    title="what a mask feels",
    reference=mask_gradient,
    cases=lambda: (_felt(5, 4, 0), _felt(3, 6, 1)),
    hints=(
        "One `b` multiplies a whole map. What does the loss change by when that one number moves?",
        "Each pixel gives its value times its slope; the pixels of a map belong to one mask.",
        "Straight through means that `s` gets what `b` gets: the products of maps and slopes, summed over axis 1.",
    ),
    mistakes=(
        Mistake(
            "closed units feel nothing",
            lambda s, threshold, maps, slope: _open(s, threshold) * (maps * slope).sum(1),
            "yours is 0 where the unit is closed, and then nothing could ever come back: pass it through there as well",
        ),
        Mistake(
            "the step's own derivative",
            lambda s, threshold, maps, slope: torch.zeros(len(s)),
            "that is the true derivative of the step, 0 everywhere: straight through means to pretend that it is 1",
        ),
        Mistake(
            "mean over pixels",
            lambda s, threshold, maps, slope: (maps * slope).mean(1),
            "one mask multiplies all pixels of its map: add them up, a mean is too small by their number",
        ),
        Mistake(
            "times s",
            lambda s, threshold, maps, slope: s * (maps * slope).sum(1),
            "`s` itself does not multiply anything: the forward pass has `b`, whose derivative is passed on as it is",
        ),
        Mistake(
            "slopes alone",
            lambda s, threshold, maps, slope: slope.sum(1),
            "a faint map cannot matter as much as a loud one: the mask multiplies the map, so the map is in the "
            "derivative",
        ),
    ),
    alternatives=(
        lambda s, threshold, maps, slope: torch.einsum("up,up->u", maps, slope),
        lambda s, threshold, maps, slope: torch.stack([a @ b for a, b in zip(maps, slope)]),
    ),
    note="A closed unit is asked, in every step, what it would be good for. Sorting never asks.",
)


def regulariser(widths, kernels, pixels, full, target):
    def macs(n):
        return sum(n[i] * n[i + 1] * k * k * p for i, (k, p) in enumerate(zip(kernels, pixels)))

    return ((macs(widths) - target) / macs(full)) ** 2


def _work(n, kernels, pixels, *, power=2, inputs=None, use_pixels=True):
    """The work of a chain, with one thing changed."""
    first = n if inputs is None else inputs
    return sum(
        first[i] * n[i + 1] * k**power * (p if use_pixels else 1) for i, (k, p) in enumerate(zip(kernels, pixels))
    )


def _wrong(**how):
    """The regulariser with the work counted in another way."""

    def answer(widths, kernels, pixels, full, target):
        inputs = full if how.get("printed") else None
        more = {name: value for name, value in how.items() if name != "printed"}
        dense = _work(full, kernels, pixels, **more)
        return ((_work(widths, kernels, pixels, inputs=inputs, **more) - target) / dense) ** 2

    return answer


WORK = Exercise(
    id="06.2",
    title="the work of a mask",
    reference=regulariser,
    cases=lambda: (
        ([3, 5, 7, 2], [3, 3, 1], [64.0, 64.0, 16.0], [3, 12, 16, 2], 9000.0),
        ([3, 8, 4], [5, 1], [100.0, 100.0], [3, 8, 6], 90000.0),
    ),
    hints=(
        "Count one layer first: open outputs times open inputs times the kernel's area times pixels.",
        "Layer `i` reads `n[i]` channels and makes `n[i + 1]`. Add up over the layers.",
        "Then `((macs(widths) - target) / macs(full)) ** 2`.",
    ),
    mistakes=(
        Mistake(
            "as printed",
            _wrong(printed=True),
            "you count all inputs, as the paper prints it: a closed channel is not read by the next layer either",
        ),
        Mistake("kernel once", _wrong(power=1), "a kernel has an area: its side counts twice"),
        Mistake("no pixels", _wrong(use_pixels=False), "each of the kernel's products is made once for every pixel"),
        Mistake(
            "not relative",
            lambda widths, kernels, pixels, full, target: (_work(widths, kernels, pixels) - target) ** 2,
            "without division by the dense work, beta would mean something else for every network",
        ),
        Mistake(
            "relative to the target",
            lambda widths, kernels, pixels, full, target: ((_work(widths, kernels, pixels) - target) / target) ** 2,
            "relative to the DENSE work: then the term starts at the fraction to remove, squared",
        ),
        Mistake(
            "one side only",
            lambda widths, kernels, pixels, full, target: (
                max(0.0, (_work(widths, kernels, pixels) - target) / _work(full, kernels, pixels)) ** 2
            ),
            "below the target there is a way back as well: the distance counts on both sides",
        ),
        Mistake(
            "not squared",
            lambda widths, kernels, pixels, full, target: (
                abs(_work(widths, kernels, pixels) - target) / _work(full, kernels, pixels)
            ),
            "the distance is squared, so that the pull fades near the target",
        ),
    ),
    alternatives=(
        lambda widths, kernels, pixels, full, target: (
            (_work(widths, kernels, pixels) / _work(full, kernels, pixels) - target / _work(full, kernels, pixels)) ** 2
        ),
        lambda widths, kernels, pixels, full, target: (
            float(
                (
                    (torch.tensor(widths[:-1]) * torch.tensor(widths[1:]) * torch.tensor(kernels) ** 2).double()
                    @ torch.tensor(pixels).double()
                    - target
                )
                / (
                    (torch.tensor(full[:-1]) * torch.tensor(full[1:]) * torch.tensor(kernels) ** 2).double()
                    @ torch.tensor(pixels).double()
                )
            )
            ** 2
        ),
    ),
    note="Closing a channel saves twice: where it is made and where it is read. Half of all channels is about a "
    "quarter of the work.",
)


def returned(history):
    closed_once = ~history.all(0)
    return (closed_once & history[-1]).nonzero().flatten().tolist()


def _history(rows: tuple[str, ...]) -> Tensor:
    """Strings of 1 (open) and 0 (closed), one an update."""
    return torch.tensor([[mark == "1" for mark in row] for row in rows])


RETURNED = Exercise(
    id="06.5",
    title="who came back",
    reference=returned,
    cases=lambda: (
        (_history(("11111", "10110", "00111", "10101")),),
        (_history(("1111", "0111", "0011", "1011", "0010")),),
    ),
    hints=(
        "Two things must be true of a unit: it was closed at some time, and it is open in the last row.",
        "`history.all(0)` is True for units that were never closed.",
        "`(~history.all(0) & history[-1]).nonzero()`, flattened, as a list.",
    ),
    mistakes=(
        Mistake(
            "open at the end",
            lambda history: history[-1].nonzero().flatten().tolist(),
            "those are all that are open now; some of them were never away",
        ),
        Mistake(
            "ever closed",
            lambda history: (~history.all(0)).nonzero().flatten().tolist(),
            "those were closed once; not all of them are open again in the last row",
        ),
        Mistake(
            "opened at any time",
            lambda history: (history[1:] & ~history[:-1]).any(0).nonzero().flatten().tolist(),
            "a unit that opened and closed again has not come back: look at the last row",
        ),
        Mistake(
            "opened last",
            lambda history: (history[-1] & ~history[-2]).nonzero().flatten().tolist(),
            "that is the last update alone; a unit may have come back long before",
        ),
    ),
    alternatives=(
        lambda history: [u for u in range(history.shape[1]) if history[-1, u] and not history[:, u].all()],
        lambda history: torch.where(history[-1] & (history.int().min(0).values == 0))[0].tolist(),
    ),
    note="What comes back keeps the weights that it left with. A plan that is made once, by sorting, has no such list.",
)

EXERCISES = (FEELS, WORK, IMPLICIT, EXACT, RETURNED)
