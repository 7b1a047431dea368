"""check, hint, solution: a learner's function against the reference, answered in words; nothing here raises.

check("01.1", recall)    ok, the mistake that was probably made, or the next hint
hint("01.1", 2)          one of three hints
solution("01.1")         the reference's source
"""

from __future__ import annotations

import inspect
import time
from typing import Any

from prunekit.course import compare, learner, sandbox
from prunekit.course.card import Card
from prunekit.course.exercises import Exercise, find
from prunekit.errors import InputError

SECONDS = 1.5  # for all examples of one check


def check(exercise_id: str, answer: Any) -> Card:
    """Run a learner's function on the exercise's small examples and say what is right or wrong with it.

    It takes at most two seconds and leaves random numbers, grad mode, warnings and the folder as they were. A stub
    (it raises NotImplementedError or returns None) is "not attempted yet". `.ok` of the result is True or False.
    """
    try:
        exercise = find(exercise_id)
    except InputError as err:
        return Card("wrong", "check", str(err))
    card = judge(exercise, answer)
    if card.ok:
        trouble = learner.solved(exercise.id)
        return Card("ok", card.title, card.text, more=trouble) if trouble else card
    if card.state == "wrong" and not card.more:
        level = min(learner.session().wrong[exercise.id], 2)
        learner.session().wrong[exercise.id] += 1
        return Card("wrong", card.title, card.text, card.code, f"Hint {level + 1} of 3: {exercise.hints[level]}")
    return card


def hint(exercise_id: str, level: int = 1) -> Card:
    """A hint: 1 a nudge, 2 the way, 3 nearly the answer."""
    try:
        exercise = find(exercise_id)
    except InputError as err:
        return Card("wrong", "hint", str(err))
    if level not in (1, 2, 3):
        return Card("wrong", "hint", f'there are three hints: hint("{exercise.id}", 1), 2 or 3.')
    after = f'`hint("{exercise.id}", {level + 1})` says more.' if level < 3 else f'`solution("{exercise.id}")` is next.'
    return Card("note", f"{exercise.id} {exercise.title}, hint {level} of 3", exercise.hints[level - 1], more=after)


def solution(exercise_id: str) -> Card:
    """The reference's source, and a sentence to take away."""
    try:
        exercise = find(exercise_id)
    except InputError as err:
        return Card("wrong", "solution", str(err))
    return Card("note", f"{exercise.id} {exercise.title}", code=exercise.source(), more=exercise.note)


def judge(exercise: Exercise, answer: Any) -> Card:
    """The verdict alone, without hints and without memory. A mistake that is understood leaves an advice in `more`."""
    title, advice = f"{exercise.id} {exercise.title}", f'`hint("{exercise.id}")` helps.'
    if not callable(answer):
        text = f"the function itself is wanted, without brackets, not {compare.kind(answer)}."
        return Card("wrong", title, text, f'check("{exercise.id}", {exercise.reference.__name__})', advice)
    misfit = _misfit(exercise, answer)
    if misfit:
        return Card("wrong", title, misfit, more="Keep the first line of the function as it was.")
    got: list[Any] = []
    deadline = time.monotonic() + SECONDS
    for args, before in zip(_cases(exercise), _cases(exercise)):
        outcome = sandbox.run(answer, args, seconds=max(deadline - time.monotonic(), 0.01))
        if _empty(outcome) and not got:
            return Card("open", title, "not attempted yet.", more=f"Written it? Then a `return` is missing. {advice}")
        if outcome.state == "late":
            text = f"stopped after {SECONDS} seconds: does a loop never end?"
            return Card("wrong", title, text, outcome.line, "The examples are tiny; a right answer takes milliseconds.")
        if outcome.state == "raised":
            return Card("wrong", title, "your function raises an error.", _joined(outcome.error, outcome.line), advice)
        changed = _changed(exercise, args, before)
        if changed:
            text = (
                f"your function changes `{changed}`, which is not its own: work on a copy, as in `{changed}.clone()`."
            )
            return Card("wrong", title, text, more="Whoever calls it still needs the old values.")
        got.append(outcome.value)
    return _compared(exercise, got, title, advice)


def _compared(exercise: Exercise, got: list[Any], title: str, advice: str) -> Card:
    right = _answers(exercise, exercise.reference)
    wrong = next((i for i, (a, b) in enumerate(zip(got, right)) if compare.difference(a, b)), None)
    if wrong is None:
        return Card("ok", title, f"right. {exercise.note}".strip())
    for mistake in exercise.mistakes:
        theirs = _answers(exercise, mistake.answer)
        if all(compare.difference(a, b) is None for a, b in zip(got, theirs)):
            return Card("wrong", title, f"{mistake.message}.", more=advice)
    why = compare.difference(got[wrong], right[wrong]) or compare.VALUES
    example = _example(exercise, wrong, got[wrong], right[wrong])
    if why != compare.VALUES:
        return Card("wrong", title, f"your answer: {why}.", example, advice)
    habit = compare.habit(got, right)
    if habit:
        return Card("wrong", title, f"{habit}.", example, advice)
    return Card("wrong", title, "not yet.", example)


def _cases(exercise: Exercise) -> tuple[tuple[Any, ...], ...]:
    """Fresh arguments, the same each time."""
    with sandbox.isolated():
        return exercise.cases()


def _answers(exercise: Exercise, function: Any) -> list[Any]:
    """What one of our own functions says to all examples; an error here is a fault of the exercise."""
    found = []
    for args in _cases(exercise):
        with sandbox.isolated():
            found.append(function(*args))
    return found


def _empty(outcome: sandbox.Outcome) -> bool:
    value = outcome.value
    nothing = isinstance(value, (tuple, list)) and len(value) > 0 and all(v is None or v is Ellipsis for v in value)
    return outcome.state == "unwritten" or nothing


def _misfit(exercise: Exercise, answer: Any) -> str:
    """Cannot be called as it should? Says how, else ""."""
    names = ", ".join(inspect.signature(exercise.reference).parameters)
    try:
        signature = inspect.signature(answer)
    except (TypeError, ValueError):  # written in C, it says nothing about itself
        return ""
    try:
        signature.bind(*_cases(exercise)[0])
    except TypeError:
        mine = ", ".join(signature.parameters)
        return f"it is called with ({names}), yours takes ({mine})."
    return ""


def _changed(exercise: Exercise, args: tuple[Any, ...], before: tuple[Any, ...]) -> str:
    names = inspect.signature(exercise.reference).parameters
    return next((name for name, a, b in zip(names, args, before) if not compare.unchanged(a, b)), "")


def _example(exercise: Exercise, number: int, got: Any, right: Any) -> str:
    names = inspect.signature(exercise.reference).parameters
    lines = [f"{name} = {compare.shown(value)}" for name, value in zip(names, _cases(exercise)[number])]
    return "\n".join([*lines, f"yours: {compare.shown(got)}", f"right: {compare.shown(right)}"])


def _joined(*parts: str) -> str:
    return "\n".join(part for part in parts if part)
