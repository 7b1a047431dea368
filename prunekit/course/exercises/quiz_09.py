"""The quiz of lesson 09."""

from __future__ import annotations

from prunekit.course.exercises import Choice, Question

QUIZ = (
    Question(
        "Two pruned networks have the same MACs. One is clearly faster in its runtime. What do you look at first?",
        (
            Choice("Their accuracy.", "It does not change how long a multiplication takes."),
            Choice(
                "Their widths.",
                "Yes. Runtimes work on blocks of channels; a width outside the blocks can send a layer to slower code.",
                right=True,
            ),
            Choice("Their parameters.", "At batch 1 these small networks are not held up by reading weights."),
        ),
    ),
    Question(
        "An exported file is off by 0.003 of the largest output. Is it broken?",
        (
            Choice("Yes, 0.0001 is the usual limit.", "It refuses right files of networks that amplify rounding."),
            Choice("No, nobody sees 0.003.", "Where PyTorch itself is off by 0.0000003, something is wrong."),
            Choice(
                "It depends on what float32 costs the network in PyTorch.",
                "Yes. Both are measured against float64, and the file may be off a few times as much.",
                right=True,
            ),
        ),
    ),
    Question(
        "You time the dense network, have a coffee, then time the small one. What is wrong with the speed-up?",
        (
            Choice(
                "The machine may have been busier in one half than in the other.",
                "Yes. In turns, a slow moment slows both.",
                right=True,
            ),
            Choice("Nothing, if you take medians.", "A median removes slow laps, not a slow half."),
            Choice("The coffee: caches are cold now.", "Warm-up laps take care of that; the neighbours are worse."),
        ),
    ),
    Question(
        "A fifth of a network's time belongs to things that no plan touches. What is the best speed-up by pruning?",
        (
            Choice("There is no limit, with enough pruning.", "The fifth stays, however little the rest takes."),
            Choice("A little below 5.", "Yes: 1 / 0.2, when the rest takes no time at all.", right=True),
            Choice("1.25.", "That would be the gain from removing only the fifth."),
        ),
    ),
    Question(
        "A file computes in bfloat16 where float32 was asked for. What notices?",
        (
            Choice("It crashes.", "It runs, and faster."),
            Choice("The class decisions, all of them.", "Most pixels keep their class; that is why it goes unnoticed."),
            Choice(
                "An error some thousand times eager's.",
                "Yes: 8 bits of precision instead of 24. A look at the masks would not have shown it.",
                right=True,
            ),
        ),
    ),
    Question(
        "A colleague gets the .onnx file of your network and sees garbage masks. The proof was fine. Most likely?",
        (
            Choice("The export is broken.", "It was run and compared with float64 before it was kept."),
            Choice(
                "The pictures go in without your mean and std, or as BGR.",
                "Yes. That is why preprocessing and classes travel inside the file.",
                right=True,
            ),
            Choice("Their processor rounds differently.", "By a few units in the last place, not to garbage."),
        ),
    ),
)
