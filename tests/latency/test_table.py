"""Layers, tables and the plans made from them: against shapes counted by hand and times that are made up."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import prunekit as pk
from prunekit.core import Groups, PruningPlan
from prunekit.errors import BudgetError, InputError
from prunekit.latency import LatencyTable, Layer, latency_table, layers_of, plot_staircase, staircase
from prunekit.latency.nodes import followers
from prunekit.latency.steps import Vary
from prunekit.latency.table import _variants, least_ms
from prunekit.models.topformer import topformer_mini
from prunekit.plan import plan_macs, plan_shapes
from prunekit.runtimes import Node, Runtime, Timing
from prunekit.surgery import find_groups, prune

X = torch.randn(1, 3, 12, 12)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, 2, padding=1, groups=32),
        nn.Conv2d(32, 64, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    ).eval()


def made_up(model: nn.Module, x: torch.Tensor, groups: Groups, price=lambda layer: 1.0) -> LatencyTable:
    """A table in which a layer takes its multiplications times `price(layer)`."""
    layers = tuple(layers_of(model, x))
    times = {v.key(): work(v) * price(layer) for layer in layers for v in _variants(layer)}
    return LatencyTable(groups, layers, times, 0.0, "nowhere")


def work(layer) -> float:
    """Multiplications in millions, positions of the input counted (the same factor at every width)."""
    positions = layer.grid[-1] * layer.grid[-2] if layer.kernel else layer.grid[0]
    taps = layer.kernel[0] * layer.kernel[1] if layer.kernel else 1
    return layer.inputs // layer.groups * layer.outputs * positions * taps / 1e6


def test_layers_are_found_with_their_geometry():
    first, depthwise, point, linear = layers_of(net(), X)
    assert (first.tensor, first.inputs, first.outputs, first.grid) == ("0.weight", 3, 32, (1, 12, 12))
    assert (depthwise.groups, depthwise.stride, depthwise.kernel) == (32, (2, 2), (3, 3))
    assert point.kernel == (1, 1) and point.grid == (1, 6, 6)
    assert (linear.tensor, linear.inputs, linear.outputs, linear.kernel) == ("7.weight", 64, 10, ())
    assert depthwise.with_weight((24, 1)).groups == depthwise.with_weight((24, 1)).inputs == 24
    assert [layer.module()(torch.ones(layer.input_shape())).shape[1] for layer in (first, linear)] == [32, 10]


def test_layers_of_a_pruned_model_are_those_the_table_thinks_of():
    model, x = topformer_mini().eval(), torch.randn(1, 3, 64, 64)
    groups = find_groups(model, x)
    scores = {name: torch.arange(group.size).double() for name, group in groups.items()}
    plan = pk.uniform_plan(groups, scores, 0.5)
    shapes = plan_shapes(groups, plan)
    thought = [layer.with_weight(shapes[layer.tensor]).key() for layer in layers_of(model, x)]
    assert thought == [layer.key() for layer in layers_of(prune(model, groups, plan), x)]


def test_a_prediction_is_the_sum_of_the_layers():
    model = net()
    groups = find_groups(model, X)
    table = made_up(model, X, groups)
    scores = {name: torch.rand(group.size) for name, group in groups.items()}
    plan = pk.uniform_plan(groups, scores, 0.5)
    small = layers_of(prune(model, groups, plan), X)
    assert table(plan) == pytest.approx(sum(map(work, small)))  # linear in each width, so interpolation is exact
    assert replace(table, rest_ms=2.0)(plan) == pytest.approx(table(plan) + 2)


def test_the_plan_spends_importance_where_milliseconds_are():
    model = net()
    groups = find_groups(model, X)
    torch.manual_seed(1)
    scores = {name: torch.rand(group.size) + 1 for name, group in groups.items()}
    table = made_up(model, X, groups, lambda layer: 20.0 if layer.tensor == "0.weight" else 1.0)
    plan = pk.budget_plan(groups, scores, latency_ratio=0.4, latency=table)
    dense = PruningPlan({}, {})
    assert table(plan) <= 0.6 * table(dense)
    assert all(len(kept) % 8 == 0 for kept in plan.keep.values())

    def lost(some: PruningPlan) -> float:
        return sum(
            float((s / s.mean()).sum() - (s / s.mean())[list(some.keep[name])].sum()) for name, s in scores.items()
        )

    by_macs = (pk.budget_plan(groups, scores, macs_ratio=r / 50, limits=pk.Limits(round_to=8)) for r in range(1, 45))
    rival = next(p for p in by_macs if table(p) <= 0.6 * table(dense))
    assert lost(plan) < lost(rival)  # the same milliseconds for less importance
    assert plan_macs(groups, plan) < plan_macs(groups, dense)


def test_steps_that_gain_nothing_alone_are_taken_together():
    model = net()
    groups = find_groups(model, X)
    scores = {name: torch.ones(group.size) for name, group in groups.items()}
    table = made_up(model, X, groups)
    flat = {v.key(): 1.0 if v.outputs > 32 else 0.5 for v in _variants(table.layers[2])}  # 64, 48 alike, then a step
    plan = pk.budget_plan(
        groups, scores, latency_ratio=0.3, latency=replace(table, times_ms={**table.times_ms, **flat})
    )
    assert len(plan.keep["3"]) <= 32


def test_what_cannot_be_reached_is_said():
    model = net()
    groups = find_groups(model, X)
    scores = {name: torch.rand(group.size) for name, group in groups.items()}
    table = replace(made_up(model, X, groups), rest_ms=100.0)
    with pytest.raises(BudgetError, match=r"is the most \(100.00 ms belong to no layer\)"):
        pk.budget_plan(groups, scores, latency_ratio=0.5, latency=table)
    with pytest.raises(InputError, match="go together"):
        pk.budget_plan(groups, scores, macs_ratio=0.5, latency=table)


def test_measured_cached_and_measured_again_elsewhere(tmp_path: Path, monkeypatch):
    from prunekit.latency import table as module

    model = net()
    groups = find_groups(model, X)
    measured: list[int] = []
    original = module.layer_steps

    def counting(process, layers, folder, repeats):
        layers = list(layers)
        measured.append(len(layers))
        return original(process, layers, folder, repeats)

    monkeypatch.setattr(module, "layer_steps", counting)
    cache = tmp_path / "latency.json"
    first = latency_table(model, groups, X, cache=cache, repeats=3)
    again = latency_table(model, groups, X, cache=cache, repeats=3)
    assert measured[0] > 10 and measured[1] == 0 and again.times_ms == first.times_ms
    monkeypatch.setattr(module, "device_name", lambda: "another machine")
    latency_table(model, groups, X, cache=cache, repeats=3)
    assert measured[2] == measured[0] and len(json.loads(cache.read_text())) == 2
    assert "ort" in first.where and all(ms > 0 for ms in first.times_ms.values())
    cache.write_text("[]")
    with pytest.raises(InputError, match="is no latency table"):
        latency_table(model, groups, X, cache=cache)
    with pytest.raises(InputError, match="no table for runtime 'xnnpack'"):
        latency_table(model, groups, X, runtime="xnnpack")


def test_staircase_data_and_figure():
    steps = staircase([8, 12, 16], other=8, size=(8, 8), repeats=3)
    assert steps.widths == (8, 12, 16) and all(ms > 0 for ms in steps.times_ms)
    (ax,) = plot_staircase(steps).axes
    assert ax.get_xlabel() == "output channels"
    with pytest.raises(InputError, match="widths"):
        staircase([])


@pytest.mark.parametrize(
    ("vary", "shape"), [("outputs", (12, 8, 1)), ("inputs", (8, 12, 1)), ("depthwise", (12, 12, 12))]
)
def test_what_varies_on_a_staircase(vary: Vary, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch):
    """shape: (outputs, inputs, groups) of the layer at width 12."""
    seen: list[Layer] = []

    def measured(process: object, layers: Iterable[Layer], folder: object, repeats: int) -> dict[str, float]:
        seen.extend(layers)
        return {layer.key(): float(layer.inputs * layer.outputs / layer.groups) for layer in seen}

    monkeypatch.setattr("prunekit.latency.steps.measure_layers", measured)
    steps = staircase([12, 16], vary=vary, other=8, size=(8, 8))
    assert (seen[0].outputs, seen[0].inputs, seen[0].groups) == shape and steps.vary == vary
    assert steps.times_ms[1] / steps.times_ms[0] == pytest.approx(16 / 12)
    with pytest.raises(InputError, match="vary is 'both'; there are outputs, inputs, depthwise"):
        staircase([12], vary="both")  # type: ignore[arg-type]


def test_steps_that_are_no_layer_cost_what_their_channels_cost():
    """A sum at the first layer's output, a product with a weight, attention's product, and one that fits no layer."""
    layers = layers_of(net(), X)
    nodes = [
        Node("Conv", (1, 32, 12, 12), 5.0),
        Node("Resize", (1, 32, 12, 12), 3.0),
        Node("Add", (1, 64, 6, 6), 1.0),
        Node("MatMul", (1, 10), 1.0),
        Node("FusedMatMul", (1, 4, 7, 7), 1.0),
    ]
    assert followers(nodes, layers) == {"0.weight": 3.0, "3.weight": 1.0, "": 1.0}


def test_a_plan_knows_what_shrinks_with_its_channels():
    """Equal scores and layers that cost nothing: what follows the wide layer is cut, what belongs to nobody stays."""
    model = net()
    groups = find_groups(model, X)
    scores = {name: torch.ones(group.size) for name, group in groups.items()}
    table = replace(made_up(model, X, groups, lambda layer: 1e-6), rest_ms=1.0, followers_ms={"3.weight": 8.0})
    plan = pk.budget_plan(groups, scores, latency_ratio=0.4, latency=table)
    assert len(plan.keep["3"]) == 32 and len(plan.keep["0"]) == 32
    assert table(plan) == pytest.approx(1 + 8 * 32 / 64, rel=1e-3)
    with pytest.raises(BudgetError, match=r"\(1.00 ms belong to no layer\)"):
        pk.budget_plan(groups, scores, latency_ratio=0.95, latency=table)


def test_a_table_adds_up_to_the_network():
    """What it predicts for the dense network is what onnxruntime's steps take together, and nothing counts twice."""
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.Softplus(), nn.Conv2d(32, 8, 1)]
    model = nn.Sequential(*layers, nn.Upsample(scale_factor=8, mode="bilinear")).eval()
    groups = find_groups(model, X)
    table = latency_table(model, groups, X, repeats=5)
    dense = table(PruningPlan({}, {}))
    shares = [
        table.rest_ms,
        sum(table.followers_ms.values()),
        sum(table.layer_ms(layer, groups.shapes[layer.tensor]) for layer in table.layers),
    ]
    assert dense == pytest.approx(sum(shares)) and all(share > 0 for share in shares)
    assert not table.followers_ms.keys() - {layer.tensor for layer in table.layers}


@pytest.mark.parametrize(("threads", "least"), [(1, 2.0), (2, 9.0)])
def test_neighbours_do_not_count_on_one_thread(threads: int, least: float):
    """Two passes that were interrupted: 9 and 12 ms by the wall, of which 3 and 2 ms were ours."""
    assert least_ms(Runtime("ort", threads=threads), Timing((9.0, 12.0), (3.0, 2.0))) == least
