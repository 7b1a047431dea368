"""The quiz of lesson 08."""

from __future__ import annotations

from prunekit.course.exercises import Choice, Question

QUIZ = (
    Question(
        "You cut half of a layer's channels, and the layer behind gets new weights by least squares. What does it need "
        "to know about the images?",
        (
            Choice("Their labels.", "No label occurs: the layer's own old answers are what is matched."),
            Choice(
                "Only which inputs occur together, and how strongly.",
                "Yes: that is the Gram matrix, and it is the same for every choice of channels.",
                right=True,
            ),
            Choice("All of their features, kept on a disk.", "They went into the Gram matrix, and may be forgotten."),
        ),
    ),
    Question(
        "Why are channels put in one fixed order?",
        (
            Choice("Because the first ones matter most.", "The order is drawn at random."),
            Choice(
                "So that the channels of each width are the corner of one matrix.",
                "Yes: one factor then serves all widths.",
                right=True,
            ),
            Choice("Because convolutions are slower otherwise.", "The network does not care about the order."),
        ),
    ),
    Question(
        "A layer's channel is always 0 on your images. What happens to the Cholesky factor?",
        (
            Choice("Nothing.", "A row and a column of zeros: the matrix is singular, and the factor does not exist."),
            Choice(
                "It fails, unless a small ridge is added.",
                "Yes. The library adds one where the condition number asks for it, and names a layer that is singular.",
                right=True,
            ),
            Choice("It is found faster.", "It is not found at all: the matrix is singular."),
        ),
    ),
    Question(
        "Two candidates: A has 40 % of the MACs and errs on 10 %, B has 50 % and errs on 12 %. Which one survives?",
        (
            Choice("B, it is larger.", "Larger and worse: A beats it in both."),
            Choice("A: it beats B in both.", "Yes. B may only survive when better ones are missing.", right=True),
            Choice("Both, they have different sizes.", "A front keeps no one who is beaten."),
        ),
    ),
    Question(
        "What are NSGA-III's reference directions for?",
        (
            Choice(
                "They spread the survivors over all sizes of network.",
                "Yes: each direction wants a candidate of its own.",
                right=True,
            ),
            Choice(
                "They point to the one best network.", "There is none: small and accurate pull in different directions."
            ),
            Choice("They say which channels to cut.", "Candidates hold counts only; the order of channels is fixed."),
        ),
    ),
)
