"""Lesson 03: five ideas of importance, one function each (one list of all layers: layers_03). U units, C inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from prunekit.course.exercises import Exercise, Mistake
from prunekit.course.exercises.layers_03 import LIST
from prunekit.course.exercises.quiz_03 import QUIZ

__all__ = ["EXERCISES", "QUIZ"]


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def l1_scores(weight):
    return weight.abs().flatten(1).sum(1)


L1 = Exercise(
    id="03.1",
    title="L1",
    reference=l1_scores,
    cases=lambda: ((_random(4, 3, 2, 2),), (_random(2, 5, 1, 1, seed=1),)),
    hints=(
        "One number for each channel that the layer makes. Which axis of the weight counts those?",
        "Axis 0. So take `abs()`, and add up over all the other axes.",
        "`weight.abs().flatten(1)` has one row a channel: `.sum(1)`.",
    ),
    mistakes=(
        Mistake("columns", lambda w: w.abs().sum((0, 2, 3)), "those are the columns: the channels that are read"),
        Mistake("no abs", lambda w: w.flatten(1).sum(1), "without `abs()` positive and negative weights cancel"),
        Mistake("L2", lambda w: w.flatten(1).norm(dim=1), "that is the L2 norm; L1 adds up absolute values"),
        Mistake("largest", lambda w: w.abs().flatten(1).amax(1), "the sum of all weights is wanted, not the largest"),
        Mistake("abs last", lambda w: w.flatten(1).sum(1).abs(), "`abs()` comes before the sum, or weights cancel"),
    ),
    alternatives=(
        lambda weight: weight.flatten(1).norm(p=1, dim=1),
        lambda weight: torch.stack([row.abs().sum() for row in weight]),
    ),
)


def taylor_scores(maps, gradient):
    return (maps * gradient).sum((0, 2, 3)) ** 2


TAYLOR = Exercise(
    id="03.2",
    title="the gate that is not there",
    reference=taylor_scores,
    cases=lambda: (
        (_random(2, 3, 2, 2), _random(2, 3, 2, 2, seed=1)),
        (_random(1, 2, 3, 1, seed=2), _random(1, 2, 3, 1, seed=3)),
    ),
    hints=(
        "A gate multiplies a whole map, in every image. What does turning it a little do to the loss?",
        "dL/dg is the sum of map times gradient over images and pixels. The score is its square.",
        "`maps.mul(gradient).sum((0, 2, 3))` is dL/dg for all channels.",
    ),
    mistakes=(
        Mistake(
            "square first",
            lambda m, g: ((m * g) ** 2).sum((0, 2, 3)),
            "one gate, one derivative: add up over pixels first, square afterwards",
        ),
        Mistake("no square", lambda m, g: (m * g).sum((0, 2, 3)), "up or down counts the same: square it"),
        Mistake("abs", lambda m, g: (m * g).sum((0, 2, 3)).abs(), "the square is wanted, not the absolute value"),
        Mistake(
            "image by image",
            lambda m, g: ((m * g).sum((2, 3)) ** 2).sum(0),
            "the gate is the same for all images of a batch: add over images before squaring",
        ),
        Mistake(
            "gradient alone", lambda m, g: g.sum((0, 2, 3)) ** 2, "the gate multiplies the map: where are the maps?"
        ),
    ),
    alternatives=(
        lambda maps, gradient: torch.einsum("buhw,buhw->u", maps, gradient).square(),
        lambda maps, gradient: torch.stack([(maps[:, i] * gradient[:, i]).sum() ** 2 for i in range(maps.shape[1])]),
    ),
    note="In the paper's own code gates sit in the network. Only the product of map and gradient is ever needed.",
)


def fpgm_scores(weight):
    rows = weight.flatten(1)
    return torch.cdist(rows, rows).sum(1)


FPGM = Exercise(
    id="03.3",
    title="the middle of the crowd",
    reference=fpgm_scores,
    cases=lambda: ((_random(4, 2, 2, 2),), (_random(3, 1, 3, 3, seed=1),)),
    hints=(
        "Turn each filter into one long vector first.",
        "`torch.cdist(rows, rows)` holds the distances of all pairs, (U, U).",
        "`weight.flatten(1)` gives the rows; the sum of a row of distances is the score.",
    ),
    mistakes=(
        Mistake(
            "squared",
            lambda w: ((w.flatten(1)[:, None] - w.flatten(1)[None]) ** 2).sum((1, 2)),
            "that adds up squared distances: the root comes before the sum",
        ),
        Mistake(
            "nearest",
            lambda w: (torch.cdist(w.flatten(1), w.flatten(1)) + 1e9 * torch.eye(len(w))).amin(1),
            "that is the nearest neighbour; FPGM adds up the distances to all",
        ),
        Mistake(
            "to the mean",
            lambda w: (w.flatten(1) - w.flatten(1).mean(0)).norm(dim=1),
            "that is the distance to the mean filter, not the sum of distances to all filters",
        ),
        Mistake(
            "city blocks",
            lambda w: torch.cdist(w.flatten(1), w.flatten(1), p=1).sum(1),
            "those are L1 distances; the formula has the Euclidean ones",
        ),
    ),
    alternatives=(
        lambda weight: torch.tensor([sum(float((a - b).norm()) for b in weight) for a in weight]),
        lambda weight: (weight.flatten(1)[:, None] - weight.flatten(1)[None]).norm(dim=2).sum(1),
    ),
    note="The point with the smallest sum of distances is called the geometric median, which gave the method its name.",
)


def refit(X, W, keep):
    return torch.linalg.lstsq(X[:, keep], X @ W).solution


def _refit_cases() -> tuple[tuple[Tensor, Tensor, list[int]], ...]:
    mixed = _random(20, 4) @ (torch.eye(4) + 0.5)  # columns that have something in common
    return (mixed, _random(4, 2, seed=1), [0, 2, 3]), (_random(9, 3, seed=2).cumsum(1), _random(3, 3, seed=3), [1])


REFIT = Exercise(
    id="03.4",
    title="repair the reader",
    reference=refit,
    cases=_refit_cases,
    hints=(
        "What did the reader compute before the cut, and from what must it compute it now?",
        "Its old output is `X @ W`. What is left of the inputs is `X[:, keep]`.",
        "`A` is `X[:, keep]`, `B` is `X @ W`.",
    ),
    mistakes=(
        Mistake(
            "cut only",
            lambda X, W, keep: W[keep],
            "those are the old weights of the kept inputs: fit the kept inputs to what ALL inputs gave before",
        ),
        Mistake("all inputs", lambda X, W, keep: W, "the new weights are for the kept inputs only, `X[:, keep]`"),
        Mistake(
            "the output itself",
            lambda X, W, keep: X[:, keep] @ refit(X, W, keep),
            "that is the new output; the new weights are wanted",
        ),
        Mistake("upside down", lambda X, W, keep: refit(X, W, keep).T, "one row for each kept input: no transposing"),
    ),
    alternatives=(
        lambda X, W, keep: torch.linalg.pinv(X[:, keep]) @ (X @ W),
        lambda X, W, keep: torch.linalg.solve(X[:, keep].T @ X[:, keep], X[:, keep].T @ (X @ W)),
    ),
    note="What the removed inputs had in common with the kept ones is taken over; only what nobody else knows is lost.",
)


def rank_scores(maps):
    return torch.linalg.matrix_rank(maps).float().mean(0)


def _rank_cases() -> tuple[tuple[Tensor], ...]:
    line = _random(2, 3, 4, 1) @ _random(2, 3, 1, 5, seed=1)  # rank 1
    line[0, 1] = 0
    line[1, 2] += _random(4, 5, seed=2)
    return (line,), (torch.stack([torch.eye(3), torch.diag(torch.tensor([1.0, 0, 2.0]))])[:, None],)


RANK = Exercise(
    id="03.5",
    title="mean rank",
    reference=rank_scores,
    cases=_rank_cases,
    hints=(
        "`torch.linalg` has a function for the rank, and it takes many matrices at once.",
        "`torch.linalg.matrix_rank(maps)` is (B, U): one whole number for each image and channel.",
        "A mean needs numbers with a point: `.float().mean(0)`.",
    ),
    mistakes=(
        Mistake(
            "of the mean map",
            lambda maps: torch.linalg.matrix_rank(maps.mean(0)).float(),
            "that is the rank of the mean map: rank first, then the mean over images",
        ),
        Mistake(
            "mean over channels",
            lambda maps: torch.linalg.matrix_rank(maps).float().mean(1),
            "one number for each channel: the mean goes over images, axis 0",
        ),
        Mistake(
            "sum",
            lambda maps: torch.linalg.matrix_rank(maps).float().sum(0) / maps.shape[1],
            "the mean divides by the number of images, axis 0",
        ),
        Mistake(
            "flattened",
            lambda maps: torch.linalg.matrix_rank(maps.flatten(2).movedim(1, 0)).float(),
            "each map is a matrix of its own, H x W: do not flatten it",
        ),
    ),
    alternatives=(
        lambda maps: (torch.linalg.svdvals(maps) > 1e-4).sum(-1).float().mean(0),
        lambda maps: sum(torch.linalg.matrix_rank(image).float() for image in maps) / len(maps),
    ),
)

EXERCISES = (L1, TAYLOR, FPGM, REFIT, RANK, LIST)
