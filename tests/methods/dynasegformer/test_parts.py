"""The additive decoder, costs, statistics, and the schedule of a training."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from timm.layers.mlp import Mlp
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

sys.path.insert(0, str(Path(__file__).parent))
from gated_nets import images, one_stage, opinionated, tiny

from prunekit.errors import DataError, GroupError, InputError, TrainingError
from prunekit.methods.dynasegformer import (
    GateCounts,
    GateTraining,
    additive_decoder,
    cost,
    gate_statistics,
    gates_of,
    make_dynamic,
    make_static,
    masks_of,
    neuron_magnitudes,
    saving,
    set_sparsity,
)
from prunekit.models.segformer import segformer
from prunekit.profiling import count_macs, count_params
from prunekit.train import TrainConfig, distill, finetune

QUIET = TrainConfig(steps=4, lr=1e-3, optimizer="adamw", quiet=True)


def loader() -> DataLoader:
    """Pictures whose label is a function of them."""
    x = images(8)
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()), 4)


@pytest.mark.parametrize("fuse_layer", [False, True])
def test_the_additive_decoder_computes_what_the_concatenating_one_does(fuse_layer) -> None:
    model, x = tiny(), images()
    added = additive_decoder(model, fuse_layer=fuse_layer)
    with torch.no_grad():
        wanted = model(x)
        assert (added(x) - wanted).abs().max() < 1e-5 * wanted.abs().max()
        swapped = additive_decoder(model, fuse_layer=fuse_layer)  # the control: two projections exchanged
        project = swapped.decoder.project
        project[1], project[2] = project[2], project[1]
        assert (swapped(x) - wanted).abs().max() > 1e-2 * wanted.abs().max()
    assert count_macs(added, x) < count_macs(model, x)
    gated = additive_decoder(opinionated(model, 0.5), fuse_layer=fuse_layer)  # a gated encoder may come first
    other = opinionated(added, 0.5)
    other.load_state_dict({**other.state_dict(), **{k: v for k, v in gated.state_dict().items() if "encoder" in k}})
    with torch.no_grad():
        assert (gated(x) - other(x)).abs().max() < 1e-5 * wanted.abs().max()
    with pytest.raises(InputError, match="adds already"):
        additive_decoder(added)
    with pytest.raises(InputError, match="no decoder"):
        additive_decoder(torch.nn.Linear(2, 2))  # type: ignore[arg-type]


def test_macs_of_segformer_b0_are_the_papers_and_the_decoder_saves_most_of_them() -> None:
    """Table 1 of the paper: 8.4 G, 3.3 G at 30 %, 2.7 G at 50 %, and 0.44 M parameters more, 12 %."""
    with torch.device("meta"):
        original = segformer(150)
        dense = segformer(150, fuse="sum", fuse_layer=False)
        x = torch.empty(1, 3, 512, 512)
        dynamic = make_dynamic(dense, sparsity=0.3)
        thirty = cost(dynamic, x)
        set_sparsity(dynamic, 0.5)
        fifty = cost(dynamic, x)
    found = saving(original, dense, thirty, x)
    assert [round(macs / 1e9, 1) for macs in (found.original, thirty.macs, fifty.macs)] == [8.4, 3.3, 2.7]
    assert found.left == thirty.macs and found.decoder > 5 * found.gates > 0
    assert thirty.predictor_params == fifty.predictor_params == pytest.approx(0.44e6, rel=0.02)
    assert thirty.predictor_params / count_params(original) == pytest.approx(0.12, abs=0.005)


def test_a_cost_by_parts_adds_up_and_each_part_is_what_its_layers_do() -> None:
    model, x = tiny(), images(1)
    dense, half = cost(model, x), cost(opinionated(model, 0.5), x)
    assert dense.macs == count_macs(model, x) and dense.predictor == dense.predictor_params == 0
    hidden, tokens, width = 32, 16 * 32, 8  # of the first block
    first = tokens * (2 * width * hidden + 9 * hidden)
    others = sum(n * (2 * w * 4 * w + 9 * 4 * w) for n, w in ((128, 16), (128, 16), (32, 16), (8, 24)))
    assert dense.ffn == first + others
    assert half.ffn * 2 == dense.ffn  # every product of the FFN has a gated side
    assert half.decoder == dense.decoder and half.other == dense.other
    assert dense.attention / 2 < half.attention < dense.attention  # the reduction is not gated
    assert half.params - dense.params == half.predictor_params > 0
    by_hand = 0
    for gate in gates_of(opinionated(model, 0.5)).values():
        by_hand += gate.size * (gate.norm.normalized_shape[0] + 2 * gate.squeeze.out_features)  # type: ignore[union-attr]
    assert half.predictor == by_hand
    known, counted = saving(model, model, half, x), saving(model, model, opinionated(model, 0.5), x)
    assert known == counted and known.left == half.macs and known.decoder == 0
    with pytest.raises(InputError, match="one image"):
        cost(model, images(2))


@pytest.mark.parametrize(
    ("net", "shape", "linear"),
    [
        (nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 24), Mlp(24, 48)), (1, 24), 2 * 24 * 8 + 2 * 24 * 48),
        (
            nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)),
            (1, 3, 4, 4),
            8 * 6 + 6 * 4,
        ),
    ],
    ids=["a place beside a pair", "a convolution in the chain"],
)
def test_a_chain_costs_what_its_gated_layers_do_and_the_rest_is_other(net, shape, linear) -> None:
    x = torch.randn(shape)
    dense, half = cost(net, x), cost(make_dynamic(net, sparsity=0.5, reduction=2), x)
    assert (dense.attention, dense.ffn) == (0, linear) and half.ffn * 2 == linear
    assert dense.other == half.other == count_macs(net, x) - linear
    assert dense.macs == count_macs(net, x) and min(half.ffn, half.predictor) > 0


def test_statistics_count_images_and_name_the_types() -> None:
    dynamic, x = opinionated(tiny(), 0.5), images(6)
    found = gate_statistics(dynamic, [x[:4], (x[4:], None), images(1, (64, 64))])
    each = [masks_of(dynamic, one) for one in (*x.split(1), images(1, (64, 64)))]
    for name, counts in found.items():
        wanted = torch.stack([masks[name][0] > 0 for masks in each]).sum(0)
        assert torch.equal(counts.on_U, wanted) and counts.images == 7
        kept = torch.stack([masks[name][0] != 0 for masks in each]).sum(0)
        assert torch.equal(counts.kept_U, kept)
    assert any((counts.kept_U > counts.on_U).any() for counts in found.values()), "gates below 0 are kept too"
    counts = GateCounts(torch.tensor([0, 3, 7]), torch.tensor([1, 7, 7]), 7)
    assert counts.types().tolist() == [3, 2, 1] and counts.choices().tolist() == [2, 1, 1]
    assert str(counts) == "3 neurons over 7 images: 1 of type I, 1 of type II, 1 of type III"
    static = gate_statistics(make_static(tiny(), sparsity=0.5), [x])
    assert all(set(counts.types().tolist()) == {1, 3} for counts in static.values())  # what no input decides
    with pytest.raises(DataError, match="no image"):
        gate_statistics(dynamic, [])
    with pytest.raises(GroupError, match="no gates"):
        gate_statistics(tiny(), [x])


def test_a_gate_that_does_not_decide_once_for_each_image_is_named() -> None:
    class Folds(nn.Module):
        """Four windows of an image, as images."""

        def __init__(self, times: int) -> None:
            super().__init__()
            self.mlp, self.times = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6)), times

        def forward(self, x_BNC):
            for _ in range(self.times):
                x_BNC = self.mlp(x_BNC.reshape(-1, x_BNC.shape[1] // 4, 6)).reshape(x_BNC.shape)
            return x_BNC

    for times, message in (
        (1, "gate 'mlp.0.gate' decided 8 times for 2 images: this layer folds space into the batch"),
        (2, "decided 16 times for 2 images: this layer runs 2 times"),
        (0, "decided 0 times for 2 images: this layer runs 0 times"),
    ):
        with pytest.raises(InputError, match=message):
            masks_of(make_dynamic(Folds(times), sparsity=0.5), torch.randn(2, 8, 6))


class OfTwoSizes(Dataset):
    """Pictures (3, 32, 64) and (3, 48, 64)."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.zeros(3, 32 + 16 * (i % 2), 64)


def test_images_that_are_no_batch_are_refused_in_words() -> None:
    dynamic, plain = make_dynamic(one_stage(), sparsity=0.5), one_stage()
    one, layer = torch.zeros(3, 32, 64), "encoder.stages.0.blocks.0.mlp.fc1"
    for look in (
        lambda x: gate_statistics(dynamic, [x]),
        lambda x: neuron_magnitudes(plain, layer, [x]),
        lambda x: masks_of(dynamic, x[0] if isinstance(x, list) else x),
    ):
        for x in (one, [one, one]):
            with pytest.raises(InputError, match=r"a tensor \(3, 32, 64\), and a batch is \(B, C, H, W\)"):
                look(x)
    for look in (lambda x: gate_statistics(dynamic, x), lambda x: neuron_magnitudes(plain, layer, x)):
        with pytest.raises(DataError, match=r"2 sizes, \(3, 32, 64\), \(3, 48, 64\), make no batch"):
            look(DataLoader(OfTwoSizes(), 2))
    assert neuron_magnitudes(plain, layer, DataLoader(OfTwoSizes(), 1)).shape == (4, 32)


def test_magnitudes_are_means_over_the_tokens_of_one_image() -> None:
    model, x = tiny(), images(3)
    found = neuron_magnitudes(model, "encoder.stages.0.blocks.0.mlp.fc1", [x[:2], x[2:]])
    seen = []
    handle = model.encoder.stages[0].blocks[0].mlp.fc1.register_forward_hook(lambda m, a, y: seen.append(y))
    with torch.no_grad():
        model(x)
    handle.remove()
    assert torch.allclose(found, seen[0].abs().mean(1), atol=1e-5)
    with pytest.raises(InputError, match="no layer 'nowhere'"):
        neuron_magnitudes(model, "nowhere", [x])


def test_the_sparsity_rises_and_the_trained_network_has_all_of_it() -> None:
    dynamic, seen = make_dynamic(tiny(), sparsity=0.5), []
    gates = GateTraining(0.5, steps=2)
    name = "encoder.stages.0.blocks.0.mlp.gate"
    done = finetune(
        dynamic,
        loader(),
        QUIET,
        observer=gates,
        penalty=gates.penalty,
        on_step=lambda step, model: seen.append(gates_of(model)[name].kept),
    )
    assert seen == [24, 16, 16, 16]  # after each step: a quarter, half, and no more
    assert gates_of(done.model)[name].kept == 16
    before, after = dict(dynamic.named_parameters()), dict(done.model.named_parameters())
    assert not torch.equal(before[f"{name}.excite.bias"], after[f"{name}.excite.bias"])
    at_once = GateTraining(0.5, steps=None)
    assert at_once.now() == 0.5


def test_gates_that_had_no_time_to_close_say_so() -> None:
    gates = GateTraining(0.5, steps=8)
    with pytest.warns(UserWarning, match=r"ended at step 4 of the 8 .* at sparsity 0\.25; from here on it is 0\.5"):
        finetune(make_dynamic(one_stage(), sparsity=0.5), loader(), QUIET, observer=gates, penalty=gates.penalty)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        finetune(make_dynamic(one_stage(), sparsity=0.5), loader(), QUIET, observer=gates, penalty=gates.penalty)


@pytest.mark.parametrize("start", [0.0, 0.75])
def test_an_average_of_weights_has_the_sparsity_that_the_training_ended_at(start) -> None:
    gates = GateTraining(0.5, steps=2)
    config = replace(QUIET, ema=0.9, steps=2)
    trained = finetune(make_dynamic(one_stage(), sparsity=start), loader(), config, observer=gates).model
    assert {(gate.kept, gate.size) for gate in gates_of(trained).values()} == {(2, 8), (16, 32)}


def test_micro_batches_pay_the_penalty_of_one_big_batch() -> None:
    dynamic, data = make_dynamic(one_stage(), sparsity=0.5), loader().dataset
    for module in dynamic.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            module.p = 0.0  # each micro-batch would draw its own

    def train(batch: int, accumulate: int, *, weight: float = 1.0):
        gates = GateTraining(0.5, steps=2, weight=weight)
        config = replace(QUIET, steps=3, optimizer="sgd", lr=0.01, freeze_bn=True, accumulate=accumulate)
        return finetune(dynamic, DataLoader(data, batch), config, observer=gates, penalty=gates.penalty)

    big, small, without = train(8, 1), train(2, 4), train(8, 1, weight=0.0)
    assert [s.loss for s in small.history] == pytest.approx([s.loss for s in big.history], rel=1e-4)
    assert _gap(big.model, small.model) < 1e-5 < 1e-3 < _gap(big.model, without.model)
    gates, one = GateTraining(0.5, steps=2), replace(QUIET, steps=1, accumulate=2)
    stages = (("encoder.stages.0",), one)
    done = distill(dynamic, one_stage(), loader(), stages, one, observer=gates, penalty=gates.penalty)
    assert len(done.history) == 2


def _gap(a: nn.Module, b: nn.Module) -> float:
    return max(float((p - q).detach().abs().max()) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_a_target_that_cannot_be_reached_is_refused_before_the_first_step() -> None:
    gates, steps = GateTraining(0.9, steps=100), []
    with pytest.raises(InputError, match="would keep nothing of the 4 neurons of a head"):
        finetune(
            make_dynamic(one_stage(), sparsity=0.5),
            loader(),
            QUIET,
            observer=gates,
            penalty=gates.penalty,
            on_step=lambda step, model: steps.append(step),
        )
    assert steps == []


def test_a_stopped_training_goes_on_with_its_sparsity(tmp_path) -> None:
    dynamic = make_dynamic(one_stage(), sparsity=0.0)

    def train(stop: int | None = None, folder=None):
        gates = GateTraining(0.5, steps=2)

        def on_step(step, model) -> None:
            if step.step == stop:
                raise KeyboardInterrupt

        config = replace(QUIET, steps=3)
        return finetune(
            dynamic, loader(), config, observer=gates, penalty=gates.penalty, checkpoint=folder, on_step=on_step
        )

    whole = train()
    with pytest.raises(KeyboardInterrupt):
        train(stop=1, folder=tmp_path)
    resumed = train(folder=tmp_path)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    for done in (whole, resumed, train(folder=tmp_path)):  # the last finds a run that has ended
        assert {(gate.kept, gate.size) for gate in gates_of(done.model).values()} == {(2, 8), (16, 32)}


def test_the_penalty_is_the_mean_gate_of_each_layer_and_draws_gates_down() -> None:
    dynamic = make_dynamic(tiny(), sparsity=0.0).train()
    for reduction, wanted in (("mean", 15.0), ("sum", sum(gate.size for gate in gates_of(dynamic).values()))):
        gates = GateTraining(0.0, steps=None, weight=0.5, reduction=reduction)
        with gates.watching(dynamic):
            dynamic(images())
            loss = gates.penalty(dynamic)
            assert float(loss.detach()) == pytest.approx(0.5 * wanted)  # all gates are 1
            loss.backward()
            with pytest.raises(TrainingError, match="seen no gate"):
                gates.penalty(dynamic)
    assert all((gate.excite.bias.grad > 0).all() for gate in gates_of(dynamic).values())


def test_the_penalty_weighs_a_negative_gate_like_a_positive_one() -> None:
    dynamic, gates = make_dynamic(one_stage(), sparsity=0.0).train(), GateTraining(0.0, steps=None, weight=0.5)
    with torch.no_grad():
        for gate in gates_of(dynamic).values():
            gate.excite.bias[::2] = -1.0  # type: ignore[union-attr, index]
    with gates.watching(dynamic):
        dynamic(images())
        loss = gates.penalty(dynamic)
    assert float(loss.detach()) == pytest.approx(0.5 * 3)  # three gates, all of size 1
    loss.backward()
    for gate in gates_of(dynamic).values():
        assert torch.equal(gate.excite.bias.grad.sign(), gate.excite.bias.detach().sign())  # type: ignore[union-attr]


@pytest.mark.parametrize("steps", [0, -1, 1.5, "ten", True])
def test_an_annealing_length_that_cannot_work_is_refused(steps) -> None:
    with pytest.raises(InputError, match="annealing over .* None for no annealing"):
        GateTraining(0.5, steps=steps)


def test_other_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(InputError, match=r"in \[0, 1\)"):
        GateTraining(1.0, steps=3)
    wrong = (-1.0, float("nan"), float("inf"), "a", True, None)
    for how in (*({"weight": weight} for weight in wrong), {"reduction": "max"}):
        with pytest.raises(InputError, match="weight"):
            GateTraining(0.5, steps=3, **how)  # type: ignore[arg-type]
