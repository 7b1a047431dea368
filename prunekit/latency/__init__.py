"""Milliseconds where it counts: networks compared on the runtimes of devices, tables of layers, plans made from them.

from prunekit.latency import compare, latency_table, staircase
rows, missed = compare({"dense": model, "small": small}, x, ["ort", "openvino"])
table = latency_table(model, groups, x)
plan = budget_plan(groups, scores, latency_ratio=0.4, latency=table)
"""

from prunekit.latency.bench import Missed, Row, bench_files, compare, report, write_csv, write_picture
from prunekit.latency.layers import Layer, layers_of
from prunekit.latency.plots import plot_bench, plot_staircase
from prunekit.latency.steps import Staircase, staircase
from prunekit.latency.table import LatencyTable, latency_table

__all__ = [
    "LatencyTable",
    "Layer",
    "Missed",
    "Row",
    "Staircase",
    "bench_files",
    "compare",
    "latency_table",
    "layers_of",
    "plot_bench",
    "plot_staircase",
    "report",
    "staircase",
    "write_csv",
    "write_picture",
]
