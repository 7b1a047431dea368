"""The gate: what it keeps, that it starts at 1, and that the loss reaches its predictor."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from gated_nets import deit, images, one_stage, opinionated, tiny, vit_block

from prunekit.errors import InputError
from prunekit.methods.dynasegformer import (
    Gate,
    MagnitudeGate,
    gates_of,
    make_dynamic,
    make_static,
    masks_of,
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
    gate = Gate(4, torch.tensor([0.3, 0.9, 0.1, 0.7]))  # ranks 1, 3, 0, 2: a ramp of 0.25, 0.75, 0, 0.5 thousandths
    gate.set_sparsity(0.5)
    for gates, wanted in (
        ((1.0, 1.0, 1.0, 1.0), [1, 3]),
        ((1.01, 1.0, 1.02, 1.0), [0, 2]),  # a difference that counts
        ((1.0004, 1.0, 1.0, 1.0), [0, 1]),  # 0.65, 0.75, 0, 0.5: the gate's own part counts below a thousandth too
        ((1.0002, 1.0, 1.0, 1.0), [1, 3]),
    ):
        assert sorted(gate.choose(torch.tensor([gates])).index_BK[0].tolist()) == wanted


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("make", [make_dynamic, make_static])
def test_other_precisions_choose_the_same_neurons(make, dtype) -> None:
    """All gates are 1: only the magnitudes decide, and there are more of them than half precision can tell apart."""
    chain = nn.Sequential(nn.Linear(8, 512), nn.ReLU(), nn.Linear(512, 3))
    net = make(chain, sparsity=0.5)
    wanted = masks_of(net, torch.ones(2, 8))
    found = masks_of(net.to(dtype), torch.ones(2, 8, dtype=dtype))
    for name, mask_BU in found.items():
        assert mask_BU.dtype == dtype and torch.equal(mask_BU.float(), wanted[name])


def largest(value_U: torch.Tensor, count: int, heads: int = 1) -> set[int]:
    """Numbers of the largest of each head."""
    each_nd = value_U.unflatten(0, (heads, -1))
    first_n1 = torch.arange(0, len(value_U), each_nd.shape[1])[:, None]
    return set((each_nd.topk(count, dim=1).indices + first_n1).flatten().tolist())


def test_the_static_comparator_keeps_the_neurons_with_the_largest_weights_in_and_out() -> None:
    model, vit = tiny(), vit_block()
    block = model.encoder.stages[1].blocks[0]  # two heads of 8 channels
    masks = masks_of(make_static(model, sparsity=0.5), images())
    masks |= masks_of(make_static(vit, sparsity=0.5), torch.ones(2, 5, 24))
    query_UC, key_UC, value_UC = vit.attn.qkv.weight.chunk(3)  # type: ignore[union-attr, operator]
    attention, mlp = block.attention, block.mlp
    for name, made_UC, read_UC, heads in (
        ("encoder.stages.1.blocks.0.mlp.gate", mlp.fc1.weight, mlp.fc2.weight.T, 1),
        ("encoder.stages.1.blocks.0.attention.qk_gate", attention.query.weight, attention.key.weight, 2),
        ("encoder.stages.1.blocks.0.attention.value_gate", attention.value.weight, attention.project.weight.T, 2),
        ("attn.qk_gate", query_UC, key_UC, 2),
        ("attn.value_gate", value_UC, vit.attn.proj.weight.T, 2),  # type: ignore[union-attr]
        ("mlp.gate", vit.mlp.fc1.weight, vit.mlp.fc2.weight.T, 1),  # type: ignore[union-attr]
    ):
        magnitude_U = made_UC.norm(dim=1) * read_UC.norm(dim=1)
        kept = set(masks[name][0].nonzero().flatten().tolist())
        assert kept == largest(magnitude_U, len(magnitude_U) // heads // 2, heads), name


def test_every_gate_reads_the_weight_and_the_input_of_its_own_layer() -> None:
    dynamic, seen = opinionated(tiny(), 0.5), {}
    for name, gate in gates_of(dynamic).items():
        gate.register_forward_hook(lambda _gate, args, _y, name=name: seen.__setitem__(name, args))
    with torch.no_grad():
        dynamic(images())
    stage = "encoder.stages.0.blocks.0"
    block = dynamic.get_submodule(stage)
    tokens, reduced = 16 * 32, 2 * 4  # a map of 16 x 32, for values made 8 times smaller
    for name, layer, count in (
        ("attention.qk_gate", block.attention.query, tokens),
        ("attention.value_gate", block.attention.value, reduced),
        ("mlp.gate", block.mlp.fc1, tokens),
    ):
        x_BNC, weight_UC = seen[f"{stage}.{name}"]
        assert weight_UC is layer.weight and x_BNC.shape[1] == count, name


def test_weights_bring_along_what_they_were_trained_for() -> None:
    trained, x = opinionated(one_stage(), 0.5, gain=3.0), images()
    other = make_dynamic(one_stage(), sparsity=0.25, reduction=2)
    other.load_state_dict(trained.state_dict())
    with torch.no_grad():
        assert torch.equal(other(x), trained(x))
        set_sparsity(other, 0.25)  # the control: it is the sparsity that would differ
        assert not torch.allclose(other(x), trained(x), atol=1e-3)
    assert all(gate.gain == 3.0 for gate in gates_of(other).values())
    state = trained.state_dict()
    state["encoder.stages.0.blocks.0.mlp.gate._extra_state"] = torch.tensor([33.0, 1.0])
    with pytest.raises(InputError, match="'encoder.stages.0.blocks.0.mlp' keep 33 neurons of a head; here .* 32"):
        other.load_state_dict(state)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_answer_alike_and_are_their_own(copied) -> None:
    dynamic, x = opinionated(one_stage(), 0.5), images()
    twin = copied(dynamic)
    with torch.no_grad():
        wanted = dynamic(x)
        assert torch.equal(twin(x), wanted)
        set_sparsity(twin, 0.0)
        assert torch.equal(dynamic(x), wanted)


def test_gradients_under_autocast_reach_every_predictor() -> None:
    dynamic = opinionated(one_stage(), 0.5).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = dynamic(images()).square().mean()
    loss.backward()
    for gate in gates_of(dynamic).values():
        for parameter in (gate.excite.weight, gate.squeeze.weight):  # type: ignore[union-attr]
            assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0


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
