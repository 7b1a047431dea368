"""DynaSegFormer's experiment, for the lesson and for `prunekit run dynasegformer`: preset, experiment, trials."""

from prunekit.course.dynasegformer.experiment import run
from prunekit.course.dynasegformer.preset import DYNASEGFORMER, MODELS, Dyna, override, preset_of

__all__ = ["DYNASEGFORMER", "MODELS", "Dyna", "override", "preset_of", "run"]
