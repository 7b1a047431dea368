"""Bi-level pruning's experiment, for the lesson and `prunekit run bilevel`: preset (settings), experiment (the run)."""

from prunekit.course.bilevel.experiment import Outcome, run
from prunekit.course.bilevel.preset import BILEVEL, MODELS, PAPER, Bilevel, Printed, override, preset_of

__all__ = ["BILEVEL", "MODELS", "PAPER", "Bilevel", "Outcome", "Printed", "override", "preset_of", "run"]
