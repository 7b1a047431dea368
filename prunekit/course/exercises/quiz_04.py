"""The quiz of lesson 04."""

from __future__ import annotations

from prunekit.course.exercises import Choice, Question

QUIZ = (
    Question(
        "Why does the paper call segmentation a hidden two-task problem?",
        (
            Choice("A segmenter has two heads.", "The second head is only for training; it is the same task."),
            Choice(
                "Its backbone was trained on another task before, and that knowledge is still in use.",
                "Yes. A criterion that looks at segmentation alone may throw away what classification taught.",
                right=True,
            ),
            Choice("Pixels and classes are two things.", "They are two sides of one task."),
        ),
    ),
    Question(
        "With a penalty of alpha times |gamma|, which scales end at exactly 0?",
        (
            Choice("The smallest half.", "No number is fixed in advance: that is what the threshold is for."),
            Choice(
                "Those for which the loss pulls with less than alpha.",
                "Yes. At 0 the penalty holds with a force of up to alpha, whatever the scale was before.",
                right=True,
            ),
            Choice("All, in the end.", "Only if alpha is stronger than the loss everywhere."),
        ),
    ),
    Question(
        "The penalty mu/2 (w1 - w3)² alone, with a fixed mu. Where do w1 and w3 end?",
        (
            Choice(
                "At the common minimum.", "Then they would feel no penalty, and each task would pull its copy away."
            ),
            Choice(
                "Apart: each a bit on its own side.",
                "Yes. Only a gap makes the penalty pull, so there must be one. The multipliers replace that force.",
                right=True,
            ),
            Choice("At infinity.", "A penalty pulls together. A multiplier with the wrong sign does that."),
        ),
    ),
    Question(
        "The sign in Eq. 10 is flipped: E becomes smaller where w1 is larger than w3. What do you see?",
        (
            Choice("The residual falls a little more slowly.", "Each round pushes the copies further apart."),
            Choice(
                "The residual grows, round after round.",
                "Yes: the force that should close the gap works for the disagreement.",
                right=True,
            ),
            Choice("Nothing, E is small.", "E adds up over all rounds, times a mu that grows."),
        ),
    ),
    Question(
        "Why two thresholds, tau1 and tau2, and not one?",
        (
            Choice(
                "Scales of backbone and decoder were trained on unlike losses and are not comparable.",
                "Yes. One threshold would spare one part and bleed the other.",
                right=True,
            ),
            Choice("Two are more precise than one.", "They are two knobs with one percentage: no finer than one."),
            Choice("The decoder must not be pruned.", "It is: the same percentage goes from both."),
        ),
    ),
    Question(
        "At mini scale a method that beats slimming in the paper does not. What may you conclude?",
        (
            Choice("The paper is wrong.", "Its networks, pictures and trainings are others: that was not tested."),
            Choice(
                "That in this setting the difference, if there is one, is smaller than the seeds' spread.",
                "Yes. And that is worth a look at what the setting lacks.",
                right=True,
            ),
            Choice("Nothing at all.", "You know how large a difference these runs would have shown."),
        ),
    ),
)
