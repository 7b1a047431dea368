"""What the lessons share: set-up cell, exercises, quizzes, figures, scale presets, results ledger, address."""

from prunekit.course.checks import check, hint, solution
from prunekit.course.figure import show
from prunekit.course.learner import progress
from prunekit.course.quizzes import quiz
from prunekit.course.setup import Course, setup

__all__ = ["Course", "check", "hint", "progress", "quiz", "setup", "show", "solution"]
