"""Pruning in steps: steps (`progressive`, what it takes and returns), store (the folder that keeps a run)."""

from prunekit.progressive.steps import Cut, Metrics, Progress, Stage, Training, progressive

__all__ = ["Cut", "Metrics", "Progress", "Stage", "Training", "progressive"]
