"""The gate: what it keeps, that it starts at 1, and that the loss reaches its predictor."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from gated_nets import deit, images, opinionated, tiny

from prunekit.errors import GroupError, InputError
from prunekit.methods.dynasegformer import (
    Gate,
    MagnitudeGate,
    gates_of,
    kept_at,
    make_dynamic,
    make_static,
    masks_of,
    places,
    set_sparsity,
    use_path,
)


def test_the_predictor_is_the_papers_equation_written_by_hand() -> None:
    torch.manual_seed(0)
    gate, weight_UC, x_BNC = Gate(6, torch.rand(8), reduction=2, gain=3.0), torch.randn(8, 6), torch.randn(2, 5, 6)
    nn.init.normal_(gate.excite.weight)
    for image, found_U in zip(x_BNC, gate(x_BNC, weight_UC), strict=True):
        pooled = image.mean(0)
        x_hat = (pooled - pooled.mean()) / (pooled.var(unbiased=False) + 1e-5).sqrt()
        hidden = (gate.squeeze.weight @ (weight_UC @ x_hat) + gate.squeeze.bias).clamp(min=0)
        assert torch.allclose(found_U, 3 * (gate.excite.weight @ hidden + gate.excite.bias), atol=1e-5)


def test_top_r_keeps_the_largest_of_each_head_with_their_values() -> None:
    gate = MagnitudeGate(torch.arange(8.0), heads=2)
    gate.set_sparsity(0.5)
    g_BU = torch.tensor([[3.0, -1.0, 2.0, 0.5, 9.0, 8.0, 7.0, -6.0], [-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]])
    assert gate.mask(g_BU).tolist() == [[3, 0, 2, 0, 9, 8, 0, 0], [0, 0, -2, -1, 0, 0, 2, 3]]


def test_equal_gates_are_told_apart_by_the_magnitude_of_their_weights() -> None:
    gate = Gate(4, torch.tensor([0.3, 0.9, 0.1, 0.7]))
    gate.set_sparsity(0.5)
    assert sorted(gate.choose(torch.ones(1, 4)).index_BK[0].tolist()) == [1, 3]
    clear = torch.tensor([[1.01, 1.0, 1.02, 1.0]])  # a difference that counts
    assert sorted(gate.choose(clear).index_BK[0].tolist()) == [0, 2]


@pytest.mark.parametrize("build", [tiny, deit])
@pytest.mark.parametrize("path", ["masked", "gathered"])
def test_at_sparsity_0_a_fresh_dynamic_network_is_the_dense_one(build, path) -> None:
    model = build()
    x = images(size=(32, 64) if build is tiny else (32, 32))
    dynamic = use_path(make_dynamic(model, sparsity=0.0), path)
    with torch.no_grad():
        wanted = model(x)
        assert torch.allclose(dynamic(x), wanted, atol=1e-5 * wanted.abs().max())
        for gate in gates_of(dynamic).values():  # the control: gates that start at random wreck it
            nn.init.normal_(gate.excite.weight)
        assert not torch.allclose(dynamic(x), wanted, atol=1e-2 * wanted.abs().max())


def test_the_loss_reaches_the_predictor_through_the_values_and_only_through_them() -> None:
    dynamic = opinionated(tiny(), 0.5).train()
    dynamic(images()).square().mean().backward()
    for gate in gates_of(dynamic).values():
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in (gate.excite.weight, gate.excite.bias))
    assert sum(float(gate.squeeze.weight.grad.abs().sum()) for gate in gates_of(dynamic).values()) > 0
    dynamic.zero_grad()
    for gate in gates_of(dynamic).values():  # the control: hard gates, the classic bug
        gate.mask = lambda g_BU, mask=gate.mask: (mask(g_BU) != 0).float()
    dynamic(images()).square().mean().backward()
    assert all(gate.excite.weight.grad is None for gate in gates_of(dynamic).values())


def test_each_image_has_its_own_gates_at_any_batch_size() -> None:
    dynamic, x = opinionated(tiny(), 0.5), images(3)
    masks = masks_of(dynamic, x)
    assert any((mask_BU[0] > 0).ne(mask_BU[1] > 0).any() for mask_BU in masks.values())
    with torch.no_grad():
        together = dynamic(x)
        for i in range(3):
            alone = dynamic(x[i : i + 1])
            assert torch.allclose(together[i : i + 1], alone, atol=1e-4 * alone.abs().max())
        pair = dynamic(x[1:])  # another batch size, other neighbours
        assert torch.allclose(together[1:], pair, atol=1e-4 * pair.abs().max())
        dynamic(images(2, (64, 32)))  # and another image size
    for gate in gates_of(dynamic).values():  # the control: the first image's gate for all of them
        gate.mask = lambda g_BU, mask=gate.mask: mask(g_BU[:1]).expand_as(g_BU)
    with torch.no_grad():
        assert not torch.allclose(dynamic(x)[1:], together[1:], atol=1e-2 * together.abs().max())


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
    assert {gate.kept for gate in gates_of(dynamic).values()} >= {24, 6}  # 32 hidden neurons, 8 positions
    set_sparsity(dynamic, 0.5)
    assert {gate.kept for gate in gates_of(dynamic).values()} >= {16, 4}
    masks = masks_of(make_static(model, sparsity=0.5), images())
    assert all((mask_BU == mask_BU[0]).all() and set(mask_BU.unique().tolist()) == {0, 1} for mask_BU in masks.values())


def test_pairs_of_linear_layers_are_found_where_the_structure_allows() -> None:
    chain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
    dynamic, x = opinionated(chain, 0.5), torch.randn(5, 4)
    assert len(gates_of(dynamic)) == 2
    with torch.no_grad():
        assert torch.allclose(make_dynamic(chain, sparsity=0)(x), chain(x), atol=1e-5)
        assert torch.allclose(use_path(dynamic, "gathered")(x), dynamic(x), atol=1e-5)
    normed = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))  # the norm would see the closed ones
    with pytest.raises(GroupError, match="can be gated"):
        make_dynamic(normed, sparsity=0.5)
    theirs = nn.TransformerEncoderLayer(8, 2, 16)
    with pytest.raises(GroupError, match="MultiheadAttention keeps its matrices"):
        make_dynamic(theirs, sparsity=0.5)


def test_places_say_in_a_line_what_can_be_gated_and_what_not() -> None:
    assert str(places(tiny())) == "10 layers: 5 attention, 5 ffn; skipped: none"
    assert str(places(nn.TransformerEncoderLayer(8, 2, 16))).startswith("0 layers; skipped: 'self_attn' (nn.Multi")


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
    for where in ((), ("mlp",), "ffn"):
        with pytest.raises(InputError, match="where"):
            make_dynamic(model, sparsity=0.5, where=where)  # type: ignore[arg-type]
    for reduction in (0, 2.0):
        with pytest.raises(InputError, match="reduction"):
            make_dynamic(model, sparsity=0.5, reduction=reduction)  # type: ignore[arg-type]
    for gain in (0, -1.0, float("nan"), "fast"):
        with pytest.raises(InputError, match="gain"):
            make_dynamic(model, sparsity=0.5, gain=gain)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no path"):
        use_path(make_dynamic(model, sparsity=0.5), "fast")  # type: ignore[arg-type]
    with pytest.raises(GroupError, match="no gates"):
        use_path(model, "gathered")
    with pytest.raises(GroupError, match="it has a gate"):
        make_dynamic(make_dynamic(model, sparsity=0.5), sparsity=0.5)


def test_images_of_different_sizes_in_one_batch_are_refused_with_a_way_out() -> None:
    dynamic = make_dynamic(tiny(), sparsity=0.5)
    with pytest.raises(InputError, match=r"2 sizes \(\(3, 32, 64\), \(3, 64, 64\)\).*one by one"):
        dynamic([torch.zeros(3, 32, 64), torch.zeros(3, 64, 64)])
