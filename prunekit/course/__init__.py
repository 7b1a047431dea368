"""What the lessons share: the set-up cell, figures with alt text, scale presets, the results ledger, the address."""

from prunekit.course.figure import show
from prunekit.course.setup import Course, setup

__all__ = ["Course", "setup", "show"]
