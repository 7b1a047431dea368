"""The quiz of lesson 05."""

from __future__ import annotations

from prunekit.course.exercises import Choice, Question

QUIZ = (
    Question(
        "Every map of a layer is moved two pixels to the right. What does a criterion see that looks at means?",
        (
            Choice("The thin objects are lost.", "It cannot: the means are what they were."),
            Choice(
                "Nothing has happened.",
                "Yes. A mean does not know where. A pole does.",
                right=True,
            ),
            Choice("All channels are redundant now.", "They are as different from one another as before."),
        ),
    ),
    Question(
        "A channel shows faint noise. Which way of making a probability map calls it unique, and so keeps it?",
        (
            Choice(
                "Dividing |x| by its sum.",
                "Yes: the division blows the faint noise up to full size, and noise is like nothing else.",
                right=True,
            ),
            Choice(
                "Softmax.", "A faint map is nearly constant, and its softmax nearly uniform: it repeats the others."
            ),
            Choice("Both.", "They disagree about exactly this channel."),
        ),
    ),
    Question(
        "Two channels are identical, and unlike all others. The greedy search removes one. What happens to the twin?",
        (
            Choice("It goes next, its redundancy is as high as before.", "The one it repeated is gone."),
            Choice("It is scored as before; scores are final.", "That is FPGM. The clique adds up anew in each round."),
            Choice(
                "It is judged by what it shares with the rest, and stays.",
                "Yes. Redundant is a relation to those who are still there.",
                right=True,
            ),
        ),
    ),
    Question(
        "All divergences come from one matrix product with an error below 0.0002. When would that matter?",
        (
            Choice("Never.", "Two channels can be nearer to each other than that in their sums."),
            Choice(
                "When two channels' sums differ by less than the errors add up to.",
                "Yes, and then it does not matter much which of the two goes.",
                right=True,
            ),
            Choice("Always, since greedy search adds errors up.", "The order on real maps was the exact one."),
        ),
    ),
    Question(
        "You remove, over all layers, the channels whose s is LOW at the moment they went. What do you get?",
        (
            Choice("The plan of the paper.", "Its Eq. 6 reads so, but for one layer at one moment only."),
            Choice(
                "The survivors go and the redundant ones stay.",
                "Yes: s adds up over those still there, so it is lowest for the last ones.",
                right=True,
            ),
            Choice("Half of every layer.", "A threshold takes more from one layer than from another."),
        ),
    ),
    Question(
        "The greedy search met the optimum on all small graphs you tried. What do you know about 2048 channels?",
        (
            Choice("It is optimal there too.", "Nobody has proved that, and on one graph of six it was not."),
            Choice("Nothing at all.", "Longer searches can be compared with it, and they found next to nothing."),
            Choice(
                "That it is a good bet, and that longer searches can check it.",
                "Yes. Exact solvers give up there; a tabu search does not.",
                right=True,
            ),
        ),
    ),
)
