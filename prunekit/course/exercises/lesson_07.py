"""Lesson 07: top-r with values, gathered work (annealing and the teacher: training_07). B images, U neurons, K kept."""

from __future__ import annotations

import torch
from torch import Tensor

from prunekit.course.exercises import Exercise, Mistake
from prunekit.course.exercises.quiz_07 import QUIZ
from prunekit.course.exercises.training_07 import ANNEALED, SOFT

__all__ = ["EXERCISES", "QUIZ"]


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def top_r(g, keep):
    values, places = g.topk(keep, dim=1)
    return torch.zeros_like(g).scatter(1, places, values)


def _chosen_by(votes_U, g, keep):
    """One choice for all images."""
    return g * (votes_U >= votes_U.topk(keep).values.min()).to(g)


def _all_choices_for_all(g, keep):
    stays_U = torch.zeros(g.shape[1])
    stays_U[g.topk(keep, dim=1).indices.flatten()] = 1.0
    return g * stays_U


TOP_R = Exercise(
    id="07.1",
    title="the largest gates, with their values",
    reference=top_r,
    cases=lambda: ((_random(3, 6), 2), (_random(2, 5, seed=1), 4)),
    hints=(
        "`g.topk(keep, dim=1)` gives two things: the values, and where they stand.",
        "Start from `torch.zeros_like(g)` and put the values back in their places.",
        "`zeros.scatter(1, places, values)` writes row by row.",
    ),
    mistakes=(
        Mistake(
            "hard",
            lambda g, keep: torch.zeros_like(g).scatter(1, g.topk(keep, dim=1).indices, 1.0),
            "you kept ones: then nothing the predictor says, but for the order, reaches the loss. Keep the values",
        ),
        Mistake(
            "first image",
            lambda g, keep: _chosen_by(g[0], g, keep),
            "all images got the first one's choice: each row has its own largest gates",
        ),
        Mistake(
            "by magnitude",
            lambda g, keep: torch.zeros_like(g).scatter(
                1, g.abs().topk(keep, dim=1).indices, g.gather(1, g.abs().topk(keep, dim=1).indices)
            ),
            "a gate of -3 is not large: the paper keeps the largest, not the largest magnitudes",
        ),
        Mistake(
            "smallest",
            lambda g, keep: g - top_r(g, g.shape[1] - keep),
            "those are the smallest: the largest `keep` stay",
        ),
        Mistake(
            "compact",
            lambda g, keep: g.topk(keep, dim=1).values,
            "those are the values alone, (B, keep): the mask needs a place for every neuron, (B, U)",
        ),
        Mistake(
            "over the batch",
            lambda g, keep: (g >= g.flatten().topk(keep * len(g)).values.min()).to(g) * g,
            "the images compete with one another: each keeps `keep` of its own",
        ),
        Mistake(
            "mean image",
            lambda g, keep: _chosen_by(g.mean(0), g, keep),
            "you chose once, by the mean over the batch: each image, each row, has largest gates of its own",
        ),
        Mistake(
            "rows mixed",
            _all_choices_for_all,
            "every image also keeps what the others chose: the places of a row belong to that row alone",
        ),
        Mistake(
            "keep and remove exchanged",
            lambda g, keep: top_r(g, g.shape[1] - keep),
            "`keep` is how many stay; you removed that many",
        ),
        Mistake(
            "one short",
            lambda g, keep: g * (g > g.topk(keep, dim=1).values[:, -1:]).to(g),
            "one too few: the `keep`-th largest stays as well, so `>=` and not `>`",
        ),
        Mistake(
            "boolean",
            lambda g, keep: g >= g.topk(keep, dim=1).values[:, -1:],
            "that says which ones stay, true or false; multiply the gates by it, so that their values stay too",
        ),
    ),
    alternatives=(
        lambda g, keep: torch.where(g >= g.sort(1, descending=True).values[:, keep - 1 : keep], g, 0.0),
        lambda g, keep: g * ((g[:, :, None] < g[:, None]).sum(2) < keep).to(g),
    ),
    note="The values are the wire: through them the loss tells the predictor whether it was right.",
)


def gathered(x, w1, w2, places, values):
    return x @ (w1[places] * values[:, None]).T @ w2[:, places].T


def _hollow():
    """Rows that nobody may touch are not there: whoever computes with them gets NaN everywhere."""
    w1 = _random(5, 3, seed=6)
    w1[[0, 2, 3]] = torch.nan
    return w1


def _masked(x, w1, w2, places, values):
    mask_U = torch.zeros(len(w1)).scatter(0, places, values)
    return (x @ w1.T * mask_U) @ w2.T


GATHERED = Exercise(
    id="07.2",
    title="only the work that is needed",
    reference=gathered,
    cases=lambda: (
        (_random(4, 3), _random(6, 3, seed=1), _random(3, 6, seed=2), torch.tensor([4, 1]), torch.tensor([0.5, 2.0])),
        (_random(2, 5), _random(4, 5, seed=3), _random(3, 4, seed=4), torch.tensor([3, 0, 2]), _random(3, seed=5)),
        (_random(4, 3, seed=7), _hollow(), _random(4, 5, seed=8), torch.tensor([4, 1]), torch.tensor([0.5, 2.0])),
    ),
    hints=(
        "A neuron is a row of `w1` and a column of `w2`: take both before you multiply.",
        "`w1[places]` is (K, C) and `w2[:, places]` is (O, K).",
        "Multiply the rows by `values[:, None]`; then `x @ rows.T @ columns.T`.",
    ),
    mistakes=(
        Mistake(
            "no values",
            lambda x, w1, w2, places, values: x @ w1[places].T @ w2[:, places].T,
            "the kept neurons come with their gates: multiply by the values",
        ),
        Mistake(
            "twice",
            lambda x, w1, w2, places, values: x @ (w1[places] * values[:, None]).T @ (w2[:, places] * values).T,
            "each gate counts once: you scaled the rows and the columns",
        ),
        Mistake(
            "columns in order",
            lambda x, w1, w2, places, values: x @ (w1[places] * values[:, None]).T @ w2[:, places.sort().values].T,
            "the columns must be in the same order as the rows, or neurons are read as one another",
        ),
        Mistake(
            "first columns",
            lambda x, w1, w2, places, values: x @ (w1[places] * values[:, None]).T @ w2[:, : len(places)].T,
            "the second layer reads its first columns, whoever the kept neurons are: take `w2[:, places]`",
        ),
        Mistake(
            "the hidden ones",
            lambda x, w1, w2, places, values: x @ (w1[places] * values[:, None]).T,
            "those are the kept neurons; the second layer is still to come",
        ),
        Mistake(
            "places in order",
            lambda x, w1, w2, places, values: gathered(x, w1, w2, places.sort().values, values),
            "you sorted the places, but not the values: `values[k]` belongs to the neuron `places[k]`",
        ),
        Mistake(
            "masked",
            _masked,
            "all neurons are computed and most thrown away: take w1[places] before the product",
        ),
    ),
    alternatives=(
        lambda x, w1, w2, places, values: (x @ w1[places].T * values) @ w2[:, places].T,
        lambda x, w1, w2, places, values: sum(
            values[k] * (x @ w1[u])[:, None] * w2[:, u] for k, u in enumerate(places.tolist())
        ),
    ),
    note=(
        "The value may sit on the rows, the columns or between; K x C numbers are fewer than K x N. And "
        "`(x @ w1.T)[:, places]` gives the same numbers, but has computed all neurons before it drops most."
    ),
)


EXERCISES = (TOP_R, GATHERED, ANNEALED, SOFT)
