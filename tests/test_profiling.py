"""Costs against closed forms, and a clock that the test winds by hand."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from prunekit import profiling
from prunekit.errors import InputError

X = torch.zeros(2, 3, 8, 10)


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(3, 5, 3, padding=1), (2, 3, 8, 10), 2 * 8 * 10 * 5 * 3 * 9),
        (nn.Conv2d(3, 5, 3, stride=2, padding=1, dilation=1), (1, 3, 8, 10), 4 * 5 * 5 * 3 * 9),
        (nn.Conv2d(6, 6, 3, padding=1, groups=6), (1, 6, 8, 10), 8 * 10 * 6 * 9),
        (nn.Conv2d(6, 4, 1, groups=2), (1, 6, 8, 10), 8 * 10 * 4 * 3),
        (nn.ConvTranspose2d(3, 5, 2, stride=2), (1, 3, 8, 10), 8 * 10 * 3 * 5 * 4),
        (nn.Linear(7, 11), (4, 7), 4 * 7 * 11),
        (nn.Linear(7, 11, bias=False), (2, 4, 7), 8 * 7 * 11),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), (1, 3, 4, 4), 0),
    ],
    ids=["conv", "stride", "depthwise", "grouped", "transposed", "linear", "linear3d", "nothing"],
)
def test_macs_in_closed_form(layer, shape, macs):
    assert profiling.count_macs(layer, torch.zeros(shape)) == macs


def test_macs_of_attention_are_not_hidden_by_fused_kernels():
    class Attend(nn.Module):
        def forward(self, q):
            return nn.functional.scaled_dot_product_attention(q, q, q)

    assert profiling.count_macs(Attend(), torch.zeros(2, 4, 6, 8)) == 2 * (2 * 4 * 6 * 6 * 8)

    class SelfAttention(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.inner(x, x, x, need_weights=False)[0]

    tokens, width = 6, 8
    expected = 4 * tokens * width * width + 2 * tokens * tokens * width  # q, k, v, output; q k^T and its use
    assert profiling.count_macs(SelfAttention().eval(), torch.zeros(1, tokens, width)) == expected
    assert torch.backends.mha.get_fastpath_enabled()


def test_macs_where_a_module_is_given_a_parameter():
    class WithToken(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.mix = nn.Parameter(torch.zeros(1, 1, 8)), nn.Linear(8, 8)

        def forward(self, x):
            return x + self.mix(self.token.expand(2, -1, -1))

    model = WithToken()
    model.mix.bias.requires_grad_(False)
    assert profiling.count_macs(model, torch.zeros(2, 6, 8)) == 2 * 8 * 8
    assert [p.requires_grad for p in model.parameters()] == [True, True, False]


def test_params_count_shared_tensors_once():
    a, b = nn.Linear(3, 4), nn.Linear(3, 4)
    assert profiling.count_params(nn.Sequential(a, nn.BatchNorm1d(4), b)) == 2 * (12 + 4) + 8
    b.weight = a.weight
    assert profiling.count_params(nn.Sequential(a, b)) == 12 + 4 + 4


class Sleeper(nn.Module):
    """Moves a hand-wound clock by its seconds; writes down when it runs."""

    def __init__(self, name: str, seconds: list[float], clock: list[float], log: list[str]) -> None:
        super().__init__()
        self.name, self.seconds, self.clock, self.log = name, seconds, clock, log

    def forward(self, x):
        self.log.append(self.name)
        turn = self.log.count(self.name) - 1
        self.clock[0] += self.seconds[turn % len(self.seconds)]
        return x


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_latency_is_the_median_of_turns(clock):
    log: list[str] = []
    a = Sleeper("a", [9.0, 9.0, 1.0, 3.0, 100.0], clock, log)  # check, warm-up, then three that count
    b = Sleeper("b", [0.002], clock, log)
    result = profiling.latency_ms({"a": a, "b": b}, X, repeats=3, warmup=1)
    assert result == {"a": pytest.approx(3000.0), "b": pytest.approx(2.0)}
    assert log == ["a", "b"] * 5


def test_cpu_time_does_not_count_the_waiting(clock, monkeypatch):
    computed, log = [0.0], []
    monkeypatch.setattr(time, "process_time", lambda: computed[0])
    a = Sleeper("a", [0.004], computed, log)

    class Waiting(Sleeper):
        def forward(self, x):
            clock[0] += 5.0  # another program has the processor
            return super().forward(x)

    b = Waiting("b", [0.002], computed, log)
    result = profiling.latency_ms({"a": a, "b": b}, X, repeats=3, warmup=1, clock="cpu")
    assert result == {"a": pytest.approx(4.0), "b": pytest.approx(2.0)}
    assert profiling.latency_ms({"b": b}, X, repeats=3)["b"] == pytest.approx(5000.0)


def test_a_machine_that_slows_down_slows_all_alike(clock):
    log: list[str] = []
    drift = [0.001 * 1.3**turn for turn in range(14)]
    models = {name: Sleeper(name, drift, clock, log) for name in ("first", "second")}
    result = profiling.latency_ms(models, X, repeats=10)
    assert result["first"] == pytest.approx(result["second"])


def test_threads_are_set_while_measuring_and_restored():
    before, seen = torch.get_num_threads(), []

    class Look(nn.Module):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            if len(seen) > 6:
                raise KeyError("stop")
            return x

    profiling.latency_ms({"m": Look()}, X, repeats=1, warmup=0, threads=before + 1)
    assert set(seen) == {before + 1} and torch.get_num_threads() == before
    with pytest.raises(KeyError):
        profiling.latency_ms({"m": Look()}, X, repeats=9, threads=before + 1)
    assert torch.get_num_threads() == before


def test_peak_memory_of_a_chain():
    net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 2, 1, bias=False), nn.Conv2d(2, 1, 1, bias=False))
    pixels, weights = 2 * 8 * 10, 12 + 8 + 2
    # Sequential holds one activation while the next is made: 4 + 2 channels is the widest moment, x is always there
    assert profiling.peak_memory(net, X) == 4 * (weights + pixels * (3 + 4 + 2))


def test_peak_memory_sees_what_is_kept_and_not_what_is_shared():
    class Keep(nn.Module):
        def __init__(self, keep: bool):
            super().__init__()
            self.keep = keep

        def forward(self, x):
            kept = [x + i for i in range(3)] if self.keep else None
            y = (x + 1).view(-1).view_as(x)  # views and in-place results are not new memory
            y.mul_(2).relu_()
            return y if kept is None else y + kept[0]

    size = 4 * X.numel()
    assert profiling.peak_memory(Keep(False), X) == 2 * size
    assert profiling.peak_memory(Keep(True), X) == (1 + 3 + 1 + 1) * size
    assert profiling.peak_memory(Keep(True), X) == profiling.peak_memory(Keep(True), X)  # repeatable


def test_profile_puts_it_together_and_leaves_the_model_alone():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.5), nn.BatchNorm2d(4))
    net.train()
    net[1].eval()
    p = profiling.profile(net, X)
    assert (p.params, p.macs) == (12 + 4 + 8, 2 * 80 * 12)
    assert p.peak_bytes == profiling.peak_memory(net, X) and p.latency_ms is not None and p.latency_ms > 0
    assert (p.device, p.input_shape) == ("cpu", (2, 3, 8, 10))
    assert profiling.profile(net, X, latency=False).latency_ms is None
    assert [m.training for m in net.modules()] == [True, True, False, True]
    assert net[2].num_batches_tracked == 0


@pytest.mark.parametrize(
    "measure", [profiling.count_macs, profiling.peak_memory, lambda m, x: profiling.latency_ms({"m": m}, x)]
)
def test_inputs_that_cannot_work(measure):
    net = nn.Conv2d(3, 4, 1).train()
    with pytest.raises(InputError, match=r"x is a list"):
        measure(net, [X])
    with pytest.raises(InputError, match=r"x is on meta but 'weight' is on cpu; call x\.to\('cpu'\)"):
        measure(net, X.to("meta"))
    with pytest.raises(InputError, match=r"does not run on x of shape \(2, 5, 8, 10\)"):
        measure(net, torch.zeros(2, 5, 8, 10))
    assert net.training and torch.is_grad_enabled()


def test_latency_settings_that_cannot_work():
    for kwargs in ({"repeats": 0}, {"warmup": -1}, {"threads": 0}):
        with pytest.raises(InputError, match="repeats="):
            profiling.latency_ms({"m": nn.Identity()}, X, **kwargs)
    for x, clock in ((X, "gpu"), (X.to("meta"), "cpu")):
        with pytest.raises(InputError, match="clock="):
            profiling.latency_ms({"m": nn.Identity()}, x, clock=clock)  # type: ignore[arg-type]
    for models in ({}, nn.Identity()):
        with pytest.raises(InputError, match="mapping"):
            profiling.latency_ms(models, X)


def test_peak_memory_is_the_same_on_the_meta_device():
    """Nothing is allocated there, yet every tensor has its size: networks too large for this machine can be counted."""
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 3))
    x = torch.randn(1, 3, 32, 32)
    there = profiling.peak_memory(net.to("meta"), x.to("meta"))
    assert there == profiling.peak_memory(net.to_empty(device="cpu"), x)
