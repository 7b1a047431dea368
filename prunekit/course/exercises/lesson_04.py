"""Lesson 04: a scale pulled to zero, one weight's step in closed form, the multipliers, two thresholds, who stays.

Legend: D = numbers in a parameter, N = channels of a part, U = channels of a layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunekit.course.exercises import Exercise, Mistake
from prunekit.course.exercises.quiz_04 import QUIZ
from prunekit.course.exercises.thresholds_04 import TAUS, WIDTHS

__all__ = ["EXERCISES", "QUIZ"]


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def soft(x, t):
    return x.sign() * (x.abs() - t).clamp_min(0)


SOFT = Exercise(
    id="04.1",
    title="a scale that becomes zero",
    reference=soft,
    cases=lambda: ((torch.tensor([-2.0, -0.3, 0.0, 0.2, 0.5, 1.5]), 0.5), (_draw(8, seed=1), 0.25)),
    hints=(
        "How far from 0 is each number? Take t off that, but never go below 0.",
        "The size is `x.abs() - t`, with `clamp_min(0)` for those that are used up. The direction is `x.sign()`.",
        "Multiply the two: `x.sign().mul((x.abs() - t).clamp_min(0))`.",
    ),
    mistakes=(
        Mistake(
            "subgradient",
            lambda x, t: x - t * x.sign(),
            "numbers smaller than t jump over 0 to the other side: stop there, they are 0 then",
        ),
        Mistake(
            "hard",
            lambda x, t: x * (x.abs() > t),
            "that sets the small ones to 0 and leaves the others alone: the others move by t, too",
        ),
        Mistake(
            "sign lost",
            lambda x, t: (x.abs() - t).clamp_min(0),
            "the negative ones come out positive: give them their sign back",
        ),
        Mistake(
            "one side",
            lambda x, t: (x - t).clamp_min(0),
            "negative numbers move towards 0 as well, from below",
        ),
        Mistake(
            "clipped",
            lambda x, t: x.clamp(-t, t),
            "that is what was cut off, between -t and t: wanted is what is left",
        ),
    ),
    alternatives=(
        lambda x, t: torch.nn.functional.softshrink(x, t),
        lambda x, t: x - x.clamp(-t, t),
        lambda x, t: torch.where(x > t, x - t, torch.where(x < -t, x + t, torch.zeros_like(x))),
    ),
    note="Whoever is nearer to 0 than t becomes exactly 0, and stays there until the loss pulls harder than alpha.",
)


def step_first(v, w3, e, s, mu):
    return (v + s * (mu * w3 - e)) / (1 + s * mu)


STEP = Exercise(
    id="04.2",
    title="one step for W1",
    reference=step_first,
    cases=lambda: (
        (_draw(4), _draw(4, seed=1), _draw(4, seed=2), 0.5, 2.0),
        (_draw(3, seed=3), _draw(3, seed=4), _draw(3, seed=5), 0.2, 8.0),
    ),
    hints=(
        "Where the sum of the three terms is smallest, its derivative is 0. Write that down: three terms again.",
        "The derivative is (w - v) / s + e + mu (w - w3). Set it to 0 and bring everything with w to one side.",
        "w (1 + s mu) = v + s (mu w3 - e). Divide.",
    ),
    mistakes=(
        Mistake(
            "sign of e",
            lambda v, w3, e, s, mu: (v + s * (mu * w3 + e)) / (1 + s * mu),
            "the multiplier has the wrong sign: in <E, W1 - W3> it stands with +W1, and a step goes down",
        ),
        Mistake(
            "gradient step",
            lambda v, w3, e, s, mu: v - s * (e + mu * (v - w3)),
            "that is one step along the derivative at v, not the place where it is 0; above s mu = 2 it flies off",
        ),
        Mistake(
            "no division",
            lambda v, w3, e, s, mu: v + s * (mu * w3 - e),
            "w stands in the penalty too, which is why the whole is divided by 1 + s mu",
        ),
        Mistake(
            "s forgotten below",
            lambda v, w3, e, s, mu: (v + s * (mu * w3 - e)) / (1 + mu),
            "below the line it is 1 + s mu: multiply the whole equation by s",
        ),
        Mistake(
            "no multiplier",
            lambda v, w3, e, s, mu: (v + s * mu * w3) / (1 + s * mu),
            "that is the penalty alone; the multiplier e is missing",
        ),
    ),
    alternatives=(
        lambda v, w3, e, s, mu: v + s * (mu * (w3 - v) - e) / (1 + s * mu),
        lambda v, w3, e, s, mu: (v / s + mu * w3 - e) / (1 / s + mu),
    ),
    note="A mean of v and W3, the more W3 the larger mu, moved by the multiplier. No mu is too large.",
)


def end_of_round(e, w1, w3, mu, rho):
    return e + mu * (w1 - w3), rho * mu


def _scaled(e, w1, w3, mu, rho, sign=1.0):
    return e + sign * mu * (w1 - w3)


MULTIPLIERS = Exercise(
    id="04.3",
    title="the end of a round",
    reference=end_of_round,
    cases=lambda: (
        (_draw(4), _draw(4, seed=1), _draw(4, seed=2), 0.5, 2.0),
        (torch.zeros(3), _draw(3, seed=4), _draw(3, seed=5), 3.0, 1.5),
    ),
    hints=(
        "Two numbers change, and the order matters: E first, with the mu of this round.",
        "What is left of the constraint is `w1 - w3`; E grows by mu times that.",
        "Return `torch.add(e, w1 - w3, alpha=mu)` and rho times mu.",
    ),
    mistakes=(
        Mistake(
            "flipped",
            lambda e, w1, w3, mu, rho: (_scaled(e, w1, w3, mu, rho, -1.0), rho * mu),
            "the sign is flipped: where w1 is larger, e has to grow, so that the next round pulls w1 down",
        ),
        Mistake(
            "mu first",
            lambda e, w1, w3, mu, rho: (_scaled(e, w1, w3, rho * mu, rho), rho * mu),
            "you used the new mu for e: Eq. 10 takes this round's, mu grows afterwards",
        ),
        Mistake(
            "forgetful",
            lambda e, w1, w3, mu, rho: (mu * (w1 - w3), rho * mu),
            "e remembers all rounds so far: add to it",
        ),
        Mistake(
            "no mu",
            lambda e, w1, w3, mu, rho: (e + w1 - w3, rho * mu),
            "the difference counts mu times",
        ),
        Mistake(
            "added",
            lambda e, w1, w3, mu, rho: (_scaled(e, w1, w3, mu, rho), rho + mu),
            "mu is multiplied by rho, not increased by it",
        ),
    ),
    alternatives=(
        lambda e, w1, w3, mu, rho: (torch.add(e, w1 - w3, alpha=mu), mu * rho),
        lambda e, w1, w3, mu, rho: (e - mu * w3 + mu * w1, mu * rho),
    ),
    note="The multiplier learns the force that the two tasks pull with; the penalty then has nothing left to do.",
)

EXERCISES = (SOFT, STEP, MULTIPLIERS, TAUS, WIDTHS)
