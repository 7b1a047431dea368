"""DynaSegFormer's speed: SegFormer-B0 at 512 x 512 on one CPU thread, gathered against the ceiling and the dense model.

The ceiling of an image-dependent choice is a static network that was narrowed by hand to the same widths. Times are CPU
seconds of this thread, of passes in turn, forwards and backwards: what else runs on the machine slows neighbours alike,
so a ratio is the median of the ratios within a turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest
import timm
import torch
from torch import Tensor, nn

from prunekit.export import export_onnx
from prunekit.methods.dynasegformer import (
    Selector,
    additive_decoder,
    cost,
    gates_of,
    make_dynamic,
    make_static,
    narrow,
    use_path,
)
from prunekit.models.segformer import segformer
from prunekit.profiling import count_macs, latency_ms

SIZE, CLASSES, SPARSITY = 512, 150, 0.5


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def nets() -> dict[str, nn.Module]:
    """original: the published decoder. dense: the additive one. All in eval mode."""
    torch.manual_seed(0)
    original = segformer(CLASSES).eval()
    dense = additive_decoder(original)
    dynamic = make_dynamic(dense, sparsity=SPARSITY).eval()
    with torch.no_grad():
        for gate in gates_of(dynamic).values():  # predictors that have learned: every image has its own gates
            gate.excite.weight.normal_(std=0.05)  # type: ignore[union-attr]
    static = narrow(make_static(dense, sparsity=SPARSITY)).eval()
    gathered = use_path(dynamic, "gathered")
    return {"original": original, "dense": dense, "static": static, "masked": dynamic, "gathered": gathered}


Times = dict[str, list[float]]


def cpu_ms(models: Mapping[str, nn.Module], x: Tensor, rounds: int = 15) -> Times:
    """CPU milliseconds of each pass, models in turn, one round to warm up."""
    times: Times = {name: [] for name in models}
    with torch.no_grad():
        for lap in range(rounds + 1):
            for name in list(models)[:: 1 if lap % 2 else -1]:
                start = time.process_time()
                models[name](x)
                if lap:
                    times[name].append(1000 * (time.process_time() - start))
    return times


def speed(times: Times, name: str, base: str) -> float:
    """How many times as fast as `base`."""
    return statistics.median(b / t for b, t in zip(times[base], times[name]))


def show(title: str, times: Times, base: str) -> None:
    of = ", ".join(f"{n} {statistics.median(t):.0f} ms ({speed(times, n, base):.2f}x)" for n, t in times.items())
    print(f"\n{title}: {of}")


def test_gathered_inference_is_nearly_as_fast_as_a_network_of_these_widths(nets: dict[str, nn.Module]) -> None:
    x = torch.randn(1, 3, SIZE, SIZE)
    assert cost(nets["gathered"], x).macs - cost(nets["gathered"], x).predictor == count_macs(nets["static"], x)
    whole = cpu_ms(nets, x)
    show("whole network, against the original", whole, "original")
    encoders = {name: net.encoder for name, net in nets.items()}  # type: ignore[misc]
    encoder = cpu_ms(encoders, x)  # type: ignore[arg-type]
    show("encoder, against the dense one", encoder, "dense")
    of_static = {"whole": speed(whole, "gathered", "static"), "encoder": speed(encoder, "gathered", "static")}
    print(f"speed of the ceiling: whole {of_static['whole']:.1%}, encoder {of_static['encoder']:.1%}")
    assert of_static["whole"] >= 0.9 and of_static["encoder"] >= 0.85
    assert speed(whole, "gathered", "masked") > 1 and speed(whole, "gathered", "dense") > 1


def test_predictors_cost_at_most_3_percent_of_the_encoder(nets: dict[str, nn.Module]) -> None:
    """A predictor is what makes G of X: the mean token, its norm, W1 and the MLP. Finding the largest of G, Top-r, is
    the gate's other half and has a bound of its own: together they may take 4.5 %.
    """
    x, encoder = torch.randn(1, 3, SIZE, SIZE), nets["gathered"].encoder
    shares: dict[str, list[float]] = {"forward": [], "choose": []}
    with torch.no_grad():
        for lap in range(41):
            with timed(nets["gathered"]) as spent:
                start = time.process_time()
                encoder(x)  # type: ignore[operator]
                whole = time.process_time() - start
            for name, values in shares.items():
                if lap:
                    values.append(spent[name] / whole)
    predict, choose = (statistics.median(values) for values in shares.values())
    print(f"\nof the encoder's time: predictors {predict:.2%}, their Top-r {choose:.2%}, both {predict + choose:.2%}")
    assert predict <= 0.03 and predict + choose <= 0.045


def test_a_batch_of_8_is_not_slower_than_masked(nets: dict[str, nn.Module]) -> None:
    times = cpu_ms({name: nets[name] for name in ("masked", "gathered")}, torch.randn(8, 3, SIZE, SIZE), rounds=5)
    show("batch of 8", times, "masked")
    assert speed(times, "gathered", "masked") >= 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("batch", [1, 8])
def test_milliseconds_on_a_gpu(nets: dict[str, nn.Module], batch: int) -> None:
    there = {name: net.to("cuda") for name, net in nets.items()}
    x = torch.randn(batch, 3, SIZE, SIZE, device="cuda")
    try:
        with torch.no_grad():
            wanted = there["masked"](x)
            assert (there["gathered"](x) - wanted).abs().max() < 1e-3 * wanted.abs().max()
        times = {name: [ms] for name, ms in latency_ms(there, x).items()}
        show(f"{torch.cuda.get_device_name()}, batch {batch}", times, "original")
    finally:
        for net in nets.values():
            net.to("cpu")


def test_a_whole_vit_exports_with_its_gathers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dynamic = make_dynamic(timm.create_model("deit_tiny_patch16_224").eval(), sparsity=SPARSITY)
    with torch.no_grad():
        for gate in gates_of(dynamic).values():
            gate.excite.weight.normal_(std=0.05)  # type: ignore[union-attr]
    done = export_onnx(use_path(dynamic, "gathered"), torch.randn(1, 3, 224, 224), tmp_path / "net.onnx")
    assert done.argmax_agreement == 1
    assert [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node].count("TopK") == 3 * 12


@contextmanager
def timed(model: nn.Module) -> Iterator[dict[str, float]]:
    """Seconds that predictors take meanwhile ("forward") and their Top-r ("choose"); gathering is the layers'."""
    spent = {"forward": 0.0, "choose": 0.0}

    def watch(gate: Selector, name: str) -> None:
        method = getattr(gate, name)

        def run(*args: Tensor) -> object:
            start = time.process_time()
            try:
                return method(*args)
            finally:
                spent[name] += time.process_time() - start

        setattr(gate, name, run)

    gates = [module for module in model.modules() if isinstance(module, Selector)]
    for gate in gates:
        for name in spent:
            watch(gate, name)
    try:
        yield spent
    finally:
        for gate in gates:
            for name in spent:
                delattr(gate, name)
