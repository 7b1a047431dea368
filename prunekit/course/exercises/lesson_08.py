"""Lesson 08: least squares for every width from one factor, and the front. S samples, D inputs, O outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from prunekit.course.exercises import Exercise, Mistake
from prunekit.course.exercises.front_08 import AREA, FRONT
from prunekit.course.exercises.quiz_08 import QUIZ

__all__ = ["EXERCISES", "QUIZ"]


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _gram(inputs: int, seed: int = 0) -> Tensor:
    x_SD = _random(4 * inputs, inputs, seed=seed) + 0.5
    return x_SD.T @ x_SD


def normal_equations(x, y):
    gram = x.T @ x
    return torch.linalg.solve(gram, x.T @ y).T


SOLVE = Exercise(
    id="08.1",
    title="least squares by hand",
    reference=normal_equations,
    cases=lambda: ((_random(12, 3), _random(12, 2, seed=1)), (_random(20, 5, seed=2), _random(20, 4, seed=3))),
    hints=(
        "Two small matrices are enough: `x.T @ x`, what inputs share, and `x.T @ y`, what they share with the answers.",
        "The best weights solve `gram @ w = x.T @ y`. `torch.linalg.solve(a, b)` solves `a @ w = b`.",
        "That gives `w` with one column an output. A layer's weights have one row an output: turn it.",
    ),
    mistakes=(
        Mistake(
            "no Gram matrix",
            lambda x, y: (x.T @ y).T,
            "that is how inputs and answers go together; inputs that go together with one another are still counted "
            "twice: divide by the Gram matrix",
        ),
        Mistake(
            "only the diagonal",
            lambda x, y: ((x.T @ y) / (x.T @ x).diagonal()[:, None]).T,
            "each input is fitted as if it were alone: use the whole Gram matrix, not its diagonal",
        ),
        Mistake(
            "first samples only",
            lambda x, y: torch.linalg.solve(x[: x.shape[1]], y[: x.shape[1]]).T,
            "these weights are exact on the first few samples and know nothing of the others: take all samples into "
            "the Gram matrix",
        ),
    ),
    alternatives=(
        lambda x, y: torch.linalg.lstsq(x, y).solution.T,
        lambda x, y: y.T @ x @ torch.linalg.inv(x.T @ x),
    ),
    note="Thousands of samples went in, and two small matrices were all that was needed of them.",
)


def rebuild(gram, weight, n):
    right = gram[:n] @ weight.T
    return torch.linalg.solve(gram[:n, :n], right).T


REBUILD = Exercise(
    id="08.2",
    title="the first n inputs",
    reference=rebuild,
    cases=lambda: ((_gram(5), _random(2, 5, seed=1), 3), (_gram(6, seed=2), _random(2, 6, seed=3), 2)),
    hints=(
        "The inputs that are left are the first `n`: of `x.T @ x` only the corner `gram[:n, :n]` is left.",
        "And `x.T @ y`? The answers are `y = x @ weight.T`, with all inputs, so `x.T @ y` is `gram @ weight.T`: you "
        "need its first `n` rows.",
        "`torch.linalg.solve(gram[:n, :n], gram[:n] @ weight.T)`, turned so that there is a row for each output.",
    ),
    mistakes=(
        Mistake(
            "plain cut",
            lambda gram, weight, n: weight[:, :n].clone(),
            "those are the old weights of the inputs that are left: nobody takes over what the others did. If you "
            "solved for them: the right side must know all inputs, `gram[:n] @ weight.T`",
        ),
        Mistake(
            "right side alone",
            lambda gram, weight, n: weight @ gram[:, :n],
            "that is how inputs and answers go together; it is still to be divided by what the inputs that are "
            "left share with one another",
        ),
        Mistake(
            "inverse first, corner later",
            lambda gram, weight, n: (torch.linalg.inv(gram)[:n, :n] @ gram[:n] @ weight.T).T,
            "the corner of an inverse is not the inverse of the corner: cut first, then solve",
        ),
    ),
    alternatives=(
        lambda gram, weight, n: weight @ gram[:, :n] @ torch.linalg.inv(gram[:n, :n]),
        lambda gram, weight, n: torch.cholesky_solve(gram[:n] @ weight.T, torch.linalg.cholesky(gram[:n, :n])).T,
    ),
    note="No feature is needed any more: the Gram matrix of the whole layer serves every choice of inputs.",
)


def leading(factor, z, n):
    corner = factor[:n, :n]
    return torch.linalg.solve_triangular(corner.T, z[:n], upper=True).T


def _factored(inputs: int, outputs: int, n: int, seed: int) -> tuple[Tensor, Tensor, int]:
    gram = _gram(inputs, seed)
    factor = torch.linalg.cholesky(gram)
    right = gram @ _random(outputs, inputs, seed=seed + 1).T
    return factor, torch.linalg.solve_triangular(factor, right, upper=False), n


LEADING = Exercise(
    id="08.3",
    title="the corner of the factor",
    reference=leading,
    cases=lambda: (_factored(5, 2, 3, 0), _factored(6, 2, 4, 2), _factored(4, 2, 4, 5)),
    hints=(
        "`factor @ factor.T` is the Gram matrix; the corner of `factor` is the factor of the corner.",
        "Two triangular systems lead to the weights. The first is solved, for all inputs: `z = L^-1 G W^T`. Its answer "
        "for `n` inputs is `z[:n]`.",
        "The second is `corner.T @ w = z[:n]`, with `torch.linalg.solve_triangular(..., upper=True)`; then turn it.",
    ),
    mistakes=(
        Mistake(
            "both steps again",
            lambda factor, z, n: torch.cholesky_solve(z[:n], factor[:n, :n]).T,
            "`cholesky_solve` does both triangular steps; the first one is already in `z`",
        ),
        Mistake(
            "lower instead of upper",
            lambda factor, z, n: torch.linalg.solve_triangular(factor[:n, :n], z[:n], upper=False).T,
            "that is the first step once more: the second one has the factor turned over, `corner.T`, which is upper",
        ),
        Mistake(
            "wrong triangle",
            lambda factor, z, n: torch.linalg.solve_triangular(factor[:n, :n], z[:n], upper=True).T,
            "only the diagonal was read: `upper` says in which triangle the numbers are; those of `corner` are in the "
            "lower one, those of `corner.T` in the upper one",
        ),
        Mistake(
            "solve all, then cut",
            lambda factor, z, n: torch.linalg.solve_triangular(factor.T, z, upper=True)[:n].T,
            "those are the weights with all inputs, cut: this step runs from the last row up, so it must start at `n`",
        ),
    ),
    alternatives=(
        lambda factor, z, n: z[:n].T @ torch.linalg.inv(factor[:n, :n]),
        lambda factor, z, n: torch.linalg.solve(factor[:n, :n].T, z[:n]).T,
    ),
    note="Forward substitution runs from the top, once for all widths; only the way back belongs to each.",
)

EXERCISES = (SOLVE, REBUILD, LEADING, FRONT, AREA)
