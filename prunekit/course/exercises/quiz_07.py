"""The quiz of lesson 07."""

from __future__ import annotations

from prunekit.course.exercises import Choice, Question

QUIZ = (
    Question(
        "The mask is made of zeros and ones, the predictor's values are dropped. What does the predictor learn?",
        (
            Choice("The same, a little more slowly.", "Its numbers only decide an order, and an order has no slope."),
            Choice(
                "Nothing.",
                "Yes. The loss does not change when a gate moves a little, so there is no gradient.",
                right=True,
            ),
            Choice("To keep everything.", "It has no wish at all: nothing reaches it."),
        ),
    ),
    Question(
        "A batch of eight images. How many sets of neurons are kept in one layer?",
        (
            Choice("Eight.", "Yes. A gate belongs to an image; the batch is only a way to compute.", right=True),
            Choice("One, of the whole batch.", "Then an image's answer would depend on who stands beside it."),
            Choice("One for each token.", "The predictor looks at the mean over all tokens of an image."),
        ),
    ),
    Question(
        "DynaSegFormer-B0 at 30 % saves 5.1 of 8.4 G. Most of it is due to ...",
        (
            Choice("the gates.", "They save 0.8 G at 512 x 512."),
            Choice(
                "the decoder that adds instead of concatenating.",
                "Yes, 4.3 G; and that part is one matrix product written as one instead of two.",
                right=True,
            ),
            Choice("the predictors.", "They cost a little."),
        ),
    ),
    Question(
        "A masked network (all neurons, then times the mask) at 75 %. How fast is it?",
        (
            Choice("Four times as fast.", "Zeros are multiplied like other numbers."),
            Choice("It depends on the seed.", "The same products are computed whatever the mask."),
            Choice(
                "No faster than without gates.",
                "Yes. Time is saved only when the rows and columns are gathered before the product.",
                right=True,
            ),
        ),
    ),
    Question(
        "Why must the parameters of all neurons be stored, type III included?",
        (
            Choice("They need not.", "For these images. Another one may need them."),
            Choice(
                "Another image may open them.",
                "Yes. A dynamic network saves work, not storage: with its predictors it is even larger.",
                right=True,
            ),
            Choice("For the gradient.", "At inference there is none."),
        ),
    ),
)
