"""Lesson 00: choose the weakest channels; silence a channel at its maker. Legend: U channels, O out, C in, k kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from prunekit.course.exercises import Choice, Exercise, Mistake, Question


def weakest(score, count):
    return score.argsort()[:count].sort().values


def _weakest_cases() -> tuple[tuple[Tensor, int], ...]:
    return (torch.tensor([3.0, 1.0, 2.0, 4.0, 0.5]), 2), (torch.tensor([0.7, 0.9, 0.2, 0.8, 0.1, 0.6]), 3)


WEAKEST = Exercise(
    id="00.1",
    title="the weakest channels",
    reference=weakest,
    cases=_weakest_cases,
    hints=(
        "Which method of a tensor gives the order of its values, as positions instead of values?",
        "`score.argsort()` starts with the position of the smallest score. You want the first `count` of them.",
        "Cut off the first `count`, then sort what you have: `.sort()` returns values and indices, take `.values`.",
    ),
    mistakes=(
        Mistake(
            "not sorted",
            lambda score, count: score.argsort()[:count],
            "nearly: sort the numbers, so that the channels keep their order",
        ),
        Mistake(
            "strongest",
            lambda score, count: score.argsort(descending=True)[:count].sort().values,
            "those are the strongest; higher = keep",
        ),
        Mistake(
            "strongest, not sorted",
            lambda score, count: score.argsort(descending=True)[:count],
            "those are the strongest (higher = keep), and they are not sorted either",
        ),
        Mistake(
            "scores",
            lambda score, count: score.sort().values[:count],
            "those are the scores; the channels' numbers are wanted",
        ),
        Mistake("one", lambda score, count: score.argmin(), "that is one channel; `count` of them are wanted"),
        Mistake(
            "mask",
            lambda score, count: score <= score.sort().values[count - 1],
            "that is a mask over all channels; the numbers of the weakest are wanted (`.nonzero()` finds them)",
        ),
        Mistake(
            "the others",
            lambda score, count: score.argsort()[count:].sort().values,
            "those are the ones to keep; the ones to remove are wanted",
        ),
    ),
    alternatives=(
        lambda score, count: score.topk(count, largest=False).indices.sort().values,
        lambda score, count: torch.tensor(sorted(sorted(range(len(score)), key=lambda i: score[i])[:count])),
    ),
)


def silence(weight, bias, gone):
    weight, bias = weight.clone(), bias.clone()
    weight[gone] = 0
    bias[gone] = 0
    return weight, bias


def _silence_cases() -> tuple[tuple[Tensor, Tensor, list[int]], ...]:
    return (torch.randn(4, 3, 3, 3), torch.randn(4), [0, 2]), (torch.randn(3, 3, 1, 1), torch.randn(3), [1])


def _columns(weight, bias, gone):
    weight, bias = weight.clone(), bias.clone()
    weight[:, gone] = 0
    bias[gone] = 0
    return weight, bias


def _weight_only(weight, bias, gone):
    return silence(weight, bias, gone)[0], bias


def _bias_only(weight, bias, gone):
    return weight, silence(weight, bias, gone)[1]


def _kept(weight, bias, gone):
    return [i for i in range(len(bias)) if i not in gone]


def _wrong_ones(weight, bias, gone):
    return silence(weight, bias, _kept(weight, bias, gone))


def _cut_out(weight, bias, gone):
    keep = _kept(weight, bias, gone)
    return weight[keep], bias[keep]


def _only_weight_returned(weight, bias, gone):
    return silence(weight, bias, gone)[0]


def _by_mask(weight, bias, gone):
    mask = torch.ones(len(bias))
    mask[gone] = 0
    return weight * mask.view(-1, 1, 1, 1), bias * mask


def _by_index_fill(weight, bias, gone):
    index = torch.tensor(gone)
    return weight.index_fill(0, index, 0), bias.index_fill(0, index, 0)


SILENCE = Exercise(
    id="00.2",
    title="silence a channel at its maker",
    reference=silence,
    cases=_silence_cases,
    hints=(
        "What does a convolution add to its sum of products, whatever the weights are?",
        "A channel is a row of the maker's weight, and one number of its bias. Both have to become zero.",
        "`weight = weight.clone()` first, then `weight[gone] = 0`; the same for the bias; return both.",
    ),
    mistakes=(
        Mistake(
            "columns",
            _columns,
            "those are the columns: a channel is a row where it is made, a column where it is read",
        ),
        Mistake("bias", _weight_only, "the bias still speaks: it is added after the sum, for these channels too"),
        Mistake("only the bias", _bias_only, "the weights still speak: their rows have to be zero as well"),
        Mistake("the others", _wrong_ones, "you silenced the channels that stay; `gone` names those to silence"),
        Mistake("cut out", _cut_out, "you cut the channels out; here they stay in their place, as zeros"),
        Mistake("one of two", _only_weight_returned, "return both, the weight and the bias"),
    ),
    alternatives=(_by_mask, _by_index_fill),
    note="Perfectly silent, and yet not harmless: sigmoid turns this zero into a half before the next layer reads it.",
)

EXERCISES = (WEAKEST, SILENCE)

QUIZ = (
    Question(
        "Why is a channel cut at both of its ends?",
        (
            Choice(
                "The layer that reads has to expect as many inputs as the layer before makes, and the right ones.",
                "Yes. Cut one end only and the shapes do not fit, or worse: they fit and the channels are mixed up.",
                right=True,
            ),
            Choice("To save twice the memory.", "Both ends do get smaller, but one end alone would not run at all."),
            Choice("Cutting at the reader is optional.", "Then it would wait for inputs that nobody makes any more."),
        ),
    ),
    Question(
        "The certificate says 1e-15. Does the pruned network segment well?",
        (
            Choice("Yes, the error is tiny.", "The cut is exact. What was cut may still have been needed."),
            Choice(
                "You cannot know from that.",
                "Yes. It says that the cut was exact, not that the lost channels were useless.",
                right=True,
            ),
            Choice("No, 1e-15 is not zero.", "It is rounding in double precision. Look at the control beside it."),
        ),
    ),
    Question(
        "Where do you silence a channel to find out what the network does without it?",
        (
            Choice(
                "In the layer that makes it.", "Bias, batch norm or sigmoid behind it turn the zero into something."
            ),
            Choice(
                "In the layer that reads it.",
                "Yes. A zero weight at the reader lets nothing through, whatever stands between.",
                right=True,
            ),
            Choice("In the activation between them.", "Close, but a batch norm may follow the activation too."),
        ),
    ),
)
