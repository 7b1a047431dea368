"""Two-stage distillation: against the equations by hand, what each stage moves, and teachers that do not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from prunekit.errors import InputError
from prunekit.train import TrainConfig, distill, soft_cross_entropy

ONE = TrainConfig(steps=1, lr=0.1, momentum=0, weight_decay=0, schedule="constant", quiet=True)
STAGES = ("body.0", "body.2")


class Net(nn.Module):
    """(B, 3) -> (B, 4), two stages and a head."""

    def __init__(self, width: int = 5, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 6), nn.Dropout(0.5))
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.body(x))


def loader() -> DataLoader:
    dice = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, generator=dice)
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 8)


def test_stage_1_is_one_step_down_the_sum_of_the_features_errors() -> None:
    student, teacher = Net(seed=0).eval(), Net(seed=1).eval()
    student.body[3].p = 0.0
    done = distill(student, teacher, loader(), (STAGES, ONE), None)
    x = next(iter(loader()))[0]
    with torch.no_grad():
        theirs = [teacher.body[0](x), teacher.body[:3](x)]
    loss = sum((mine - t).square().mean() for mine, t in zip([student.body[0](x), student.body[:3](x)], theirs))
    assert done.history[0].loss == pytest.approx(float(loss), rel=1e-5)
    loss.backward()
    for name, parameter in student.named_parameters():
        wanted = parameter if parameter.grad is None else parameter - 0.1 * parameter.grad
        assert torch.allclose(dict(done.model.named_parameters())[name], wanted, atol=1e-6), name
    assert student.head.weight.grad is None  # the head has no part in stage 1


def test_stage_2_adds_the_teachers_answers_to_the_truth() -> None:
    student, teacher = Net(seed=0).eval(), Net(seed=1).eval()
    student.body[3].p = 0.0
    (x, target), softly = next(iter(loader())), {}
    for weight in (0.0, 0.5):
        done = distill(student, teacher, loader(), None, ONE, soft_weight=weight, loss_fn=cross_entropy)
        softly[weight] = done.history[0].loss
    with torch.no_grad():
        hard, answer, wanted = cross_entropy(student(x), target), student(x), teacher(x)
        by_hand = -(wanted.softmax(1) * answer.softmax(1).log()).sum() / len(x)
    assert softly[0.0] == pytest.approx(float(hard), rel=1e-5)
    assert softly[0.5] == pytest.approx(float(hard + 0.5 * by_hand), rel=1e-5)
    assert float(soft_cross_entropy(answer, wanted)) == pytest.approx(float(by_hand), rel=1e-5)


def test_the_student_comes_to_answer_like_the_teacher_and_neither_is_changed() -> None:
    student, teacher = Net(seed=0), Net(seed=1).train()
    before = [p.clone() for p in (*student.parameters(), *teacher.parameters())]
    config = TrainConfig(steps=150, lr=0.03, optimizer="adamw", quiet=True)
    x = next(iter(loader()))[0]
    done = distill(student, teacher, loader(), (STAGES, config), None)

    def gap(model) -> float:
        with torch.no_grad():
            return float((model.eval().body(x) - teacher.eval().body(x)).square().mean())

    assert gap(done.model) < 0.3 * gap(student)
    assert isinstance(done.model, Net) and len(done.history) == 150
    assert all(torch.equal(a, b) for a, b in zip(before, (*student.parameters(), *teacher.parameters())))


def test_a_teacher_whose_stages_do_not_match_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"stage 'body.0' is \(8, 5\) in the student and \(8, 7\) in the teacher"):
        distill(Net(), Net(width=7), loader(), (STAGES, ONE), ONE)
    with pytest.raises(InputError, match=r"teacher \(Linear\) has no module 'body.0'"):
        distill(Net(), nn.Linear(3, 4), loader(), (STAGES, ONE), ONE)
    with pytest.raises(InputError, match=r"student \(Net\) has no module 'stage9'"):
        distill(Net(), Net(), loader(), (("stage9",), ONE), ONE)
    with pytest.raises(InputError, match=r"answers \(8, 4\), the teacher \(8, 2\)"):
        distill(Net(), nn.Linear(3, 2), loader(), None, ONE, loss_fn=cross_entropy)


def test_all_stages_that_do_not_match_are_named_at_once() -> None:
    narrow, wide = Net(), Net(width=7)
    wide.body[2] = nn.Linear(7, 9)
    wide.head = nn.Linear(9, 4)
    with pytest.raises(InputError, match=r"'body.0' is \(8, 5\) .*\(8, 7\) in the teacher; stage 'body.2' is \(8, 6\)"):
        distill(narrow, wide, loader(), (STAGES, ONE), ONE)
    both = r"student \(Net\) has no module 'x', 'y'; the teacher \(Linear\) has no module 'x', 'body.0', 'y'"
    with pytest.raises(InputError, match=both):
        distill(Net(), nn.Linear(3, 4), loader(), (("x", "body.0", "y"), ONE), ONE)


def test_answers_that_stage_2_cannot_compare_are_refused_before_stage_1_takes_a_step(tmp_path) -> None:
    teacher = Net(seed=1)
    teacher.head = nn.Linear(6, 2)
    every = replace(ONE, save_every=1)
    with pytest.raises(InputError, match=r"answers \(8, 4\), the teacher \(8, 2\): 4 classes and 2.*soft_weight=0"):
        distill(Net(), teacher, loader(), (STAGES, every), every, checkpoint=tmp_path)
    assert list(tmp_path.rglob("*.safetensors")) == [], "no step was taken"
    for stages in ((None, {}), (ONE, {"soft_weight": 0})):  # no second stage, or one that does not ask
        logits, more = stages
        done = distill(Net(), teacher, loader(), (STAGES, ONE), logits, loss_fn=cross_entropy, **more)
        assert len(done.history) == 1 + (logits is not None)
    distill(Net(), Net(seed=1), loader(), (STAGES, every), None, checkpoint=tmp_path)
    assert list(tmp_path.rglob("*.safetensors")), "the control: a step leaves a file"


def test_nothing_to_do_and_weights_below_0_are_refused() -> None:
    with pytest.raises(InputError, match="both stages"):
        distill(Net(), Net(), loader(), None, None)
    for weight in (-1, float("nan"), "a"):
        with pytest.raises(InputError, match="soft_weight"):
            distill(Net(), Net(), loader(), None, ONE, soft_weight=weight)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="names of modules"):
        distill(Net(), Net(), loader(), ((), ONE), ONE)
    with pytest.raises(InputError, match="names of modules"):
        distill(Net(), Net(), loader(), ("body.0", ONE), ONE)


class TwoOrders(nn.Module):
    """Two layers beside each other, run in the order that is asked for."""

    def __init__(self, order: tuple[str, str]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.order = nn.Linear(3, 4), nn.Linear(3, 4), order

    def forward(self, x):
        found = {name: self.get_submodule(name)(x) for name in self.order}
        return found["a"] + 2 * found["b"]


def test_stages_are_compared_by_name_whatever_runs_first() -> None:
    done = distill(TwoOrders(("a", "b")), TwoOrders(("b", "a")), loader(), (("a", "b"), ONE), None)
    assert done.history[0].loss == 0  # equal weights; compared in the order of running they would differ


def test_a_teacher_that_is_not_asked_does_not_run() -> None:
    teacher = Net(seed=1)
    teacher.register_forward_hook(lambda *_: pytest.fail("it ran"))
    done = distill(Net(), teacher, loader(), None, ONE, soft_weight=0, loss_fn=cross_entropy)
    assert len(done.history) == 1
    with pytest.raises(pytest.fail.Exception):  # the control
        distill(Net(), teacher, loader(), None, ONE, soft_weight=0.5, loss_fn=cross_entropy)


def test_a_student_that_shares_parameters_with_the_teacher_is_refused() -> None:
    student, teacher = Net(), Net(seed=1)
    with pytest.raises(InputError, match="student's 'body.0.weight' is the teacher's 'body.0.weight'.*deepcopy"):
        distill(teacher, teacher, loader(), None, ONE)
    student.head = teacher.head
    with pytest.raises(InputError, match="student's 'head.weight' is the teacher's 'head.weight'"):
        distill(student, teacher, loader(), None, ONE)


def test_stages_that_give_no_tensor_or_do_not_run_are_named() -> None:
    class Lists(Net):
        def __init__(self, seed: int) -> None:
            super().__init__(seed=seed)
            self.unused, self.many = nn.Linear(3, 3), nn.Identity()

        def forward(self, x):
            return super().forward(self.many([x])[0])

    for name, message in (
        ("many", "'many' gives a list in the student; .*in the teacher. Name modules that .* give one tensor"),
        ("unused", "stage 'unused' did not run in the student"),
    ):
        with pytest.raises(InputError, match=message):
            distill(Lists(0), Lists(1), loader(), ((name,), ONE), None)


def test_penalty_and_observer_see_the_student_in_both_stages_and_checkpoints_resume(tmp_path) -> None:
    config = TrainConfig(steps=3, lr=0.1, quiet=True)

    class Look:
        def __init__(self) -> None:
            self.steps, self.seen = 0, set()

        def watching(self, model):
            from contextlib import nullcontext

            return nullcontext()

        def on_gradients(self, model) -> None:
            self.steps += 1
            self.seen.add(type(model))

        def state_dict(self):
            return {"steps": torch.tensor(self.steps)}

        def load_state_dict(self, state) -> None:
            self.steps = int(state["steps"])

    def run(folder=None):
        look, stages = Look(), []

        def penalty(model) -> torch.Tensor:
            stages.append(type(model))
            return 0.01 * model.head.weight.abs().sum()

        done = distill(
            Net(), Net(seed=1), loader(), (STAGES, config), config,
            loss_fn=cross_entropy, penalty=penalty, observer=look, checkpoint=folder,
        )  # fmt: skip
        return done, look, stages

    done, look, stages = run(tmp_path)
    assert look.steps == 6 and look.seen == {Net} and set(stages) == {Net}
    again, look, stages = run(tmp_path)  # both stages are there already
    assert look.steps == 6 and stages == [] and len(again.history) == 6
    assert all(torch.equal(a, b) for a, b in zip(done.model.parameters(), again.model.parameters()))
