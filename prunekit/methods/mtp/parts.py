"""Who may go: the channels inside the backbone's residual blocks, and the decoder's.

The sum after a residual block has as many channels as the block before, so the paper prunes only what is inside: the
first two convolutions of a bottleneck, the first of a basic block. What has no channel in the backbone is the decoder.
These stay whole: heads that only training has (auxiliary ones), which are not in the network that is used; and channels
that backbone and decoder share (a sum of both), because the classifier cannot lose them: it has no such sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunekit.core import ChannelGroup, Groups
from prunekit.errors import InputError, ScoreError
from prunekit.observe import norm_scales

BLOCKS = ("BasicBlock", "Bottleneck")  # the residual blocks of timm, torchvision and most others, by their names


@dataclass(frozen=True)
class Parts:
    """The segmenter's groups that may go. path: name of the backbone in the segmenter, e.g. "backbone". whole: other
    groups, and why they stay as they are (the backbone's outside residual blocks are not named).
    """

    backbone: Groups
    decoder: Groups
    path: str
    whole: Mapping[str, str] = field(default_factory=dict)

    def scales(self, segmenter: nn.Module) -> dict[str, frozenset[str]]:
        """ "backbone" and "decoder" -> the batch-norm scales of their groups, by their names in the segmenter."""
        return {
            part: frozenset(tensor for name in groups for tensor in norm_scales(segmenter, groups, name, "mtp"))
            for part, groups in (("backbone", self.backbone), ("decoder", self.decoder))
        }


def split(segmenter: nn.Module, groups: Groups, path: str = "backbone", *, inner: bool = True) -> Parts:
    """The groups by part, those that a batch norm follows. inner=False: all of the backbone's channels may go.

    path: name of the backbone in the segmenter ("context.backbone" in BiSeNet). Raises InputError when there is no such
    module, or with inner=True no residual block in it, and ScoreError when no batch norm follows any of its channels.
    """
    submodule(segmenter, path)
    norms = {f"{name}.weight" for name, m in segmenter.named_modules() if isinstance(m, _BatchNorm) and m.affine}
    used = [g for g in groups.values() if any(m.tensor in groups.positions for m in g.producers())]
    normed = {g.name for g in used if any(m.tensor in norms for m in g.members if m.role == "follower")}
    inside = [g for g in used if _within(g, path)]
    outside = [g for g in used if not any(m.tensor.startswith(f"{path}.") for m in g.members)]
    own = {g.name for g in (*inside, *outside)}
    whole = {g.name: "backbone and decoder share it" for g in used if g.name not in own}
    if inner:
        around = blocks(segmenter, path)
        if not around:
            raise InputError(
                f"'{path}' has no residual block ({' or '.join(BLOCKS)}); pass inner=False to prune all its channels."
            )
        inside = [g for g in inside if any(_whole(g, block) for block in around)]
    whole |= {g.name: "no batch norm follows it" for g in (*inside, *outside) if g.name not in normed}
    first, second = ([g.name for g in part if g.name in normed] for part in (inside, outside))
    if not first:
        raise ScoreError(
            f"no batch norm follows any channel of '{path}' that may go, and mtp ranks channels by batch-norm scales: "
            "take a backbone with batch norms, or a criterion that needs none, such as l1 or taylor."
        )
    return Parts(groups.only(first), groups.only(second), path, whole)


def blocks(segmenter: nn.Module, path: str) -> list[str]:
    """The names of the backbone's residual blocks."""
    found = submodule(segmenter, path).named_modules()
    return [f"{path}.{name}" for name, module in found if type(module).__name__ in BLOCKS]


def submodule(segmenter: nn.Module, path: str) -> nn.Module:
    """The backbone; InputError with the names there are."""
    try:
        return segmenter.get_submodule(path)
    except AttributeError as err:
        raise InputError(
            f"the segmenter has no '{path}'; give the backbone's name, as it has {_like_backbone(segmenter)}."
        ) from err


def backbone_of(classifier: nn.Module) -> nn.Module:
    """The classifier's, always under this name; InputError with the names there are."""
    try:
        return classifier.get_submodule("backbone")
    except AttributeError as err:
        raise InputError(
            f"the classifier ({type(classifier).__name__}) has no 'backbone'; name it so, as it has "
            f"{_like_backbone(classifier)}."
        ) from err


def check_backbones(classifier: nn.Module, segmenter: nn.Module, path: str, advice: str) -> None:
    """InputError, naming the first tensor, unless both backbones have the same ones: names, shapes, types."""
    theirs, ours = backbone_of(classifier).state_dict(), submodule(segmenter, path).state_dict()
    for name in [*theirs, *ours]:
        have, want = (_kind(table.get(name)) for table in (theirs, ours))
        if have != want:
            at = 1 if have[0] == want[0] else 0
            raise InputError(
                f"the backbones differ: '{name}' is {have[at]} in the classifier, {want[at]} in the segmenter's "
                f"'{path}'. {advice}"
            )


def _kind(tensor: Tensor | None) -> tuple[object, object]:
    return ("nothing", "nothing") if tensor is None else (tuple(tensor.shape), tensor.dtype)


def _like_backbone(model: nn.Module) -> str:
    """What it could be, else the names of its parts."""
    names = [name for name, _ in model.named_modules() if name.endswith("backbone")]
    return f"'{names[0]}'" if names else ", ".join(repr(name) for name, _ in model.named_children())


def _within(group: ChannelGroup, path: str) -> bool:
    """Are its channels made there?"""
    return all(member.tensor.startswith(f"{path}.") for member in group.producers())


def _whole(group: ChannelGroup, block: str) -> bool:
    """Are its channels made and read in this block only? A sum's are read by the next block too."""
    return all(member.tensor.startswith(f"{block}.") for member in group.members)
