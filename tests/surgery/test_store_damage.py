"""Files that are damaged, or do not belong to each other or to the model, are refused by name; so are other objects."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
import nets

import prunekit as pk
from prunekit.core import PruningPlan
from prunekit.errors import CheckpointError, InputError, PlanError
from prunekit.surgery import store

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def cut(net: Callable[[], nn.Module] = nets.Chain, ratio: float = 0.5) -> tuple[nn.Module, PruningPlan]:
    model = net()
    groups = pk.find_groups(model, X)
    plan = nets.random_plan(groups, ratio)
    return pk.prune(model, groups, plan), plan


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return pk.save_pruned(tmp_path / "small", *cut())


def _rewrite(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    """As another program would: no record of the plan."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def _cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


DAMAGE: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), CheckpointError, "model.safetensors is missing"),
    "no plan": (lambda f: (f / "plan.json").unlink(), CheckpointError, "cannot read .*plan.json .No such file"),
    "weights cut short": (lambda f: _cut_short(f / "model.safetensors"), CheckpointError, "truncated or damaged"),
    "plan cut short": (lambda f: _cut_short(f / "plan.json"), PlanError, "plan.json is damaged or no plan"),
    "plan empty": (lambda f: (f / "plan.json").write_text("[]"), PlanError, "plan.json holds no plan"),
    "another plan": (
        lambda f: PruningPlan({"a": 8}, {"a": (0, 1, 2, 3)}).save(f / "plan.json"), CheckpointError,
        "was stored with another plan.json",
    ),
    "a tensor missing": (
        lambda f: _rewrite(f, lambda t: t.pop("bn.bias")), CheckpointError, r"'bn.bias' is missing in .*, \(4,\) in",
    ),
    "a tensor too many": (
        lambda f: _rewrite(f, lambda t: t.update(extra=torch.ones(1))), CheckpointError, r"'extra' is \(1,\) in",
    ),
    "another width": (
        lambda f: _rewrite(f, lambda t: t.update({"a.bias": torch.ones(5)})), CheckpointError, r"'a.bias' is \(5,\) in",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused_by_name(name: str, stored: Path) -> None:
    harm, error, message = DAMAGE[name]
    pk.load_pruned(stored, nets.Chain(), X)
    harm(stored)
    with pytest.raises(error, match=message):
        pk.load_pruned(stored, nets.Chain(), X)


def test_a_note_may_be_edited_and_another_program_may_write_the_weights(stored: Path) -> None:
    plan = PruningPlan.load(stored / "plan.json")
    PruningPlan(plan.sizes, plan.keep, "the one that we shipped").save(stored / "plan.json")
    pk.load_pruned(stored, nets.Chain(), X)
    _rewrite(stored, lambda tensors: None)
    pk.load_pruned(stored, nets.Chain(), X)


def test_another_architecture_is_refused(stored: Path) -> None:
    with pytest.raises(PlanError, match="plan wants 8 units in 'a', the model has 6"):
        pk.load_pruned(stored, nets.Concat(), X)
    with pytest.raises(PlanError, match="'a', which this model does not have"):
        pk.load_pruned(stored, nets.Residual(), X)
    wider = nets.Chain()
    wider.b = nets.conv(8, 5)  # other classes
    with pytest.raises(
        CheckpointError, match=r"'b.weight' is \(4, 4, 3, 3\) in .*, \(5, 4, 3, 3\) in the pruned Chain"
    ):
        pk.load_pruned(stored, wider, X)


def test_what_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    small, plan = cut()
    for plans in ([], None, "plan.json", [plan, None]):
        with pytest.raises(PlanError, match="give the PruningPlan that made the small model"):
            pk.save_pruned(tmp_path, small, plans)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="give the model that prune returned"):
        pk.save_pruned(tmp_path, small.state_dict(), plan)  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write a pruned model to .*file"):
        pk.save_pruned(tmp_path / "file", small, plan)

    class Extra(nets.Chain):
        def get_extra_state(self) -> dict[str, int]:
            return {"seen": 3}

    small, plan = cut(Extra)  # which surgery does not mind
    with pytest.raises(CheckpointError, match="'_extra_state' is no tensor"):
        pk.save_pruned(tmp_path, small, plan)


def test_a_write_that_fails_leaves_what_was_there(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file.name: file.read_bytes() for file in stored.iterdir()}

    def full_disk(tensors: dict[str, Tensor], file: Path, *_: Sequence[str]) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "save_file", full_disk)
    with pytest.raises(CheckpointError, match="No space left"):
        pk.save_pruned(stored, *cut(ratio=0.25))
    assert {file.name: file.read_bytes() for file in stored.iterdir()} == before
