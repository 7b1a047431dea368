"""Lesson 09: the runs behind the papers' claims of speed."""
