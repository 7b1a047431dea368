"""`prunekit run dynasegformer` and the runs behind D1 to D5: the paper's numbers, equal rivals, a whole run on few
pictures, and what is refused."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_model
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from layouts import ADE, publish
from test_segformer import as_original

from prunekit import cli
from prunekit.course import claims, ledger
from prunekit.course.dynasegformer import DYNASEGFORMER, MODELS, experiment, override, preset_of, trials
from prunekit.course.dynasegformer.preset import PAPER
from prunekit.course.dynasegformer.trials import HALF, Lab, Way
from prunekit.course.experiments import streets
from prunekit.course.tasks import load_task
from prunekit.data.scenes import DOMAINS, SceneDataset
from prunekit.errors import InputError
from prunekit.methods.dynasegformer import MagnitudeGate, cost, gates_of, make_dynamic
from prunekit.models import zoo
from prunekit.models.segformer import MiT, MixTransformer, SegFormer, segformer
from prunekit.profiling import count_macs, count_params

CLAIMS = ("D1", "D2", "D3", "D4", "D5")


def small(name: str = "segformer_mini") -> SegFormer:
    """In the place of the stored network: two stages of one block, 8 channels wide, always the same."""
    torch.manual_seed(0)
    sizes = MiT((8, 8), (1, 1), heads=(2, 2), reductions=(2, 1), mlp_ratios=(4, 4), patches=(3, 3), strides=(2, 2))
    return SegFormer(MixTransformer(sizes, drop_path=0.0), 12, width=8, dropout=0.0).eval()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A few small pictures, a small network, two steps."""
    monkeypatch.setattr(trials, "STEPS", 2)
    monkeypatch.setattr(trials, "BATCH", 2)
    monkeypatch.setattr(trials, "ADAPT", replace(trials.ADAPT, steps=1, batch=2))
    monkeypatch.setattr(zoo, "load", small)
    monkeypatch.setattr(experiment, "STAGES", experiment.STAGES[:2])
    monkeypatch.setitem(DYNASEGFORMER["mini"], "scenes", replace(preset_of("mini"), size=(32, 64)))
    monkeypatch.setattr(streets, "load_task", partial(load_task, train_count=4, test_count=3))
    monkeypatch.setattr(experiment, "SceneDataset", lambda count, **given: SceneDataset(2, **given))
    yield


@pytest.mark.parametrize("name", DYNASEGFORMER["full"])
def test_full_scale_is_section_4_1(name: str) -> None:
    preset = preset_of("full", name)
    config = preset.train.config(seed=0)
    assert (config.steps, config.lr, config.optimizer) == (160000, 6e-5, "adamw")
    # as SegFormer has it: poly of power 1
    assert (config.schedule, config.warmup, config.weight_decay, config.decay_norm) == ("linear", 1500, 0.01, False)
    assert (preset.weight, preset.soft_weight, preset.gain, preset.reduction) == (0.005, 0.5, 1.0, 16)
    assert preset.penalty == "sum", "as printed"
    ade20k = name.startswith("ade20k")
    assert (preset.size, preset.train.batch) == (((512, 512), 16) if ade20k else ((1024, 1024), 8))
    assert preset.features and preset.soft and preset.annealing and preset.gate == "dynamic"
    short = override(preset, steps=20).train.config(seed=0)
    assert (short.steps, short.warmup) == (20, 2), "a trial of a few steps can run, each stage longer than its warm-up"


def test_networks_have_the_papers_costs() -> None:
    """B2 at 30 %; B0's numbers are counted in tests/methods/dynasegformer/test_parts.py."""
    with torch.device("meta"):
        model = segformer(150, variant="b2", fuse="sum", fuse_layer=False)
        found = cost(make_dynamic(model, sparsity=0.3), torch.empty(1, 3, 512, 512))
    rows = {row.name: row for row in PAPER["ade20k"]}
    assert found.macs / 1e9 == pytest.approx(rows["DynaSegFormer-B2, 30 %"].macs, rel=0.03)
    assert found.predictor_params / 1e6 == pytest.approx(3.35, rel=0.02)
    for variant, added in (("B0", 0.44), ("B2", 3.35)):
        for percent in (30, 50):
            row = rows[f"DynaSegFormer-{variant}, {percent} %"]
            assert row.params - rows[f"SegFormer-{variant}"].params == pytest.approx(added, abs=0.01)
    assert [row.macs for name, row in rows.items() if "B0" in name] == [8.4, 3.3, 2.7]


@pytest.mark.parametrize(("name", "variant", "sparsity"), [("cityscapes", "b0", 0.5), ("cityscapes-b2", "b2", 0.3)])
def test_cityscapes_macs_are_of_whole_pictures_as_the_paper_counts(name: str, variant: str, sparsity: float) -> None:
    preset = preset_of("full", name)
    rows = {row.name: row for row in PAPER["cityscapes"]}
    with torch.device("meta"):
        teacher = segformer(19, variant=variant)
        dense = segformer(19, variant=variant, fuse="sum", fuse_layer=False)
        found = experiment.costs(teacher, make_dynamic(dense, sparsity=sparsity), preset)
        crop = count_macs(teacher, torch.empty(1, 3, *preset.size))
    row = f"SegFormer-{variant.upper()}"
    assert found["macs_dense"] / 1e9 == pytest.approx(rows[row].macs, rel=0.04)
    assert found["macs"] / 1e9 == pytest.approx(rows[f"Dyna{row}, {sparsity * 100:.0f} %"].macs, rel=0.03)
    assert crop / 1e9 < 0.6 * rows[row].macs, "the control: of a training crop it is about half"


def test_weights_of_another_network_or_data_set_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        b0 = segformer(150)
    monkeypatch.setattr(experiment, "from_original", lambda path, classes: b0)
    file = Path("weights.pth")
    assert experiment.dense_model(preset_of("full", "ade20k"), 150, seed=0, weights=file) is b0
    for name, classes, message in (
        ("ade20k-b2", 150, r"widths \(32, 64, 160, 256\).*segformer_b2 on ade20k has widths \(64, 128, 320, 512\)"),
        ("cityscapes", 19, "150 classes; segformer_b0 on cityscapes has .* 19 classes"),
    ):
        with pytest.raises(InputError, match=f"weights.pth holds a SegFormer of .*{message}"):
            experiment.dense_model(preset_of("full", name), classes, seed=0, weights=file)


@pytest.mark.parametrize("published", ["authors", "transformers"])
def test_full_scale_starts_from_released_weights(
    published: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, source = tmp_path / "weights", segformer(150)
    if published == "authors":
        torch.save({"state_dict": as_original(source)}, weights)
    else:
        transformers = pytest.importorskip("transformers")
        config = transformers.SegformerConfig(num_labels=150)  # B0 but for the decoder's width, which it has too
        transformers.SegformerForSemanticSegmentation(config).save_pretrained(weights)
    line = ["run", "dynasegformer", "--scale", "full", "--root", str(publish(ADE, tmp_path / "data"))]
    line += [
        "--weights",
        str(weights),
        "--steps",
        "2",
        "--batch",
        "1",
        "--size",
        "64",
        "64",
        "--out",
        str(tmp_path / "run"),
    ]
    assert cli.main([*line, "--record"]) == 0, capsys.readouterr().err
    (record,) = ledger.load("dynasegformer")
    assert record.scale == "full" and record.settings["penalty"] == "sum"
    assert record.metrics["macs"] < record.metrics["macs_dense"] and len(record.metrics["iou"]) == 150
    assert cli.main([*line, "--dataset", "ade20k-b2"]) == 2
    assert "segformer_b2 on ade20k has widths" in capsys.readouterr().err


def test_overrides_and_what_they_refuse() -> None:
    preset = override(preset_of("mini"), steps=4, batch=2, gate="static", sparsity=0.3, model=None)
    assert (preset.train.steps, preset.train.batch, preset.gate, preset.sparsity) == (4, 2, "static", 0.3)
    for wrong, message in (
        ({"sparsity": 1.0}, r"in \[0, 1\)"),
        ({"gate": "soft"}, "no gate 'soft'"),
        ({"model": "unet"}, "no network 'unet'"),
        ({"steps": 0}, "from 1 on"),
        ({"steps": 1}, "1 step is too few for two stages.*--no-features"),
        ({"gate": "dense", "sparsity": 0.3}, "no gates, so no sparsity: leave that out"),
        ({"gate": "dense", "sparsity": 0.3, "annealing": True}, "no sparsity and no annealing"),
    ):
        with pytest.raises(InputError, match=message):
            override(preset, **wrong)
    dense = override(preset, gate="dense")
    assert (dense.sparsity, dense.annealing) == (0.0, False), "what is recorded is what was done"
    assert override(preset, steps=1, features=False).train.steps == 1
    with pytest.raises(InputError, match="domains is 6; scenes have 5"):
        experiment.task_of(replace(preset, domains=6), None)
    with pytest.raises(InputError, match="released SegFormer weights"):
        experiment.dense_model(preset_of("full"), 150, seed=0)
    assert set(MODELS) == {"segformer_mini", "segformer_b0", "segformer_b2"}
    for make in MODELS.values():
        with torch.device("meta"):
            net = make(12)
        stages = [net.get_submodule(name) for name in experiment.STAGES]
        assert stages == list(net.encoder.stages), "stage 1 of the distillation compares them all"


def test_the_whole_road_on_few_pictures_goes_on_where_it_was(
    few: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["run", "dynasegformer", "--steps", "2", "--batch", "2", "--out", str(tmp_path), "--record"]
    assert cli.main(line) == 0
    said = capsys.readouterr().out
    assert "dynamic, 50%: mIoU" in said and "by the decoder" in said
    (record,) = ledger.load("dynasegformer")
    metrics = record.metrics
    assert metrics["macs"] == metrics["macs_dense"] - metrics["saved_by_decoder"] - metrics["saved_by_gates"]
    parts = ("attention", "ffn", "predictor", "decoder", "other")
    assert metrics["macs"] == sum(metrics[f"macs_{part}"] for part in parts)
    again = experiment.run(override(preset_of("mini"), steps=2, batch=2), scale="mini", root=None, out=tmp_path, seed=0)
    assert again.metrics["miou"] == metrics["miou"]
    assert ledger.load("dynasegformer")[-1].seconds == record.seconds, "what is done gets no longer"
    (file,) = tmp_path.rglob("student.safetensors")
    with safe_open(file, "pt") as stored:
        assert stored.metadata() == {"gate": "dynamic", "sparsity": "0.5", "gain": "10", "reduction": "8"}
    other = experiment.gated(small(), replace(preset_of("mini"), sparsity=0.25, gain=1.0))
    load_model(other, file)
    x = torch.zeros(1, 3, 32, 64)
    with torch.no_grad():
        assert torch.equal(other(x), again.model.cpu()(x)), "the sparsity and the gain come with the weights"
    assert cli.main([*line, "--size", "64", "32"]) == 2
    assert "started with size=[32, 64], now [64, 32]" in capsys.readouterr().err
    assert cli.main([*line, "--root", str(tmp_path)]) == 2
    assert f"started with root=[None], now ['{tmp_path}']" in capsys.readouterr().err
    assert len(ledger.load("dynasegformer")) == 1, "and nothing is recorded"
    assert cli.main([*line, "--gate", "static", "--sparsity", "1.5"]) == 2
    assert "in [0, 1)" in capsys.readouterr().err
    assert cli.main([*line, "--sparsity", "0.99"]) == 2
    (limit,) = re.findall(r"lower the sparsity to (\S+),", capsys.readouterr().err)
    assert cli.main([*line, "--sparsity", limit]) == 0, "what is proposed works for every gate"
    assert cli.main(["run", "dynasegformer", "--scale", "full", "--root", str(tmp_path), "--out", str(tmp_path)]) == 2


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_runs_are_those_that_the_claim_and_the_paper_compare(claim: str) -> None:
    known = claims.known(claim)
    asked = {name for need in known.needs for name in (need.left, need.right) if isinstance(name, str)}
    assert asked and asked | set(known.prints) <= set(trials.WAYS[claim])


def test_a_run_that_claims_share_is_made_once_and_d2_is_asked_three_times() -> None:
    runs = trials.trials(CLAIMS, 2)
    assert len(runs) == 2 * 20
    assert {row.claim for row in runs[0, Way()]} == {"D2", "D3", "D4"}
    assert [row.claim for row in runs[1, HALF]] == ["D1", "D5", "D5", "D5", "D2"]
    at_once = [row.method for (_, way), rows in runs.items() for row in rows if way == Way("static", annealing=False)]
    assert at_once == ["static, at once"] * 2
    of_d2 = [row.settings for rows in runs.values() for row in rows if row.claim == "D2"]
    assert {(same["domains"], same["sparsity"]) for same in of_d2} == {(1, 0.5), (1, 0.75), (5, 0.75)}
    assert {row.settings["sparsity"] for row in runs[1, HALF] if row.claim == "D5"} == {0.5}
    assert [seed for seed, _ in runs] == sorted(seed for seed, _ in runs), "a seed is whole before the next"
    with pytest.raises(InputError, match="no runs for 'D6'"):
        trials.trials(["D6"], 1)


def test_rivals_start_alike_and_train_as_long(few: None, tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    ways = {name: way for claim in CLAIMS for name, way in trials.WAYS[claim].items()}
    assert {lab.preset(way).train.steps for way in ways.values()} == {2}
    assert lab.preset(ways["stage 1"]).soft is False and lab.preset(ways["stage 2"]).features is False
    static = experiment.gated(lab.teacher(1), lab.preset(ways["static"]))
    dynamic = experiment.gated(lab.teacher(1), lab.preset(ways["dynamic"]))
    assert {type(gate) for gate in gates_of(static).values()} == {MagnitudeGate}
    assert [g.kept for g in gates_of(static).values()] == [g.kept for g in gates_of(dynamic).values()]
    own = dict(static.named_parameters())
    assert all(torch.equal(value, dict(dynamic.named_parameters())[name]) for name, value in own.items())
    way = replace(ways["static"], features=False)
    first = lab.student(0, way)
    assert isinstance(first, nn.Module)
    for name, value in lab.student(0, way).state_dict().items():
        assert torch.equal(value, first.state_dict()[name]), "the same seed, the same network"
    assert count_params(first) < count_params(dynamic)
    assert lab.task(5).train.domains == DOMAINS  # type: ignore[attr-defined]
    drawn = [experiment.gated(lab.teacher(1), lab.preset(ways["dynamic"]), seed=seed) for seed in (0, 0, 1)]
    squeezed = [next(iter(gates_of(net).values())).squeeze.weight for net in drawn]  # type: ignore[union-attr]
    assert torch.equal(squeezed[0], squeezed[1]) and not torch.equal(squeezed[0], squeezed[2])


def test_a_claims_run_ends_as_records_and_is_not_made_twice(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trials, "WAYS", {"D1": {"50 %": HALF}, "D5": dict.fromkeys(trials.KINDS, HALF), "D2": {}})
    monkeypatch.setattr(trials, "HALVES", {})
    monkeypatch.setattr(trials, "MANY", {"static": replace(HALF, gate="static", domains=5)})
    assert cli.main(["run", "claims", "D1", "D5", "D2", "--seeds", "1", "--out", str(tmp_path), "--record"]) == 0
    (half,), shares, (several,) = ledger.load("D1"), ledger.load("D5"), ledger.load("D2")
    assert 0 <= half.metrics["miou"] < 1 and half.metrics["images"] == 3
    assert sum(row.metrics["share"] for row in shares) == pytest.approx(1)
    on = half.metrics["on"]
    wanted = {"type I": on.count(3) / 8, "type III": on.count(0) / 8}
    assert {row.method: row.metrics["share"] for row in shares if row.method in wanted} == wanted
    kept = half.metrics["kept"]
    assert sum(kept) == 3 * 4 and all(a <= b for a, b in zip(on, kept)), "each image keeps half, whatever the signs"
    wanted = {"type I": kept.count(3) / 8, "type III": kept.count(0) / 8}
    assert {row.method: row.metrics["share_kept"] for row in shares if row.method in wanted} == wanted
    assert sum(half.metrics["kinds_all_layers"]) == sum(half.metrics["choices_all_layers"])
    assert several.settings["domains"] == 5 and several.metrics["miou_teacher"] != half.metrics["miou_teacher"]
    capsys.readouterr()
    trials.run(["D1", "D5"], seeds=1, out=tmp_path)
    assert capsys.readouterr().out == "" and len(ledger.load()) == 5
