"""The quiz of lesson 03."""

from __future__ import annotations

from prunekit.course.exercises import Choice, Question

QUIZ = (
    Question(
        "A filter stands in front of a batch norm. You multiply its weights by 10, and the norm's statistics with it. "
        "What happens?",
        (
            Choice("The network changes, L1 does not.", "It is the other way round: the norm divides the factor out."),
            Choice(
                "The network computes the same, and L1 calls the channel ten times as important.",
                "Yes. In front of a norm the size of a filter is an accident.",
                right=True,
            ),
            Choice("Nothing at all.", "L1 looks at the weights, and they are ten times larger."),
        ),
    ),
    Question(
        "Taylor gives a channel the score 0.0000. What do you know?",
        (
            Choice(
                "It can be removed without loss.", "Only a small turn of its gate is free. Removing is a large turn."
            ),
            Choice(
                "On these batches, a small turn of its gate does not change the loss.",
                "Yes. It may do nothing, or stand at a point where the slope happens to be zero.",
                right=True,
            ),
            Choice("Its weights are zero.", "They can be large: the reader may ignore the channel."),
        ),
    ),
    Question(
        "Two channels are copies of each other. CHIP ranks both at the bottom. You remove both. What have you done?",
        (
            Choice("Right: both were redundant.", "Each was, as long as the other stayed."),
            Choice(
                "Removed something that nobody else does.",
                "Yes. Scores are given one at a time, a cut takes many at once.",
                right=True,
            ),
            Choice("Nothing, if the batch norm stays.", "The norm's part of a removed channel goes with it."),
        ),
    ),
    Question(
        "In a global list without normalisation, which layers lose most under L1?",
        (
            Choice("Those with many channels.", "Each channel stands for itself; it is their size that counts."),
            Choice("The last ones.", "Their filters read many channels, so their L1 is large."),
            Choice(
                "Those whose filters have few weights.",
                "Yes: a sum over few weights is small, whatever the channel is worth.",
                right=True,
            ),
        ),
    ),
    Question(
        "A paper's method reaches 0.694, the baseline 0.688, one run each. Over seeds the spread is 0.006. Who won?",
        (
            Choice("The paper's method.", "With one run each and a spread as large as the gap, that may be chance."),
            Choice("The baseline.", "Nothing here speaks for it either."),
            Choice(
                "Nobody knows yet.",
                "Yes. Three seeds each, and then a gap of three standard errors, would be a result.",
                right=True,
            ),
        ),
    ),
)
