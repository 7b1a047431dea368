"""Lesson 02: a mask at the reader, a rule for flatten, what is tied to a stem, what a cut costs. O out, C in."""

from __future__ import annotations

import torch
from torch import Tensor

from prunekit.course.exercises import Choice, Exercise, Mistake, Question


def mask_reader(weight, gone):
    masked = weight.clone()
    masked[:, gone] = 0
    return masked


def _mask_cases() -> tuple[tuple[Tensor, list[int]], ...]:
    return (torch.arange(1.0, 17).view(4, 4, 1, 1), [1, 3]), (torch.arange(1.0, 55).view(3, 2, 3, 3), [0])


def _rows(weight, gone):
    masked = weight.clone()
    masked[gone] = 0
    return masked


def _stay(weight, gone):
    return [i for i in range(weight.shape[1]) if i not in gone]


MASK = Exercise(
    id="02.1",
    title="the mask",
    reference=mask_reader,
    cases=_mask_cases,
    hints=(
        "The weight is (O, C, k, k). Which of its axes counts the channels that this layer reads?",
        "Axis 1 counts what is read: a channel is a column, `weight[:, i]`.",
        "`masked = weight.clone()`, then `masked[:, gone] = 0`.",
    ),
    mistakes=(
        Mistake("rows", _rows, "those are rows: the channels that this layer makes"),
        Mistake(
            "the others",
            lambda weight, gone: mask_reader(weight, _stay(weight, gone)),
            "the other way round: `gone` must be silent",
        ),
        Mistake(
            "slice",
            lambda weight, gone: weight[:, _stay(weight, gone)],
            "that is a slice; a mask keeps the shape",
        ),
    ),
    alternatives=(
        lambda weight, gone: weight.index_fill(1, torch.tensor(gone), 0),
        lambda weight, gone: weight * torch.tensor([c not in gone for c in range(weight.shape[1])]).view(1, -1, 1, 1),
    ),
)


def flatten_rule(x, pixels):
    return [label for label in x for _ in range(pixels)]


FLATTEN = Exercise(
    id="02.2",
    title="a rule of your own",
    reference=flatten_rule,
    cases=lambda: (([7, 8, 9], 2), ([5, 3], 3)),
    hints=(
        "Take two channels with two pixels each and write down what `flatten(1)` puts where.",
        "All pixels of the first channel come first. A column's label is that of the channel it came from.",
        "Each label is repeated `pixels` times before the next one follows.",
    ),
    mistakes=(
        Mistake(
            "channels side by side",
            lambda x, pixels: x * pixels,
            "a channel's pixels lie side by side, then comes the next one",
        ),
        Mistake(
            "new labels",
            lambda x, pixels: [x[0] + i for i in range(len(x) * pixels)],
            "each pixel is still part of its channel: no new labels",
        ),
        Mistake("too few", lambda x, pixels: x, "as many labels as columns are wanted: channels times pixels"),
        Mistake("nested", lambda x, pixels: [[label] * pixels for label in x], "one flat list is wanted"),
    ),
    alternatives=(
        lambda x, pixels: [x[i // pixels] for i in range(len(x) * pixels)],
        lambda x, pixels: [x[0]] * pixels + flatten_rule(x[1:], pixels),
    ),
    note="No `unite` at all: the rule only says who is where. VGG's first linear layer reads 512 channels of 7 × 7 "
    "pixels, so one channel owns 49 of its columns. In a group that is K = 49.",
)


def tied_to_stem():
    return {"stem", "gate", "widen", "depthwise"}


PUZZLE = Exercise(
    id="02.3",
    title="what is tied?",
    reference=tied_to_stem,
    cases=lambda: ((),),
    hints=(
        "Follow channel 5 from `stem` through `forward`, line by line: which layer makes a channel 5 that meets it?",
        "Sum and product meet number by number. A depth-wise layer makes each channel from one channel.",
        "Three layers go with `stem`: one ties by a product, one by a sum, one is depth-wise.",
    ),
    mistakes=(
        Mistake("no gate", lambda: {"stem", "widen", "depthwise"}, "a product meets channel by channel, as a sum does"),
        Mistake("no depth-wise", lambda: {"stem", "gate", "widen"}, "what is made of channel 5 alone goes with it"),
        Mistake("only the sum", lambda: {"stem", "widen"}, "look at both: the product and the depth-wise layer"),
        Mistake("head", lambda: tied_to_stem() | {"head"}, "`head` reads channel 5; its outputs are the classes"),
        Mistake("narrow", lambda: tied_to_stem() | {"narrow"}, "`narrow` reads channel 5, it makes others"),
        Mistake("not itself", lambda: tied_to_stem() - {"stem"}, "`stem` loses its row 5 too: name it as well"),
    ),
    alternatives=(lambda: ["depthwise", "gate", "stem", "widen"],),
    note="The product ties `gate` to `stem`, the sum ties `widen`, and the depth-wise layer makes its channel 5 from "
    "channel 5 and nothing else. `narrow`, `gate` and `head` lose a column. In `head` it is column 9: the four "
    "channels of `y` come first.",
)


def macs_left(stem, wide):
    pairs = 3 * stem + stem * wide + wide * stem + (stem + wide) * 2
    return 16 * 16 * 9 * pairs


MACS = Exercise(
    id="02.4",
    title="what will it cost?",
    reference=macs_left,
    cases=lambda: ((2, 3), (3, 6), (1, 1)),
    hints=(
        "Write down what each of the four layers reads and what it makes, before you cut anything.",
        "`stem` reads 3 colours, `wide` reads `stem`, `back` reads `wide`, `head` reads both and makes 2 classes.",
        "Inputs times outputs of each layer, added up; times nine weights, times 256 pixels.",
    ),
    mistakes=(
        Mistake("rows only", lambda s, w: 2304 * (9 * s + 4 * w + 20), "the readers' columns go too"),
        Mistake("head", lambda s, w: 2304 * (5 * s + 2 * s * w), "`head` reads the sum and `wide`"),
        Mistake("back", lambda s, w: 2304 * (5 * s + s * w + 2 * w), "`back` is missing"),
        Mistake("pixels", lambda s, w: macs_left(s, w) // 256, "once for every pixel: 16 × 16 of them"),
        Mistake("kernel", lambda s, w: macs_left(s, w) // 9, "there are nine weights in every kernel"),
    ),
    alternatives=(lambda stem, wide: sum(2304 * a * b for a, b in ((3, stem), (stem, 2 * wide), (stem + wide, 2))),),
    note="Halve both groups and `wide` costs a quarter, because both of its ends shrink. `stem` costs a half, because "
    "the three colours stay.",
)

EXERCISES = (MASK, FLATTEN, PUZZLE, MACS)

QUIZ = (
    Question(
        "A colleague sets the weights and biases of half of a network's filters to zero and measures no change in "
        "speed. Why?",
        (
            Choice("Too few filters were zeroed.", "With all of them at zero it would take just as long."),
            Choice(
                "A mask keeps the shapes: zeros are stored and multiplied like other numbers.",
                "Yes. And if a batch norm follows, they may not even be silent.",
                right=True,
            ),
            Choice("The biases should have stayed.", "They cost nothing worth measuring, zero or not."),
        ),
    ),
    Question(
        "Two layers feed a sum. You remove eight channels from each, the eight weakest of each. The network runs. "
        "Is it right?",
        (
            Choice(
                "Only if they are the same eight.",
                "Yes. A sum meets number by number, so the two layers need one common list.",
                right=True,
            ),
            Choice("Yes, the shapes fit.", "Shapes that fit prove nothing: channel 3 may now meet channel 7."),
            Choice("No, a sum must keep all channels.", "It may lose channels, as long as both layers lose the same."),
        ),
    ),
    Question(
        "Why has a DenseNet more followers in a group than a ResNet, and fewer makers?",
        (
            Choice("It has more channels.", "Their number does not matter; ask what its concatenations tie."),
            Choice("It has no batch norms.", "It has many: one before nearly every convolution."),
            Choice(
                "A concatenation ties no makers, and every later layer reads what was made.",
                "Yes, and each of those has a batch norm of its own before it.",
                right=True,
            ),
        ),
    ),
    Question(
        'The certificate says "not exact by nature: encoder.stages.0.embed.proj". Was something cut wrongly?',
        (
            Choice(
                "Yes, that group has to be left out.", "It may be cut. Only the comparison with a mask is not exact."
            ),
            Choice(
                "No: a LayerNorm counts its mean and variance over all channels.",
                "Yes: no mask can equal a removal there. That the right numbers were kept is still proved.",
                right=True,
            ),
            Choice("It is rounding.", "Rounding is about 1e-15. This is another mean and another variance."),
        ),
    ),
    Question(
        "Why does the certificate draw batch-norm statistics at random?",
        (
            Choice(
                "To imitate training.", "Training gives statistics that fit. These only have to be anything but zero."
            ),
            Choice("To test many networks.", "One is enough, if a mistake in it can be seen."),
            Choice(
                "So that a mistake can be seen.",
                "Yes: with mean 0 and shift 0 a mistake is multiplied by nothing. A check has to be able to fail.",
                right=True,
            ),
        ),
    ),
)
