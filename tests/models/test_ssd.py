"""SSD: shapes, 8732 boxes, the same numbers as torchvision's detector, export, training on scenes, and pruning."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD as PeerSSD
from torchvision.models.detection.ssd import SSDHead
from torchvision.ops import box_iou

from prunekit.data.scenes import make_scene
from prunekit.data.transforms import normalize
from prunekit.errors import InputError
from prunekit.methods import random
from prunekit.models.backbone import Backbone
from prunekit.models.ssd import SSD, default_boxes, detect, ssd300_resnet50, ssd_loss, ssd_mini
from prunekit.plan import uniform_plan
from prunekit.profiling import count_params
from prunekit.surgery import check_equivalence, find_groups, prune

RATIOS, SCALES = [(2,), (2, 3), (2,)], (0.1, 0.3, 0.6, 1.05)


def small_ssd(classes: int = 3) -> SSD:
    body = Backbone("resnet10t", (3,), 16, channels=(8, 16, 24, 24), stem_width=8)
    return SSD(body, [(8, 16, 2), (8, 16, 1)], classes, ratios=RATIOS, scales=SCALES)


def scenes(count: int) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    made = [make_scene(0, i) for i in range(count)]
    images = torch.stack([normalize(torch.from_numpy(s.image.copy()).permute(2, 0, 1)) for s in made])
    return images, [(torch.from_numpy(s.boxes).float(), torch.from_numpy(s.labels)) for s in made]


def test_ssd300_has_8732_default_boxes() -> None:
    with torch.device("meta"):
        model = ssd300_resnet50(80).eval()
        x = torch.empty(2, 3, 300, 300)
        assert [tuple(m.shape[1:]) for m in model.maps(x)] == [
            (1024, 38, 38), (512, 19, 19), (512, 10, 10), (256, 5, 5), (256, 3, 3), (256, 1, 1)
        ]  # fmt: skip
        offsets, logits = model(x)
    assert offsets.shape == (2, 8732, 4)
    assert logits.shape == (2, 8732, 81)
    assert count_params(model) / 1e6 == pytest.approx(22.89, abs=0.01)
    # timm's dilation is gone: at stride 1 every 3x3 convolution looks at its neighbours, as in the reference
    assert {m.dilation for m in model.modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}


@pytest.mark.parametrize("size", [(64, 128), (75, 101)])
def test_there_is_a_default_box_for_each_output(size: tuple[int, int]) -> None:
    model = ssd_mini(5).eval()
    with torch.no_grad():
        offsets, logits = model(torch.randn(2, 3, *size))
    boxes = default_boxes(model, size)
    assert offsets.shape == (2, len(boxes), 4)
    assert logits.shape == (2, len(boxes), 6)


def test_default_boxes_on_wide_images_keep_their_shape() -> None:
    boxes = default_boxes(ssd_mini(), (64, 128))
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    torch.testing.assert_close(width[:2] / height[:2], torch.ones(2))
    torch.testing.assert_close(width[2] / height[2], torch.tensor(2.0))
    centre = (boxes[:6, :2] + boxes[:6, 2:]) / 2
    torch.testing.assert_close(centre, torch.full((6, 2), 2.0))  # the first pixel of the stride-4 map


def test_the_mini_is_small_and_covers_the_scenes_objects() -> None:
    model = ssd_mini()
    assert count_params(model) / 1e6 == pytest.approx(0.55, abs=0.01)
    defaults = default_boxes(model, (64, 128))
    best = torch.cat([box_iou(boxes, defaults).amax(1) for boxes, _ in scenes(8)[1]])
    assert best.mean() > 0.45


def test_what_does_not_fit_is_refused() -> None:
    body = Backbone("resnet10t", (3,), 16, channels=(8, 16, 24, 24), stem_width=8)
    with pytest.raises(InputError, match="2 maps need as many lists of ratios"):
        SSD(body, [(8, 16, 2)], 3, ratios=RATIOS, scales=SCALES)
    with pytest.raises(InputError, match="stride 1 or 2"):
        SSD(body, [(8, 16, 2), (8, 16, 3)], 3, ratios=RATIOS, scales=SCALES)
    model, boxes = small_ssd(), torch.tensor([[1.0, 1.0, 5.0, 9.0]])
    output, defaults = model.eval()(torch.randn(1, 3, 96, 96)), default_boxes(model, (96, 96))
    for bad, reason in [
        ((boxes, torch.tensor([3])), "label outside 0 .. 2"),
        ((boxes[:, [2, 1, 0, 3]], torch.tensor([0])), "without area"),
        ((boxes, torch.tensor([0, 1])), "1 boxes and 2 labels"),
    ]:
        with pytest.raises(InputError, match=reason):
            ssd_loss(output, [bad], defaults)


class Maps(nn.Module):
    """Our feature maps in the form torchvision's detector wants."""

    def __init__(self, model: SSD) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return OrderedDict((str(i), m) for i, m in enumerate(self.model.maps(x)))


def peer_of(model: SSD, size: tuple[int, int]) -> PeerSSD:
    """torchvision's SSD with its own heads, boxes, loss and post-processing, our weights under its names."""
    boxes = DefaultBoxGenerator([list(r) for r in model.ratios], scales=list(model.scales))
    widths = [head.in_channels for head in model.offsets]
    head = SSDHead(widths, boxes.num_anchors_per_location(), model.labels)
    ours = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(("offsets", "logits"))}
    names = {"offsets": "regression_head.module_list", "logits": "classification_head.module_list"}
    head.load_state_dict({names[n.split(".", 1)[0]] + "." + n.split(".", 1)[1]: t for n, t in ours.items()})
    return PeerSSD(Maps(model), boxes, size, model.labels, image_mean=[0.0] * 3, image_std=[1.0] * 3, head=head)


def test_loss_and_detections_are_those_of_torchvision() -> None:
    torch.manual_seed(0)
    size, x = (96, 96), torch.rand(3, 3, 96, 96)
    model = small_ssd().eval()
    peer = peer_of(model, size).eval()
    targets = [
        (torch.tensor([[5.0, 8.0, 30.0, 40.0], [50.0, 20.0, 90.0, 80.0]]), torch.tensor([0, 2])),
        (torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)),
        (torch.tensor([[10.0, 10.0, 14.0, 15.0]]), torch.tensor([1])),
    ]
    output, defaults = model(x), default_boxes(model, size)
    peer.training = True  # its batch norms stay in eval mode
    losses = peer(list(x), [{"boxes": boxes, "labels": labels + 1} for boxes, labels in targets])
    torch.testing.assert_close(ssd_loss(output, targets, defaults), sum(losses.values()), rtol=1e-5, atol=1e-5)
    peer.training = False
    with torch.no_grad():
        expected = peer(list(x))
    for found, theirs in zip(detect(output, defaults, size), expected, strict=True):
        assert len(found.boxes) == 200
        assert torch.equal(found.labels, theirs["labels"] - 1)
        torch.testing.assert_close(found.scores, theirs["scores"], rtol=0, atol=1e-5)
        torch.testing.assert_close(found.boxes, theirs["boxes"], rtol=0, atol=1e-3)  # pixels


def test_perfect_output_is_decoded_to_the_objects() -> None:
    model, size = ssd_mini(5), (64, 128)
    defaults = default_boxes(model, size)
    offsets, logits = torch.zeros(1, len(defaults), 4), torch.zeros(1, len(defaults), 6)
    logits[..., 0] = 20
    logits[0, 1998, 3], logits[0, 1999, 3] = 40, 30  # the two squares of one pixel overlap by half: one is left
    logits[0, 2000, 1] = 40  # overlaps them too, but has another class
    (found,) = detect((offsets, logits), defaults, size)
    assert sorted(found.labels.tolist()) == [0, 2]
    torch.testing.assert_close(found.boxes[found.labels.argsort()], defaults[[2000, 1998]])
    (nothing,) = detect((offsets, logits), defaults, size, score=1.0)
    assert nothing.boxes.shape == (0, 4)


def test_the_loss_falls_on_two_scenes_and_finds_their_objects() -> None:
    torch.manual_seed(0)
    x, targets = scenes(2)
    model = ssd_mini().train()
    defaults = default_boxes(model, (64, 128))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss = ssd_loss(model(x), targets, defaults)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.35 * losses[0]
    with torch.no_grad():
        found = detect(model(x), defaults, (64, 128), score=0.3)
    for (boxes, labels), ours in zip(targets, found):
        overlap = box_iou(boxes, ours.boxes) * (labels[:, None] == ours.labels)
        assert (overlap.amax(1) > 0.5).float().mean() > 0.5


def test_the_core_exports() -> None:
    model, x = ssd_mini(5).eval(), torch.randn(2, 3, 64, 128)
    program = torch.export.export(model, (x,)).module()
    with torch.no_grad():
        for ours, exported in zip(model(x), program(x), strict=True):
            torch.testing.assert_close(exported, ours)


@pytest.mark.parametrize(
    ("build", "size"), [(ssd_mini, (64, 128)), (lambda: ssd300_resnet50(5), (257, 257))], ids=["mini", "resnet50"]
)
def test_half_of_it_is_exact_and_still_trains(build, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model, x = build(), torch.randn(2, 3, *size)
    groups = find_groups(model, x[:1])
    plan = uniform_plan(groups, random.score(model, groups), 0.5)
    small = prune(model, groups, plan)
    assert check_equivalence(model, small, groups, plan, x[:1]).max_error <= 1e-9
    assert count_params(small) < 0.4 * count_params(model)
    target = (torch.tensor([[8.0, 8.0, 40.0, 50.0]]), torch.tensor([1]))
    ssd_loss(small.train()(x), [target, target], default_boxes(small, size)).backward()
    assert all(p.grad is not None for p in small.parameters())
