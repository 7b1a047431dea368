"""Every exercise of every lesson: the stub, the reference, each planted mistake, other right answers; and each quiz."""

from __future__ import annotations

import ast
import re
import time
from pathlib import Path

import pytest

from prunekit.course import compare, exercises
from prunekit.course.checks import SECONDS, _answers, _cases, check, judge, solution
from prunekit.course.exercises import Exercise, Mistake
from prunekit.course.quizzes import quiz
from prunekit.errors import InputError

SOURCES = Path(__file__).parents[2] / "notebooks" / "src"
EVERY = [e for lesson in exercises.lessons() for e in exercises.exercises(lesson)]
MISTAKES = [(e, m) for e in EVERY for m in e.mistakes]
QUESTIONS = [(lesson, q) for lesson in exercises.lessons() for q in exercises.questions(lesson)]
every_exercise = pytest.mark.parametrize("exercise", EVERY, ids=lambda e: e.id)
every_mistake = pytest.mark.parametrize(
    ("exercise", "mistake"), MISTAKES, ids=[f"{e.id}-{m.name}" for e, m in MISTAKES]
)
every_question = pytest.mark.parametrize(("lesson", "question"), QUESTIONS, ids=lambda v: getattr(v, "text", v)[:30])


@every_exercise
def test_stubs_are_not_attempted(exercise: Exercise):
    def unwritten(*args: object) -> None:
        raise NotImplementedError

    for stub in (unwritten, lambda *args: None, lambda *args: ..., lambda *args: (None, None)):
        card = check(exercise.id, stub)
        assert card.state == "open" and "not attempted yet" in str(card)


@every_exercise
def test_the_reference_and_other_right_answers_are_ok_within_the_time(exercise: Exercise):
    assert exercise.alternatives, "an exercise that accepts only one way of writing is not a good one"
    for answer in (exercise.reference, *exercise.alternatives):
        start = time.perf_counter()
        card = judge(exercise, answer)
        assert card.ok, card
        assert time.perf_counter() - start < SECONDS + 0.5


@every_mistake
def test_each_mistake_is_told_its_own_message_and_no_other(exercise: Exercise, mistake: Mistake):
    card = judge(exercise, mistake.answer)
    assert card.state == "wrong" and card.text == f"{mistake.message}."
    assert str(judge(exercise, mistake.answer)) == str(card), "not deterministic"
    assert sum(other.message == mistake.message for other in exercise.mistakes) == 1


@every_mistake
def test_each_mistake_differs_from_the_reference_and_from_the_other_mistakes(exercise: Exercise, mistake: Mistake):
    mine = _answers(exercise, mistake.answer)
    for other in (exercise.reference, *(m.answer for m in exercise.mistakes if m is not mistake)):
        theirs = _answers(exercise, other)
        assert any(compare.difference(a, b) for a, b in zip(mine, theirs))


@every_exercise
def test_references_leave_their_arguments_alone_and_examples_are_small(exercise: Exercise):
    for args, fresh in zip(_cases(exercise), _cases(exercise)):
        exercise.reference(*args)
        assert compare.unchanged(args, fresh)
        assert sum(getattr(a, "numel", lambda: 1)() for a in args) <= 1000


@every_exercise
def test_an_exercise_is_complete(exercise: Exercise):
    lesson = exercise.id.split(".")[0]
    assert re.fullmatch(rf"{lesson}\.[1-9]", exercise.id) and exercise in exercises.exercises(lesson)
    assert len(set(exercise.hints)) == 3
    assert len(exercise.mistakes) >= 3
    texts = [exercise.title, exercise.note, *exercise.hints, *(m.message for m in exercise.mistakes)]
    assert [text for text in texts if "$" in text or "*" in text.replace("**", "")] == [], "cards show plain words"
    assert not any(m.message.endswith(".") for m in exercise.mistakes)


@every_exercise
def test_the_solution_shown_is_code_that_passes(exercise: Exercise):
    """As a learner would paste it into the lesson, with the lesson's imports."""
    space: dict = {}
    exec("import torch\nfrom prunekit import metrics\n" + solution(exercise.id).code, space)
    assert judge(exercise, space[exercise.reference.__name__]).ok


def test_numbers_are_consecutive_and_unique():
    for lesson in exercises.lessons():
        found = [e.id for e in exercises.exercises(lesson)]
        assert found == [f"{lesson}.{i + 1}" for i in range(len(found))]


@pytest.mark.parametrize("lesson", exercises.lessons())
def test_the_lesson_asks_every_exercise_with_the_references_arguments_and_shows_its_quiz(lesson: str):
    (source,) = SOURCES.glob(f"{lesson}_*.py")
    text = source.read_text(encoding="utf-8")
    stubs = {n.name: n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)}
    asked = re.findall(r"^(?:done = )?check\(\"([\d.]+)\", (\w+)\)", text, flags=re.M)
    assert [number for number, _ in asked] == [e.id for e in exercises.exercises(lesson)]
    for (_, name), exercise in zip(asked, exercises.exercises(lesson)):
        reference = ast.parse(exercise.source()).body[0]
        assert isinstance(reference, ast.FunctionDef) and reference.name == name
        assert ast.unparse(stubs[name].args) == ast.unparse(reference.args)
        assert "{{solution " + exercise.id + "}}" in text
    assert f'quiz("{lesson}")' in text


# Quizzes.


@every_question
def test_exactly_one_choice_is_right_and_all_have_feedback(lesson: str, question: exercises.Question):
    assert sum(choice.right for choice in question.choices) == 1
    assert len(question.choices) >= 3
    assert len({choice.text for choice in question.choices}) == len(question.choices)
    for choice in question.choices:
        assert len(choice.feedback) > 10 and choice.feedback != choice.text
    texts = [question.text, *(t for c in question.choices for t in (c.text, c.feedback))]
    assert [t for t in texts if re.search(r"\$|\\\(|\\\[|https?:", t)] == [], "no TeX and no links: pages work offline"


@every_question
def test_the_right_choice_does_not_give_itself_away(lesson: str, question: exercises.Question):
    """Not always in the same place of the folded list."""
    places = {[c.right for c in q.choices].index(True) for q in exercises.questions(lesson)}
    assert len(places) > 1


def test_the_quiz_of_an_unknown_lesson_is_answered_in_words():
    assert "no exercises for lesson '99'; there are lessons 00" in str(quiz("99"))
    with pytest.raises(InputError):
        exercises.exercises("99")
