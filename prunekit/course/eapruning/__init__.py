"""EAPruning's experiment, for the lesson and for `prunekit run eapruning`: preset, data, experiment, trials."""

from prunekit.course.eapruning.experiment import run
from prunekit.course.eapruning.preset import EAPRUNING, EaPruning, override, preset_of

__all__ = ["EAPRUNING", "EaPruning", "override", "preset_of", "run"]
