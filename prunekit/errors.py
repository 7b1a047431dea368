"""Every error prunekit raises on purpose. Each message says what is wrong, where, and what to do next.

Catch `PrunekitError` for all of them. Where a builtin already names the mistake (a missing import, a bad value) the
error is that builtin too, so existing `except` clauses keep working.
"""


class PrunekitError(Exception):
    """Base of all errors that prunekit raises on purpose."""


class InputError(PrunekitError, ValueError):
    """An argument has a value that cannot work: a ratio outside [0, 1), an example of the wrong shape or device."""


class TraceError(PrunekitError):
    """torch.export cannot follow the model's Python code."""


class GroupError(PrunekitError, KeyError):
    """A group name is unknown, or names something that must not change."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0]) if self.args else ""


class ScoreError(PrunekitError, ValueError):
    """Scores are missing, not finite, or of the wrong length."""


class PlanError(PrunekitError, ValueError):
    """A plan does not fit the model: made for another one, already applied, or it removes everything."""


class BudgetError(PrunekitError, ValueError):
    """No plan within the limits meets the target; the message gives the reachable range."""


class CertificateError(PrunekitError, AssertionError):
    """The pruned model does not compute what the masked original computes."""


class DataError(PrunekitError, ValueError):
    """A data set on disk, a loader or a label map is not what it should be."""


class DownloadError(PrunekitError, OSError):
    """A file could not be fetched, or what came is not what was asked for."""


class CheckpointError(PrunekitError, ValueError):
    """A checkpoint is truncated, foreign, or belongs to another model."""


class TrainingError(PrunekitError, ArithmeticError):
    """Training went wrong in the numbers: the loss or a gradient is no longer finite."""


class ExportError(PrunekitError, RuntimeError):
    """An exported file does not compute what the model computes, or cannot be made; nothing is left on disk."""


class MissingDependencyError(PrunekitError, ImportError):
    """An optional package is not installed; the message gives the pip line."""


class RuntimeFailure(PrunekitError, RuntimeError):
    """A runtime refuses a file or an input, takes too long, or its process dies; ours goes on."""
