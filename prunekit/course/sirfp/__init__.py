"""SIRFP's experiment, for the lesson and for `prunekit run sirfp`: preset (settings), data, experiment (the run)."""

from prunekit.course.sirfp.experiment import run
from prunekit.course.sirfp.preset import MODELS, SIRFP, Sirfp, override, preset_of

__all__ = ["MODELS", "SIRFP", "Sirfp", "override", "preset_of", "run"]
