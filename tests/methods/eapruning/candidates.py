"""Small networks and a search that costs nothing, for the tests of eapruning."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from prunekit.methods import eapruning
from prunekit.surgery import find_groups

IMAGES = torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))
BATCHES = [(IMAGES[:10], 0), (IMAGES[10:], 0)]


class Net(nn.Module):
    """A residual sum, a depth-wise layer, a concatenation, layers with and without bias, batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 10, 3, padding=1)
        self.back = nn.Conv2d(10, 8, 1, bias=False)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.left = nn.Conv2d(8, 6, 3, stride=2)
        self.right = nn.Conv2d(8, 4, 3, stride=2)
        self.join = nn.Conv2d(10, 7, 1)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = leaky(self.norm(self.stem(x)))
        x = leaky(x + self.back(leaky(self.inner(x))))
        x = leaky(self.deep(x))
        x = leaky(torch.cat([self.left(x), self.right(x)], 1))
        return self.head(leaky(self.join(x)).mean((2, 3)))


def leaky(x: Tensor) -> Tensor:
    """No channel is dead, so that Gram matrices are well conditioned."""
    return nn.functional.leaky_relu(x, 0.3)


def cnn() -> nn.Module:
    torch.manual_seed(0)
    model = Net().eval()
    with torch.no_grad():
        for tensor in (model.norm.weight, model.norm.bias, model.norm.running_mean):
            tensor.uniform_(0.3, 1.0)
        model.head.bias -= model(IMAGES).mean(0)  # all three answers occur
    return model


def vit() -> nn.Module:
    torch.manual_seed(0)
    model = VisionTransformer(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=4, num_classes=3).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.ndim > 1:
                tensor.normal_(0, 0.2)
    return model


def groups_of(model: nn.Module, **options: str):
    return find_groups(model, IMAGES[:1], **options)  # type: ignore[arg-type]


def ready(model: nn.Module, samples: int = 10**6, **options) -> eapruning.Rebuilder:
    """The rebuilder on all places of all images."""
    condition = options.pop("condition", 1e14)
    space = eapruning.space(model, groups_of(model), **options)
    return eapruning.rebuilder(model, space, BATCHES, samples=samples, condition=condition)


def error() -> eapruning.Misclassified:
    """How far a candidate's answers are from the whole CNN's."""
    images = torch.randn(60, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return eapruning.Misclassified(images, cnn()(images).argmax(1))
