"""The quiz of lesson 01."""

from __future__ import annotations

from prunekit.course.exercises import Choice, Question

QUIZ = (
    Question(
        "A class has recall 1.0 and IoU 0.25. What is the network doing?",
        (
            Choice(
                "It finds every pixel of the class and calls three times as many others by the same name.",
                "Yes: TP / (TP + FP) = 1/4.",
                right=True,
            ),
            Choice("It misses three quarters of the class.", "Then recall would be 1/4. It misses nothing."),
            Choice("Both cannot be true at once.", "They can: recall does not look at false alarms, IoU does."),
        ),
    ),
    Question(
        "Two networks have the same pixel accuracy, one a far lower mIoU. What do you look at first?",
        (
            Choice("The loss curve.", "It will not tell you which class is gone."),
            Choice("The IoU of the road.", "The road owns so many pixels that it is fine in both."),
            Choice(
                "The IoU of the rare classes.",
                "Yes. One of the networks has probably given some of them up.",
                right=True,
            ),
        ),
    ),
    Question(
        "You double height and width of the input. What grows fourfold?",
        (
            Choice("Parameters and MACs.", "Parameters are weights, and no weight was added."),
            Choice("MACs.", "Yes: each weight is used at four times as many positions.", right=True),
            Choice("Parameters.", "The same weights slide over a larger picture."),
        ),
    ),
    Question(
        "ASPP's 3×3 convolution at dilation rate 36 looks much further than the one at rate 12. "
        "How many more MACs does it need?",
        (
            Choice("None.", "Yes. Dilation moves the weights apart; it adds no weight and no position.", right=True),
            Choice("Three times as many.", "It looks three times as far with the same nine weights."),
            Choice("Nine times as many.", "Its field is nine times as large, but it is as sparse as before."),
        ),
    ),
    Question(
        'A paper reports "60 % fewer FLOPs". How much faster is that on your device?',
        (
            Choice("2.5 times.", "Only if time followed the count. You saw layers for which it does not."),
            Choice(
                "That has to be measured.",
                "Yes. It depends on which layers shrank, and on whether they wait for arithmetic or for memory.",
                right=True,
            ),
            Choice("60 %.", "A part of the time is moving numbers, and that shrinks less."),
        ),
    ),
)
