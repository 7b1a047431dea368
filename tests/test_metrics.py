"""Metrics against torchmetrics, against counting by hand, and on inputs that must be refused."""

from __future__ import annotations

import math
import sys
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from prunekit import metrics
from prunekit.errors import DataError, InputError
from prunekit.models.ssd import Detections

K = 5


def _pair(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (2,K,6,7) and a target with ignored pixels, in which class 4 is absent."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, K, 6, 7, generator=g)
    target = torch.randint(0, K - 1, (2, 6, 7), generator=g)
    target[:, :2] = 255
    return logits, target


class Net(nn.Module):
    """A 1x1 convolution with dropout, so that train mode would show."""

    def __init__(self, wrap: bool = False, stride: int = 1) -> None:
        super().__init__()
        self.conv, self.drop, self.norm = nn.Conv2d(3, K, 1, stride), nn.Dropout(0.5), nn.BatchNorm2d(K)
        self.wrap = wrap

    def forward(self, x: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        y = self.norm(self.drop(self.conv(x)))
        return {"out": y, "aux": -y} if self.wrap else y


def _loader(n: int = 5, size: int = 8) -> DataLoader:
    g = torch.Generator().manual_seed(3)
    mask = torch.randint(0, K, (n, size, size), generator=g)
    mask[:, 0] = 255
    return DataLoader(TensorDataset(torch.randn(n, 3, size, size, generator=g), mask), batch_size=2)


def test_confusion_matrix_equals_torchmetrics():
    logits, target = _pair()
    ours = metrics.confusion_matrix(logits, target, K)
    oracle = MulticlassConfusionMatrix(K, ignore_index=255)(logits, target)
    assert ours.dtype == torch.int64 and torch.equal(ours, oracle)
    assert ours.sum() == (target != 255).sum()
    assert torch.equal(metrics.confusion_matrix(logits.argmax(1), target, K), ours)
    assert not torch.equal(metrics.confusion_matrix(-logits, target, K), ours)  # negative control


def test_rows_are_the_truth():
    cm = metrics.confusion_matrix(torch.tensor([1, 1, 0]), torch.tensor([0, 0, 0]), 2)
    assert cm.tolist() == [[1, 2], [0, 0]]


def test_iou_equals_torchmetrics_per_class():
    logits, target = _pair(1)
    ours = metrics.iou_per_class(metrics.confusion_matrix(logits, target, K))
    oracle = MulticlassJaccardIndex(K, ignore_index=255, average="none")(logits, target)
    torch.testing.assert_close(ours.float(), oracle)
    assert ours[4] == 0  # predicted, never true: counts as 0, not as absent


def test_absent_class_is_nan_and_left_out_of_the_mean():
    target = torch.tensor([[0, 0, 1, 1]])
    cm = metrics.confusion_matrix(torch.tensor([[0, 1, 1, 1]]), target, 3)
    iou = metrics.iou_per_class(cm)
    assert iou[:2].tolist() == pytest.approx([1 / 2, 2 / 3]) and math.isnan(iou[2])
    assert metrics.miou(cm) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert metrics.pixel_accuracy(cm) == pytest.approx(3 / 4)
    empty = torch.zeros(3, 3, dtype=torch.long)
    assert math.isnan(metrics.miou(empty)) and math.isnan(metrics.pixel_accuracy(empty))


def test_uint8_masks_do_not_overflow():
    target = torch.tensor([[200, 255, 3]], dtype=torch.uint8)
    cm = metrics.confusion_matrix(target.clone(), target, 201)
    assert cm[200, 200] == 1 and cm[3, 3] == 1 and cm.sum() == 2


@pytest.mark.parametrize("bad", [7, -1])
def test_label_out_of_range_is_named(bad: int):
    logits, target = _pair()
    target[0, 5, 5] = bad
    with pytest.raises(DataError, match=rf"label {bad} \(1 times\), outside 0\.\.4.*pass ignore={bad}"):
        metrics.confusion_matrix(logits, target, K)
    assert metrics.confusion_matrix(logits, torch.where(target == 255, bad, target), K, ignore=bad).sum() > 0


def test_ignore_none_counts_all_and_refuses_255():
    logits, target = _pair()
    with pytest.raises(DataError, match="label 255"):
        metrics.confusion_matrix(logits, target, K, ignore=None)
    assert metrics.confusion_matrix(logits, target.clamp(max=3), K, ignore=None).sum() == target.numel()


def test_prediction_map_out_of_range():
    with pytest.raises(DataError, match="prediction holds the label 9"):
        metrics.confusion_matrix(torch.tensor([9, 0]), torch.tensor([0, 0]), 2)


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (torch.zeros(2, K, 3, 3), torch.zeros(2, 6, 6, dtype=torch.long), "does not fit"),
        (torch.zeros(2, 9, 6, 6), torch.zeros(2, 6, 6, dtype=torch.long), "9 channels for 5 classes"),
        (torch.zeros(2, K, 6, 6), torch.zeros(2, 6, 6), "must be integers"),
        (torch.zeros(2, 6, 6), torch.zeros(2, 6, 6, dtype=torch.long), "must be integers"),
        (torch.full((2, K, 6, 6), float("nan")), torch.zeros(2, 6, 6, dtype=torch.long), "nan"),
    ],
)
def test_shapes_and_types_that_do_not_fit(prediction, target, message):
    with pytest.raises(DataError, match=message):
        metrics.confusion_matrix(prediction, target, K)


@pytest.mark.parametrize("classes", [0, -3, 2.0, ("road", "sky"), True])
def test_classes_must_be_a_count(classes):
    with pytest.raises(InputError, match=r"len\(CLASSES\)"):
        metrics.evaluate(Net(), _loader(), classes)


@pytest.mark.parametrize("wrap", [False, True])
def test_evaluate_equals_one_big_batch(wrap: bool):
    torch.manual_seed(0)
    net, loader = Net(wrap), _loader()
    x, y = loader.dataset.tensors  # type: ignore[attr-defined]
    result = metrics.evaluate(net, loader, K)
    out = net.eval()(x)
    logits = out["out"] if wrap else out
    cm = MulticlassConfusionMatrix(K, ignore_index=255)(logits, y)
    assert torch.equal(result.confusion, cm)
    assert result.miou == metrics.miou(cm) and result.pixel_accuracy == metrics.pixel_accuracy(cm)
    assert result.iou == tuple(metrics.iou_per_class(cm).tolist())
    assert result != metrics.evaluate(nn.Conv2d(3, K, 1), loader, K)  # negative control


def test_evaluate_leaves_the_model_alone():
    net = Net()
    net.train()
    net.norm.eval()  # a frozen batch norm inside a training model
    before = {k: v.clone() for k, v in net.state_dict().items()}
    metrics.evaluate(net, _loader(), K)
    assert [net.training, net.conv.training, net.drop.training, net.norm.training] == [True, True, True, False]
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_flags_come_back_after_an_error_and_no_gradient_is_recorded():
    seen = []

    class Broken(Net):
        def forward(self, x):
            seen.append((self.training, torch.is_grad_enabled()))
            raise RuntimeError("boom")

    net = Broken().train()
    with pytest.raises(RuntimeError, match="boom"):
        metrics.evaluate(net, _loader(), K)
    assert seen == [(False, False)] and net.training and net.drop.training and torch.is_grad_enabled()


def test_low_resolution_logits_are_upsampled():
    net = Net(stride=2).eval()
    result = metrics.evaluate(net, _loader(), K)
    x, y = _loader().dataset.tensors  # type: ignore[attr-defined]
    up = nn.functional.interpolate(net(x), (8, 8), mode="bilinear")
    assert torch.equal(result.confusion, metrics.confusion_matrix(up, y, K))


def test_bad_loaders_and_outputs():
    with pytest.raises(DataError, match="no batch"):
        metrics.evaluate(Net(), [], K)
    x = torch.zeros(1, 3, 4, 4)
    with pytest.raises(DataError, match="ignore label 255"):
        metrics.evaluate(Net(), [(x, torch.full((1, 4, 4), 255))], K)
    with pytest.raises(DataError, match="target holds the label 77"):
        metrics.evaluate(Net(), [(x, torch.full((1, 4, 4), 77))], K)
    with pytest.raises(InputError, match="list"):
        metrics.logits_of([x])


def test_device_argument_runs_a_copy():
    net = Net()
    same, where = metrics.place(net, "cpu")
    assert same is net and where == torch.device("cpu")
    moved, where = metrics.place(net, "meta")
    assert where.type == "meta" and moved is not net and next(net.parameters()).device.type == "cpu"
    with pytest.raises(InputError, match="device 'nonsense'"):
        metrics.place(net, "nonsense")


# Boxes.


def _some_boxes(count: int, images: int, draw: torch.Generator) -> list[tuple[torch.Tensor, torch.Tensor]]:
    corner = torch.rand(images, count, 2, generator=draw) * 40
    side = torch.rand(images, count, 2, generator=draw) * 20 + 2
    labels = torch.randint(0, 3, (images, count), generator=draw)
    return list(zip(torch.cat([corner, corner + side], -1), labels, strict=True))


def _noisy(truth: list[tuple[torch.Tensor, torch.Tensor]], draw: torch.Generator) -> list[Detections]:
    """Every object twice, moved a little, and false alarms: 30 boxes an image, scores at random."""
    alarms = _some_boxes(20, len(truth), draw)
    found = []
    for (boxes, labels), (false, kinds) in zip(truth, alarms, strict=True):
        near = boxes.repeat(2, 1) + torch.randn(2 * len(boxes), 4, generator=draw)
        all_boxes, all_labels = torch.cat([near, false]), torch.cat([labels.repeat(2), kinds])
        found.append(Detections(all_boxes, all_labels, torch.rand(len(all_boxes), generator=draw)))
    return found


@pytest.mark.parametrize("overlap", [0.5, 0.75])
def test_average_precision_is_cocos(overlap: float, monkeypatch: pytest.MonkeyPatch):
    peer = pytest.importorskip("torchmetrics.detection._mean_ap")
    for name in ("pycocotools", "pycocotools.mask"):  # it asks for this package, but uses it for masks only
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules["pycocotools"], "mask", sys.modules["pycocotools.mask"], raising=False)
    monkeypatch.setattr(peer, "_PYCOCOTOOLS_AVAILABLE", True)
    draw = torch.Generator().manual_seed(0)
    truth = [*_some_boxes(5, 12, draw), (torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))]
    found = _noisy(truth, draw)
    oracle = peer.MeanAveragePrecision(iou_thresholds=[overlap], class_metrics=True)
    oracle.update(
        [{"boxes": f.boxes, "labels": f.labels, "scores": f.scores} for f in found],
        [{"boxes": boxes, "labels": labels} for boxes, labels in truth],
    )
    ours = metrics.average_precision(found, truth, 4, overlap=overlap)
    # the peer's recall is rounded, so one of the 101 levels may fall to the other side of a step
    assert ours[:3] == pytest.approx(oracle.compute()["map_per_class"].tolist(), abs=1e-3)
    assert min(ours[:3]) > 0.05 and max(ours[:3]) < 0.95 and math.isnan(ours[3])


def test_average_precision_by_hand():
    """Two cars. Found, best first: one, an alarm, that car again, the other: precision 1 up to recall .5, then .5."""
    cars = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    boxes = torch.stack([cars[0], cars[0] + 50, cars[0], cars[1]])
    found = Detections(boxes, torch.zeros(4, dtype=torch.long), torch.tensor([0.9, 0.8, 0.7, 0.6]))
    (precision,) = metrics.average_precision([found], [(cars, torch.zeros(2, dtype=torch.long))], 1)
    assert precision == pytest.approx((51 * 1 + 50 * 0.5) / 101)
    nothing = Detections(boxes[:0], torch.zeros(0, dtype=torch.long), torch.zeros(0))
    assert metrics.average_precision([nothing], [(cars, torch.zeros(2, dtype=torch.long))], 1) == (0.0,)


def test_top1_counts_images_whose_largest_logit_is_right():
    model = nn.Flatten()
    x = torch.eye(4).repeat(2, 1)[:6].view(6, 4, 1, 1)
    labels = torch.tensor([0, 1, 2, 3, 1, 1])
    assert metrics.top1(model, [(x[:4], labels[:4]), (x[4:], labels[4:])]) == pytest.approx(5 / 6)
    with pytest.raises(DataError, match="the loader gave no image"):
        metrics.top1(model, [])
