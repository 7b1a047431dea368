"""Runtimes that execute exported files, each in a process of its own: onnxruntime, OpenVINO, ExecuTorch, torch."""

from prunekit.runtimes.process import READS, Node, Runtime, Timing, check_file

__all__ = ["READS", "Node", "Runtime", "Timing", "check_file"]
