"""MTP's experiment, for the lesson and for `prunekit run mtp`: preset (settings), data, experiment (the run)."""

from prunekit.course.mtp.experiment import Outcome, run
from prunekit.course.mtp.preset import MODELS, MTP, Mtp, override, preset_of

__all__ = ["MODELS", "MTP", "Mtp", "Outcome", "override", "preset_of", "run"]
