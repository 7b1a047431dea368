"""Models that cannot be pruned are refused in our own words: the layer and the line, why, and what to do next."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao import quantization
from torch.testing._internal.two_tensor import TwoTensor

sys.path.insert(0, str(Path(__file__).parent))
import nets

import prunekit as pk
from prunekit.core import PruningPlan
from prunekit.errors import InputError, PlanError, TraceError

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def exact(model: nn.Module, x: Any = X, ratio: float = 0.5) -> pk.Groups:
    """Prune with the certificate."""
    groups = pk.find_groups(model, x)
    plan = nets.random_plan(groups, ratio)
    assert pk.check_equivalence(model, pk.prune(model, groups, plan), groups, plan, x).max_error < 1e-9
    return groups


class Detector(nn.Module):
    """A backbone inside, and torchvision's decoding and NMS."""

    def __init__(self) -> None:
        from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
        from torchvision.models.detection.ssd import SSD

        super().__init__()
        features = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 4, 1))
        features.out_channels = [8]
        self.ssd = SSD(features, DefaultBoxGenerator([[2]]), (64, 64), 3, head=Heads())

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        return self.ssd(list(x))


class Heads(nn.Module):
    """Four boxes to each of 4 x 4 positions."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes, self.classes = nets.conv(8, 16), nets.conv(8, 12)

    def forward(self, features: list[Tensor]) -> dict[str, Tensor]:
        boxes, classes = (head(features[0]).flatten(2) for head in (self.boxes, self.classes))
        return {
            "bbox_regression": boxes.transpose(1, 2).reshape(len(boxes), -1, 4),
            "cls_logits": classes.transpose(1, 2).reshape(len(boxes), -1, 3),
        }


def test_control_flow_on_values_is_refused_with_the_line(capfd: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nets.conv(3, 3), nets.LooksAtValues())
    message = (
        r"Sequential.forward in '1' \(forward, nets.py line \d+: return self.b\(y\) if y.mean\(\) > 0 else .*prune the"
    )
    with pytest.raises(TraceError, match=message):
        pk.find_groups(model, X)
    assert capfd.readouterr() == ("", "")  # torch would print the graph so far


def test_boxes_and_nms_inside_are_refused_and_the_backbone_is_pruned() -> None:
    model, x = Detector().eval(), torch.randn(1, 3, 64, 64)
    assert set(model(x)[0]) == {"boxes", "scores", "labels"}
    with pytest.raises(
        TraceError, match=r"Detector.forward in 'ssd' \(.*boxes.py line \d+: .*find_groups\(model.backbone"
    ):
        pk.find_groups(model, x)
    groups = pk.find_groups(model.ssd.backbone, x)
    model.ssd.backbone = pk.prune(model.ssd.backbone, groups, nets.random_plan(groups, 0.5))
    assert set(model(x)[0]) == {"boxes", "scores", "labels"}


def _dynamic() -> nn.Module:
    return quantization.quantize_dynamic(nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), {nn.Linear}, torch.qint8)


def _prepared(prepare: Callable[[nn.Module], nn.Module], scheme: object, training: bool) -> nn.Module:
    model = nn.Sequential(nets.conv(3, 8), nn.ReLU(), nets.conv(8, 4)).train(training)
    model.qconfig = scheme
    return prepare(model)


def _with(path: str, tensor: Tensor | nn.Parameter) -> nn.Module:
    model = nets.Chain()
    module, _, name = path.partition(".")
    setattr(getattr(model, module), name, tensor)
    return model


def _forward_replaced() -> nn.Module:
    model = nets.Chain()
    model.forward = torch.compile(model.forward, backend="eager")
    return model


WRAPPED = nn.Parameter(TwoTensor(torch.randn(8, 3, 3, 3), torch.randn(8, 3, 3, 3)))
MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "int8 layers": (_dynamic, r"'1' is quantized \(Linear\); prune the float model, and quantize the result"),
    "quantisation-aware": (
        lambda: _prepared(quantization.prepare_qat, quantization.get_default_qat_qconfig("fbgemm"), True),
        r"'0' is quantized \(Conv2d\)",
    ),
    "observed": (
        lambda: _prepared(quantization.prepare, quantization.get_default_qconfig("fbgemm"), False),
        r"'0.activation_post_process' is quantized \(HistogramObserver\)",
    ),
    "weights of a class of their own": (lambda: _with("a.weight", WRAPPED), r"'weight' of 'a' is a TwoTensor, not a"),
    "complex": (
        lambda: _with("a.weight", nn.Parameter(torch.randn(8, 3, 3, 3, dtype=torch.complex64))),
        r"'weight' of 'a' is complex \(torch.complex64\), and surgery knows real numbers only: store it",
    ),
    "no channels": (
        lambda: _with("b.weight", nn.Parameter(torch.zeros(0, 8, 3, 3))),
        r"'weight' of 'b' has the shape \(0, 8, 3, 3\): no channels; remove the layer",
    ),
    "scripted": (lambda: torch.jit.script(nets.Chain()), "TorchScript module .* prune the Python model it was"),
    "exported": (
        lambda: torch.export.export(nets.Chain().eval(), (X,)).module(),
        "the model is an exported program .* prune the Python model it was made from",
    ),
    "compiled": (
        lambda: nn.Sequential(nets.conv(3, 3), torch.compile(nets.Chain(), backend="eager")),  # type: ignore[arg-type]
        "'1' is compiled .* prune the model before torch.compile",
    ),
    "forward compiled": (_forward_replaced, "the forward of the model was replaced by a function .* wrap the result"),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_models_that_are_not_plain_are_refused(name: str) -> None:
    make, message = MODELS[name]
    with pytest.raises(InputError, match=message):
        pk.find_groups(make(), X)


class Integers(nets.Chain):
    """Whole numbers that scale the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.arange(1, 9).view(8, 1, 1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.bn(self.a(x)) * self.scale)


class Int8(nn.Module):
    """A weight that is stored in whole numbers and computed in each forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nets.conv(3, 8), nn.Linear(8, 4), nn.Linear(4, 2)
        self.b.weight = nn.Parameter(torch.randint(-9, 9, (4, 8), dtype=torch.int8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.linear(self.a(x).mean((2, 3)), self.b.weight.float() * 0.1).relu())


def test_whole_numbers_follow_or_stay() -> None:
    groups = exact(Integers())
    assert [m.role for m in groups["a"].members if m.tensor == "scale"] == ["follower"]
    small = pk.prune(model := Integers(), groups, PruningPlan({"a": 8}, {"a": (2, 5)}))
    assert torch.equal(small.scale, model.scale[[2, 5]]) and small.scale.dtype == torch.int64
    frozen = pk.find_groups(Int8(), X).frozen
    assert any("the weight of linear at" in why and "is computed" in why for why in frozen.values())


class TiedEmbedding(nn.Module):
    """The table that reads words also writes them."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner, self.out = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20, bias=False)
        self.out.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner(self.words(x)).relu())


class TiedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.inner = nn.Linear(12, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.inner(self.encode(x).relu()), self.encode.weight.t())


class TiedBranches(nn.Module):
    """One weight in two branches with biases of their own: two layers, one group."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nets.conv(3, 8), nets.conv(3, 8), nets.conv(8, 4), nets.conv(8, 4)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x).relu()) + self.d(self.b(2 * x).relu())


def test_tied_weights_are_cut_together_or_stay_with_the_reason() -> None:
    groups = exact(model := TiedBranches())
    assert list(groups) == ["a"]
    assert {m.tensor for m in groups["a"].members} == {"a.weight", "a.bias", "b.bias", "c.weight", "d.weight"}
    small = pk.prune(model, groups, nets.random_plan(groups, 0.5))
    assert small.b.weight is small.a.weight
    for tied, x, name, why in [
        (TiedEmbedding(), torch.randint(0, 20, (2, 5)), "words", "embedding at words"),
        (TiedAutoencoder(), torch.randn(3, 12), "encode", "the weight of linear at .* is computed"),
    ]:
        groups = exact(tied, x)
        assert dict(groups) or re.search(why, groups.frozen[name])


def test_a_grouped_convolution_stays_even() -> None:
    """A unit takes one channel from each of the four groups; a plan that counts single channels is of another model."""
    model = nets.Grouped()
    groups = exact(model)
    for name, member in [(n, m) for n, g in groups.items() for m in g.members if (m.tensor, m.dim) == ("g.weight", 0)]:
        part = member.index // (groups.shapes["g.weight"][0] // model.g.groups)
        assert all(sorted(unit) == [0, 1, 2, 3] for unit in part.tolist()), name
    uneven = PruningPlan({"g": 8}, {"g": (0, 1, 2, 4, 5, 7)})
    with pytest.raises(PlanError, match=r"plan wants 8 units in 'g', the model has \d: .* Call find_groups again"):
        pk.prune(model, groups, uneven)
