"""The quiz of lesson 06."""

from __future__ import annotations

from prunekit.course.exercises import Choice, Question

QUIZ = (
    Question(
        "You keep the eight channels with the largest scores. What is the derivative of the loss by one score?",
        (
            Choice("Large for channels near the border.", "Near the border nothing happens either, until two swap."),
            Choice(
                "0 wherever it exists.",
                "Yes. The loss is flat until two channels change places, and there it jumps.",
                right=True,
            ),
            Choice("The same as of the weights.", "The scores do not multiply anything; only their order is used."),
        ),
    ),
    Question(
        "A mask is a step too, and flat as well. Why does it learn?",
        (
            Choice(
                "Because backward pretends that the step has slope 1.",
                "Yes. It is a convention, and on a trained network its sign was mostly right about closing a unit.",
                right=True,
            ),
            Choice("Because s multiplies the map in the forward pass.", "It does not: b does, and b is 0 or 1."),
            Choice("Because Adam needs no gradient.", "Adam needs one; it forgets its size, not its sign."),
        ),
    ),
    Question(
        "Which of these lets a closed channel come back?",
        (
            Choice("The implicit term.", "It is multiplied by the mask: for a closed channel it is 0."),
            Choice(
                "The direct gradient, which closed channels get as well, and the MACs term below the target.",
                "Yes. Its weights were kept, too.",
                right=True,
            ),
            Choice("Weight decay.", "That shrinks weights and never looks at a mask."),
        ),
    ),
    Question(
        "The paper leaves the Hessian out. When does its implicit term point the right way?",
        (
            Choice("When lambda is large.", "Then 1 / lambda is nothing beside the curvature that was left out."),
            Choice(
                "When lambda times the curvature is well below 1.",
                "Yes: the ridge is then all that the weights feel. On our small network the sign turned soon after 1.",
                right=True,
            ),
            Choice("Always, it is a gradient.", "It is an approximation of one part of a gradient."),
        ),
    ),
    Question(
        "The total pointed nearly the right way although its implicit part was wrong. What does that show?",
        (
            Choice("The approximation is accurate after all.", "Its part was not; the direct term hid it."),
            Choice(
                "Little about the part: at the best weights it is a second copy of the direct term.",
                "Yes. Added, it doubles the direct term and cannot turn it. Look at the parts.",
                right=True,
            ),
            Choice("The Hessian is always small.", "It was what turned the implicit part around."),
        ),
    ),
    Question(
        "Two searches ended at 47 % and 53 % of the work. You compare their mIoU. What first?",
        (
            Choice("Nothing, 50 % is about right.", "Six points of work are often worth more than the difference."),
            Choice("Take the better one.", "It may be better because it is larger."),
            Choice(
                "Bring both to the same measured work, and count how many units that moved.",
                "Yes. The closing step does it, and says so.",
                right=True,
            ),
        ),
    ),
)
