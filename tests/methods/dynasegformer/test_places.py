"""make_dynamic and places: which layers get gates, which do not and why, and what is refused in words."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from gated_nets import deit, images, one_stage, opinionated, tiny, vit_block

from prunekit.errors import GroupError, InputError
from prunekit.methods.dynasegformer import (
    GateTraining,
    MagnitudeGate,
    Places,
    gates_of,
    kept_at,
    make_dynamic,
    make_static,
    masks_of,
    places,
    set_sparsity,
    use_path,
)


def test_the_model_itself_stays_as_it_was() -> None:
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    dynamic = make_dynamic(model, sparsity=0.5)
    with torch.no_grad():
        for parameter in dynamic.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert set(before) <= set(dynamic.state_dict())  # the same names, and the gates' beside them
    assert places(model).found and not places(dynamic).found
    gathered = use_path(dynamic, "gathered")
    assert not any(getattr(module, "gathered", False) for module in dynamic.modules())
    assert any(getattr(module, "gathered", False) for module in gathered.modules())


def test_where_and_sparsity_are_what_was_asked_for() -> None:
    model = tiny()
    for where, count in ((("ffn",), 5), (("attention",), 10), (("attention", "ffn"), 15)):
        assert len(gates_of(make_dynamic(model, sparsity=0.25, where=where))) == count
    dynamic = make_dynamic(model, sparsity=0.25)
    for sparsity in (0.25, 0.5):
        set_sparsity(dynamic, sparsity)
        for name, gate in gates_of(dynamic).items():
            assert gate.kept == (1 - sparsity) * gate.size / gate.heads, name
    sizes = {(gate.size, gate.heads) for gate in gates_of(dynamic).values()}
    assert sizes == {(8, 1), (32, 1), (16, 2), (64, 1), (24, 3), (96, 1)}
    masks = masks_of(make_static(model, sparsity=0.5), images())
    assert all((mask_BU == mask_BU[0]).all() and set(mask_BU.unique().tolist()) == {0, 1} for mask_BU in masks.values())


def test_pairs_of_linear_layers_are_found_where_the_structure_allows() -> None:
    chain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
    dynamic, x = opinionated(chain, 0.5), torch.randn(5, 4)
    assert len(gates_of(dynamic)) == 2
    with torch.no_grad():
        assert torch.allclose(make_dynamic(chain, sparsity=0)(x), chain(x), atol=1e-5)
        assert torch.allclose(use_path(dynamic, "gathered")(x), dynamic(x), atol=1e-5)
    with torch.no_grad():
        alone = dynamic(x[0])
        assert torch.allclose(alone, dynamic(x)[0], atol=1e-5)  # (C,) is one image
        assert torch.allclose(use_path(dynamic, "gathered")(x[0]), alone, atol=1e-5)
    normed = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))  # the norm would see the closed ones
    with pytest.raises(GroupError, match="can be gated"):
        make_dynamic(normed, sparsity=0.5)
    theirs = nn.TransformerEncoderLayer(8, 2, 16)
    with pytest.raises(GroupError, match="MultiheadAttention keeps its matrices"):
        make_dynamic(theirs, sparsity=0.5)


def test_places_say_in_a_line_what_can_be_gated_and_what_not() -> None:
    assert str(places(tiny())) == "10 layers: 5 attention, 5 ffn; skipped: none"
    assert str(places(nn.TransformerEncoderLayer(8, 2, 16))).startswith("0 layers; skipped: 'self_attn' (nn.Multi")


class Halved(nn.Sequential):
    """A chain with a forward of its own."""

    def forward(self, x):
        return super().forward(x) / 2


class Adapted(nn.Linear):
    """A linear layer that adds something of its own."""

    def forward(self, x):
        return super().forward(x) + x


def test_layers_that_compute_something_of_their_own_are_left_alone_and_named() -> None:
    def pair(kind, middle: nn.Module) -> nn.Module:
        return kind(nn.Linear(4, 4), nn.ReLU(), middle)

    assert places(pair(nn.Sequential, nn.Linear(4, 4))).found == {"": "ffn"}
    assert places(pair(Halved, nn.Linear(4, 4))).skipped == {"": "its forward is its own, not Sequential's"}
    assert not places(pair(nn.Sequential, Adapted(4, 4))).found
    vit = vit_block()
    vit.mlp.fc2 = Adapted(96, 24)  # type: ignore[union-attr]
    vit.attn.qkv = Adapted(24, 72)  # type: ignore[union-attr]
    assert places(vit).skipped == dict.fromkeys(("attn", "mlp"), "its layers are no plain nn.Linear")
    shared = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    twice = nn.ModuleDict({"a": shared, "b": shared, "c": pair(nn.Sequential, nn.Linear(4, 4))})
    assert places(twice) == Places({"c": "ffn"}, {"a": "it is 'b' as well, and a gate decides for one place"})


def test_numbers_of_numpy_are_numbers() -> None:
    assert kept_at(np.float32(0.5), 16) == 8  # type: ignore[arg-type]
    assert {gate.kept for gate in gates_of(make_dynamic(one_stage(), sparsity=np.float64(0.5))).values()} == {2, 16}
    how: dict = {"reduction": np.int64(4), "gain": np.float64(2.0)}
    net = make_dynamic(one_stage(), sparsity=0.5, where=(kind for kind in ("ffn",)), **how)  # type: ignore[arg-type]
    (gate,) = gates_of(net).values()
    assert gate.squeeze.out_features == 8  # type: ignore[union-attr]
    training = GateTraining(0.5, steps=np.int64(3), weight=np.float64(1))  # type: ignore[arg-type]
    with training.watching(net.train()):
        net(images(1))
        training.penalty(net).backward()  # gates times a number of NumPy's would be an array


def test_no_gate_changes_where_one_would_keep_nothing() -> None:
    chains = [nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 4)) for width in (32, 8)]
    dynamic = make_dynamic(nn.Sequential(*chains), sparsity=0.5)
    with pytest.raises(InputError, match="keep nothing of 8"):
        set_sparsity(dynamic, 0.97)  # the first, of 32, could keep one
    assert [gate.kept for gate in gates_of(dynamic).values()] == [16, 4]


@pytest.mark.parametrize("widths", [(32, 8), (8, 32)])
def test_the_limit_that_is_proposed_holds_for_every_gate(widths) -> None:
    chains = [nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 4)) for width in widths]
    with pytest.raises(InputError, match=r"nothing of 8 neurons: lower the sparsity to 0\.875,"):
        make_dynamic(nn.Sequential(*chains), sparsity=0.99)
    gates = gates_of(make_dynamic(nn.Sequential(*chains), sparsity=0.875)).values()
    assert [gate.kept for gate in gates] == [max(1, width // 8) for width in widths]


@pytest.mark.parametrize("sparsity", [1.0, -0.1, 2, float("nan"), "half", None, True])
def test_a_sparsity_outside_0_to_1_is_refused(sparsity) -> None:
    for make in (make_dynamic, make_static):
        with pytest.raises(InputError, match=r"in \[0, 1\)"):
            make(tiny(), sparsity=sparsity)
    with pytest.raises(InputError, match=r"in \[0, 1\)"):
        set_sparsity(make_dynamic(tiny(), sparsity=0), sparsity)


def test_a_gate_that_would_keep_nothing_is_named() -> None:
    with pytest.raises(InputError, match=r"'encoder.stages.0.blocks.0.attention.qk_gate' would keep nothing of 8"):
        make_dynamic(tiny(), sparsity=0.95)
    two = MagnitudeGate(torch.arange(32.0), heads=2, name="q")
    with pytest.raises(InputError, match=r"'q' would keep nothing of the 16 neurons of a head: .* 0\.93"):
        two.set_sparsity(0.99)
    assert kept_at(0.95, 32) == 2
    assert len(gates_of(make_dynamic(tiny(), sparsity=0.95, where=("ffn",)))) == 5  # what the message proposes


def test_other_arguments_that_cannot_work_are_refused() -> None:
    model = tiny()
    for where in ((), ("mlp",), "ffn", 3, iter(())):
        with pytest.raises(InputError, match="where"):
            make_dynamic(model, sparsity=0.5, where=where)  # type: ignore[arg-type]
    for reduction in (0, 2.0, True):
        with pytest.raises(InputError, match="reduction"):
            make_dynamic(model, sparsity=0.5, reduction=reduction)  # type: ignore[arg-type]
    for gain in (0, -1.0, float("nan"), "fast", True, float("inf")):
        with pytest.raises(InputError, match="gain"):
            make_dynamic(model, sparsity=0.5, gain=gain)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no path"):
        use_path(make_dynamic(model, sparsity=0.5), "fast")  # type: ignore[arg-type]
    with pytest.raises(GroupError, match="no gates"):
        use_path(model, "gathered")
    with pytest.raises(GroupError, match="it has a gate"):
        make_dynamic(make_dynamic(model, sparsity=0.5), sparsity=0.5)


def test_images_that_come_one_by_one_are_refused_with_a_way_out() -> None:
    dynamic = make_dynamic(one_stage(), sparsity=0.5)
    with pytest.raises(InputError, match=r"2 sizes, \(3, 32, 64\), \(3, 64, 64\).*one by one"):
        dynamic([torch.zeros(3, 32, 64), torch.zeros(3, 64, 64)])
    with pytest.raises(InputError, match=r"list of 2 images.*torch.stack\(images\)"):
        dynamic([torch.zeros(3, 32, 64)] * 2)
    with pytest.raises(InputError, match=r"list of 2 images.*torch.cat\(images\)"):
        dynamic([torch.zeros(1, 3, 32, 64)] * 2)
    with pytest.raises(InputError, match=r"2 sizes, \(1, 3, 32, 64\), \(3, 32, 64\)"):
        dynamic((torch.zeros(1, 3, 32, 64), torch.zeros(3, 32, 64)))
    for model in (dynamic, make_dynamic(deit(), sparsity=0.5)):
        with pytest.raises(InputError, match=r"a tensor \(3, 32, 32\).*image\[None\]"):
            model(torch.zeros(3, 32, 32))
    assert make_dynamic(vit_block(), sparsity=0.5)(torch.zeros(2, 5, 24)).shape == (2, 5, 24)  # tokens are 3-D


def test_a_model_that_takes_a_tuple_gets_it() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.chain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

        def forward(self, both):
            return self.chain(both[0]) * both[1]

    net, x = Sum(), torch.randn(2, 4)
    with torch.no_grad():
        assert torch.allclose(make_dynamic(net, sparsity=0)((x, torch.ones(2, 1))), net.chain(x), atol=1e-6)
