"""Lesson 05: what two maps share, all pairs, one matrix product (the clique: clique_05). U channels, P pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from prunekit.course.exercises import Exercise, Mistake
from prunekit.course.exercises.clique_05 import CLIQUE, SCORES
from prunekit.course.exercises.quiz_05 import QUIZ

__all__ = ["EXERCISES", "QUIZ"]


def _maps(*shape: int, seed: int = 0, loud: float = 2.0) -> Tensor:
    """Softmax over the last axis of random numbers."""
    return (loud * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).softmax(-1)


def redundancy(p, q):
    m = (p + q) / 2
    js = ((p * (p / m).log()).sum() + (q * (q / m).log()).sum()) / 2
    return torch.tensor(2.0).log() - js


def _kl(a, b):
    return (a * (a / b).log()).sum()


PAIR = Exercise(
    id="05.1",
    title="what two maps share",
    reference=redundancy,
    cases=lambda: ((_maps(8), _maps(8, seed=1)), (_maps(12, seed=2), _maps(12, seed=3, loud=0.5))),
    hints=(
        "First the map in the middle, `m = (p + q) / 2`. How far is each of the two from it?",
        "The distance of `p` from `m` is `p.mul((p / m).log()).sum()`. The divergence is half of the two together.",
        "With `js` in hand, the answer is `torch.tensor(2.0).log() - js`.",
    ),
    mistakes=(
        Mistake(
            "divergence",
            lambda p, q: (_kl(p, (p + q) / 2) + _kl(q, (p + q) / 2)) / 2,
            "that is the divergence, how much they differ: redundancy is log 2 minus it",
        ),
        Mistake(
            "not halved",
            lambda p, q: torch.tensor(2.0).log() - _kl(p, (p + q) / 2) - _kl(q, (p + q) / 2),
            "the two distances count half each: their sum must not exceed log 2",
        ),
        Mistake(
            "no middle",
            lambda p, q: torch.tensor(2.0).log() - (_kl(p, q) + _kl(q, p)) / 2,
            "that measures from `p` to `q` directly, which has no upper end: measure both from the middle",
        ),
        Mistake(
            "one side",
            lambda p, q: torch.tensor(2.0).log() - _kl(p, (p + q) / 2),
            "`q` has a distance from the middle too",
        ),
        Mistake(
            "sum for the middle",
            lambda p, q: torch.tensor(2.0).log() - (_kl(p, p + q) + _kl(q, p + q)) / 2,
            "`p + q` adds up to 2: the middle is half of it",
        ),
    ),
    alternatives=(
        lambda p, q: ((p + q) * (p + q).log() - p * p.log() - q * q.log()).sum() / 2,
        lambda p, q: 0.6931471805599453 - 0.5 * (_kl(p, 0.5 * p + 0.5 * q) + _kl(q, 0.5 * p + 0.5 * q)),
    ),
    note="Equal maps give log 2, about 0.69; maps that never overlap give 0. Nothing lies outside.",
)


def edge_weights(p):
    entropy = -(p * p.log()).sum(1)
    middle = (p[:, None] + p) / 2
    js = -(middle * middle.log()).sum(2) - (entropy[:, None] + entropy) / 2
    return 1 - torch.tensor(2.0).log() + js


def _entropy(p):
    return -(p * p.log()).sum(-1)


EDGES = Exercise(
    id="05.2",
    title="all pairs",
    reference=edge_weights,
    cases=lambda: ((_maps(3, 6),), (_maps(4, 5, seed=1),)),
    hints=(
        "`p[:, None] + p` holds the sums of all pairs of rows, (U, U, P).",
        "Three entropies: of the middle of each pair, (U, U), and of each row, (U,).",
        "The mean of two rows' entropies for all pairs is `(entropy[:, None] + entropy) / 2`. Then 1 - (log 2 - js).",
    ),
    mistakes=(
        Mistake(
            "redundancy",
            lambda p: 1 - edge_weights(p),
            "those are the redundancies: an edge weighs 1 minus that, so that channels that differ pull together",
        ),
        Mistake(
            "divergence",
            lambda p: edge_weights(p) - 1 + torch.tensor(2.0).log(),
            "that is the divergence itself; the weight is 1 - (log 2 - divergence)",
        ),
        Mistake(
            "one entropy",
            lambda p: 1 - torch.tensor(2.0).log() + _entropy((p[:, None] + p) / 2) - _entropy(p),
            "you took away one row's entropy: take the mean of the two rows of each pair, (U, U)",
        ),
        Mistake(
            "both entropies",
            lambda p: (
                1 - torch.tensor(2.0).log() + _entropy((p[:, None] + p) / 2) - (_entropy(p)[:, None] + _entropy(p))
            ),
            "the mean of the two rows' entropies is wanted, not their sum",
        ),
        Mistake(
            "sign",
            lambda p: 1 - torch.tensor(2.0).log() - (edge_weights(p) - 1 + torch.tensor(2.0).log()),
            "the divergence has the wrong sign: two equal rows weigh least, all others more",
        ),
    ),
    alternatives=(
        lambda p: torch.stack([torch.stack([1 - redundancy(a, b) for b in p]) for a in p]),
        lambda p: (
            (1 - (torch.special.entr(p).sum(1)[:, None] + torch.special.entr(p).sum(1)) / 2)
            - torch.tensor(2.0).log()
            + torch.special.entr((p[:, None] + p) / 2).sum(2)
        ),
    ),
    note="A pair costs one logarithm a pixel; the entropies of the rows are shared by all their pairs.",
)


def by_product(p, kappa, spacing):
    angle = spacing * p.log()
    r = spacing * kappa[0] * p.sqrt() @ p.sqrt().T
    for j in range(1, len(kappa)):
        for wave in (torch.cos(j * angle), torch.sin(j * angle)):
            r = r + 2 * spacing * kappa[j] * (p.sqrt() * wave) @ (p.sqrt() * wave).T
    return torch.tensor(2.0).log() * r


def _kappa(count: int, spacing: float) -> Tensor:
    at = spacing * torch.arange(count)
    return 2 / torch.tensor(4.0).log() / torch.cosh(torch.pi * at) / (1 + 4 * at**2)


def _features(p, kappa, spacing, *, twice=2.0, sine=True, root=True):
    """psi, (U, (2n + 1) P), and what it becomes with one thing forgotten."""
    size, angle = p.sqrt() if root else p, spacing * p.log()
    parts = [(spacing * kappa[0]).sqrt() * size]
    for j in range(1, len(kappa)):
        scale = (twice * spacing * kappa[j]).sqrt() * size
        parts += [scale * (j * angle).cos()] + ([scale * (j * angle).sin()] if sine else [])
    psi = torch.cat(parts, 1)
    return torch.tensor(2.0).log() * psi @ psi.T


SPECTRAL = Exercise(
    id="05.3",
    title="one matrix product",
    reference=by_product,
    cases=lambda: ((_maps(3, 5), _kappa(3, 0.35), 0.35), (_maps(4, 6, seed=1), _kappa(5, 0.3), 0.3)),
    hints=(
        "Start with j = 0: no cosine, no sine. `p.sqrt() @ p.sqrt().T` times `spacing` times `kappa[0]`.",
        "From j = 1 on, two more products each: of `p.sqrt()` times the cosine of j · spacing · log p, and the sine.",
        "Each of them counts 2 · spacing · `kappa[j]`. At the end, log 2 times everything.",
    ),
    mistakes=(
        Mistake(
            "no 2",
            lambda p, kappa, spacing: _features(p, kappa, spacing, twice=1.0),
            "from j = 1 on each product counts twice: the harmonics -j and +j are folded into one",
        ),
        Mistake(
            "cosines only",
            lambda p, kappa, spacing: _features(p, kappa, spacing, sine=False),
            "the cosine of a difference needs both: cos a cos b + sin a sin b",
        ),
        Mistake(
            "no root",
            lambda p, kappa, spacing: _features(p, kappa, spacing, root=False),
            "each wave is multiplied by `p.sqrt()`, so that the product of two has the root of p q",
        ),
        Mistake(
            "0 twice",
            lambda p, kappa, spacing: _features(p, torch.cat([2 * kappa[:1], kappa[1:]]), spacing),
            "j = 0 has no partner: it counts once",
        ),
        Mistake(
            "first only",
            lambda p, kappa, spacing: _features(p, kappa[:1], spacing),
            "the harmonics from j = 1 on are missing",
        ),
    ),
    alternatives=(
        _features,
        lambda p, kappa, spacing: (
            torch.tensor(2.0).log()
            * sum(
                (1 if j == 0 else 2)
                * spacing
                * kappa[j]
                * ((p[:, None] * p).sqrt() * torch.cos(j * spacing * (p[:, None].log() - p.log()))).sum(2)
                for j in range(len(kappa))
            )
        ),
    ),
    note="No logarithm of a pair is left: each map is turned into waves once, and a matrix product does the rest.",
)

EXERCISES = (PAIR, EDGES, SPECTRAL, CLIQUE, SCORES)
