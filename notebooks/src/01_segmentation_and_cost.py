# %% [markdown]
# # Segmentation, and what it costs
#
# {{badge}}
#
# {{minutes}}
#
# **You will be able to**
#
# - *compute* IoU and mIoU from a confusion matrix, by hand and in code,
# - *explain* how a network can forget a whole class while its pixel accuracy smiles,
# - *count* the multiply-accumulates and parameters of any convolution,
# - *locate* the work inside a DeepLabV3,
# - *measure* milliseconds and memory, and doubt whoever reads them off a MAC count.
#
# **Before you start**: you have written an `nn.Module` and a training loop. Nothing about pruning is needed yet.
# Pruning will trade one thing for another, and this lesson is about the two sides of that trade: how good a network
# is, and what it costs.

# %%
import subprocess
import sys
from importlib.util import find_spec

if find_spec("prunekit") is None:  # on Colab and Kaggle
    package = "prunekit[onnx,quiz] @ git+{{repo}}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

from prunekit.course import check, quiz, setup, show

course = setup("01_segmentation_and_cost", version="{{version}}")

# %% [markdown]
# ## 1 · The problem in one picture
#
# A segmentation network gives every pixel a class: it returns one number for each class at each pixel, the *logits*,
# and the largest wins. Ours is a small DeepLabV3 that was trained on synthetic streets; the streets below it has never
# seen.

# %%
import torch
from torch.utils.data import DataLoader

from prunekit import metrics, viz  # prunekit/metrics.py, prunekit/viz.py
from prunekit.data.scenes import CLASSES, DOMAINS, PALETTE, SceneDataset, make_scene
from prunekit.models import zoo  # prunekit/models/zoo.py

scenes = SceneDataset(64, seed=1)  # seed 1 = validation; training streets have seed 0
model = zoo.load("deeplabv3_mini").to(course.device)
images, truths = (torch.stack(part).to(course.device) for part in zip(*scenes))
with torch.no_grad():
    logits = model(images)
guesses = logits.argmax(1)
print("images", tuple(images.shape), " logits", tuple(logits.shape))

# %%
some = [8, 9, 11]
columns = {"truth": truths[some], "the network": guesses[some]}
show(
    viz.mask_grid(images[some], columns, PALETTE, CLASSES),
    alt="Three street scenes, each with its true classes and those of the network: "
    "large areas agree; poles, people and bicycles come out thicker or broken.",
)

# %% [markdown]
# Large areas look right. Now look at the poles, the people, the bicycles: thicker than they are, or broken.
#
# **Guess before you scroll.** Two questions, answered by measurements further down:
#
# 1. We forbid this network the word *pole*: at every pixel it has to take another class. How many percentage points of
#    its pixel accuracy does it lose?
# 2. Two convolution layers do exactly the same number of multiplications. How many times longer can one of them take?

# %%
my_points_lost = 3.0  # question 1: type your guess over mine
my_times_longer = 1.5  # question 2

# %% [markdown]
# ## 2 · Words and letters
#
# | letter or word | meaning | unit |
# | --- | --- | --- |
# | $K$ | number of classes | |
# | $C_{ij}$ | pixels whose true class is $i$ and that were called $j$; a $K \times K$ table | pixels |
# | TP, FN, FP | of one class: hits, missed pixels, false alarms | pixels |
# | IoU | TP / (TP + FN + FP) of one class | 0 to 1 |
# | mIoU | mean of the IoUs of all classes that occur | 0 to 1 |
# | $c_{in}, c_{out}, k, g$ | a convolution's input and output channels, kernel size, groups | |
# | $H, W$ | height and width of its *output* | pixels |
# | params | weights that are stored | numbers |
# | MACs | multiply-accumulates, $a \leftarrow a + w \cdot x$, of one forward pass | operations |
# | latency | wall time of one forward pass, the median of many | ms |
# | peak memory | most bytes of tensors alive at one moment of it | MiB |
#
# Papers often write FLOPs where they count MACs; one MAC is two floating-point operations. In this course it is always
# MACs. All words are in the [glossary](../book/glossary.md).

# %% [markdown]
# ## 3 · The data: streets with a long tail
#
# The scenes are drawn by a program (`prunekit/data/scenes/`), the same bytes on every machine, so there is nothing to
# download. One street exists in five worlds. The layout stays; light, air and materials change. The network of this
# lesson was trained on *day* only, and the labels are the same everywhere.

# %%
from matplotlib import pyplot as plt

worlds = {world: make_scene(1, 9, domain=world).image for world in DOMAINS}
worlds["the labels of all five"] = viz.paint(truths[9], PALETTE)
fig, axes = plt.subplots(3, 2, figsize=(6, 5), layout="constrained")
for ax, (title, picture) in zip(axes.flat, worlds.items()):
    ax.imshow(picture, interpolation="nearest")
    ax.set_title(title)
    ax.set_axis_off()
show(
    fig,
    alt="The same street by day, at night, in fog, in snow and in a desert, and the "
    "label map that all five share.",
)

# %% [markdown]
# Two numbers tell you which classes will be hard: how many pixels a class owns, and how *wide* its pieces are. We take
# as width the mean length of a run of equal labels along a row.


# %%
def mean_width(inside_BHW):
    """Pixels per horizontal run of True."""
    starts = inside_BHW.clone()
    starts[..., 1:] &= ~inside_BHW[..., :-1]  # True where the left neighbour is not
    return (inside_BHW.sum() / starts.sum()).item()


labels = truths.cpu()
share = [100 * (labels == k).float().mean().item() for k in range(len(CLASSES))]
width = [mean_width(labels == k) for k in range(len(CLASSES))]

# %% tags=["nbval-check-output"]
order = sorted(range(len(CLASSES)), key=lambda k: -share[k])
for k in order:
    print(f"{CLASSES[k]:14}{share[k]:6.2f} %, {width[k]:4.1f} px wide")

# %%
show(
    viz.bars(
        {"": [share[k] for k in order]},
        [f"{CLASSES[k]} · {width[k]:.1f} px" for k in order],
        label="share of all pixels, % (log scale)",
        log=True,
        digits=2,
    ),
    alt="Share of pixels of each class, largest first: building, road and sky own most "
    "of the picture; each of the last six, thin ones among them, owns very little.",
)

# %% [markdown]
# This is a **long tail**, as in Cityscapes: a few classes own nearly every pixel. **Thin objects** are the classes whose
# pieces are only a few pixels wide, poles above all. A tree of the same area is a compact blob; a pole is all border.
# In lesson 00 it was thin objects that pruning hurt most, which is why they follow us through the whole course.

# %% [markdown]
# ## 4 · From scratch: confusion matrix and IoU
#
# Sixteen pixels are enough. Class 0 is sky, 1 is road, 2 is a pole. One pixel is not labelled: its label is 255, and by
# convention it counts nowhere.

# %%
truth = torch.tensor(
    [
        [0, 0, 2, 0],
        [0, 0, 2, 0],
        [1, 1, 2, 1],
        [1, 1, 1, 255],
    ]
)
guess = torch.tensor(
    [
        [0, 0, 0, 2],
        [0, 0, 2, 0],
        [1, 1, 2, 0],
        [1, 1, 1, 1],
    ]
)

# %% tags=["hide-input"]
colors = PALETTE[[CLASSES.index(name) for name in ("sky", "road", "pole")]]
fig, axes = plt.subplots(1, 2, figsize=(6, 3), layout="constrained")
for ax, title, grid in zip(axes, ("truth", "guess"), (truth, guess)):
    ax.imshow(viz.paint(grid, colors))
    for y, row in enumerate(grid.tolist()):
        for x, label in enumerate(row):
            ink = "black" if label in (2, 255) else "white"
            ax.text(x, y, label, ha="center", va="center", color=ink, fontsize=12)
    ax.set_title(title)
    ax.set_axis_off()
show(
    fig,
    alt="Two grids of four by four pixels with their labels. In the truth a pole is "
    "three pixels tall; in the guess its top pixel has slipped one column aside.",
)

# %% [markdown]
# **Equation.** The confusion matrix counts pairs, truth in rows, guess in columns, over all labelled pixels $p$:
#
# $$C_{ij} = \#\{\,p : \text{truth}_p = i,\ \text{guess}_p = j\,\}$$


# %%
def confusion(guess, truth, classes, ignore=255):
    counts_KK = torch.zeros(classes, classes, dtype=torch.long)
    for g, t in zip(guess.flatten().tolist(), truth.flatten().tolist()):
        if t != ignore:
            counts_KK[t, g] += 1
    return counts_KK


# %% tags=["nbval-check-output"]
counts = confusion(guess, truth, classes=3)
print(counts)
right, total = counts.diagonal().sum().item(), counts.sum().item()
print(f"right: {right} of {total} labelled pixels")

# %% [markdown]
# **What to see.** The diagonal holds the pixels that are right. The last row is what became of the pole's pixels; the
# last column is what was called pole.
#
# **Equation.** For class $i$, with row and column sums of $C$:
#
# $$\text{IoU}_i = \frac{\text{TP}_i}{\text{TP}_i + \text{FN}_i + \text{FP}_i}
# = \frac{C_{ii}}{\sum_j C_{ij} + \sum_j C_{ji} - C_{ii}}$$
#
# and mIoU is the mean of $\text{IoU}_i$ over the classes that occur.


# %%
def iou(counts_KK):
    hit_K = counts_KK.diagonal().double()  # TP
    missed_K = counts_KK.sum(1) - hit_K  # FN: the rest of the row
    false_K = counts_KK.sum(0) - hit_K  # FP: the rest of the column
    return hit_K / (hit_K + missed_K + false_K)


# %% tags=["nbval-check-output"]
for name, value in zip(("sky", "road", "pole"), iou(counts)):
    print(f"{name:5} IoU {value:.3f}")
print(f"mIoU {iou(counts).mean():.3f}")
print(f"pixel accuracy {right / total:.3f}")

# %% [markdown]
# **What to see.** Two of the pole's three pixels are right, and yet its IoU is only one half: the slipped pixel is paid
# for twice, once as missed and once as false.
#
# **Check.** The library's version (`prunekit/metrics.py`) must give the same numbers, on these pixels and on a real mask.

# %% tags=["nbval-check-output"]
for g, t, classes in ((guess, truth, 3), (guesses[0], truths[0], len(CLASSES))):
    theirs = metrics.confusion_matrix(g, t, classes).cpu()
    assert torch.equal(confusion(g, t, classes), theirs)
    assert torch.allclose(iou(theirs), metrics.iou_per_class(theirs), equal_nan=True)
print("the scratch version and the library agree")

# %% [markdown]
# ### Why thin objects are hard: one pixel to the side
#
# Take the *true* masks, move them one pixel to the right, and score them as if they were predictions. Nothing about the
# shapes is wrong. A run of width $w$ keeps $w-1$ of its pixels, and its union has $w+1$, so we expect
#
# $$\text{IoU} \approx \frac{w-1}{w+1}$$

# %%
moved = labels.roll(1, dims=2)
moved[..., 0] = labels[..., 0]
unclear = (moved == 255) | (labels == 255)  # not labelled here or there
target, moved = labels.masked_fill(unclear, 255), moved.masked_fill(unclear, 0)
counts = metrics.confusion_matrix(moved, target, len(CLASSES))
moved_iou = metrics.iou_per_class(counts).tolist()

# %% tags=["hide-input"]
fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
blue, orange = viz.colors(2)
w = torch.logspace(0, 2, 100)
ax.plot(w, (w - 1) / (w + 1), color=orange, label="(w − 1) / (w + 1)")
ax.scatter(width, moved_iou, color=blue, label="the classes")
for name in ("pole", "person", "traffic light", "car", "road"):
    point = [values[CLASSES.index(name)] for values in (width, moved_iou)]
    ax.annotate(name, point, (6, -11), textcoords="offset points")
ax.set(xscale="log", xlabel="mean width, pixels (log scale)")
ax.set_ylabel("IoU after one pixel")
ax.legend(frameon=False)
show(
    fig,
    alt="IoU of each class after its true masks moved by one pixel, against its mean "
    "width: the classes follow the curve, poles at the bottom, the road at the top.",
)

# %% [markdown]
# **What to see.** One pixel of slip is nothing to the road and a disaster for a pole. Whatever blurs position, such as a
# coarse feature map or a pruned one, is paid for by thin classes.
#
# ### Exercise 1 ★ (5 minutes): recall
#
# Recall answers another question than IoU: of the pixels that *are* class $i$, what fraction was found? Write it for a
# whole confusion matrix.
#
# `check` (`prunekit/course/checks.py`) runs your function on small examples and says what is right or wrong with it. If
# you are stuck, type `hint("01.1")` into a new cell, then `hint("01.1", 2)`. The solution is folded away below.


# %% tags=["nbval-check-output"]
def recall(counts_KK):
    return None  # your code: (K, K) -> (K,)


check("01.1", recall)

# %% [markdown]
# {{solution 01.1}}

# %% [markdown]
# ## 5 · Why pixel accuracy lies
#
# Back to the first question. We set the logit of *pole* to minus infinity, so that the network can never say it, and
# score it before and after.

# %%
pole = CLASSES.index("pole")
silenced = logits.clone()
silenced[:, pole] = -torch.inf
before, after = (
    metrics.confusion_matrix(z, truths, len(CLASSES)) for z in (logits, silenced)
)

# %%
scores = {
    "accuracy": metrics.pixel_accuracy,
    "mIoU": metrics.miou,
    "pole IoU": lambda counts: metrics.iou_per_class(counts)[pole],
}
print("                before   without 'pole'")
for title, score_of in scores.items():
    a, b = 100 * score_of(before), 100 * score_of(after)
    print(f"{title:14} {a:6.2f} % {b:6.2f} %   {b - a:+.2f}")
print(f"your guess: accuracy {-my_points_lost:+.2f}")

# %% [markdown]
# **What to see.** A network that no longer knows what a pole is loses next to nothing in pixel accuracy. Poles own few
# pixels; and much of what was called pole was something else, so silence repairs nearly as many pixels as it breaks.
# Pole IoU tells the truth at once, and mIoU, in which a pole weighs as much as the road, tells it to everyone who reads
# only one number. A pruning method judged by pixel accuracy would learn to forget.
#
# ## 6 · How good is this network, class by class?
#
# `metrics.evaluate` goes through a loader and adds up **one** confusion matrix before it divides anything. Its result
# should be close to what the checkpoint's card says, which was measured on more streets.

# %%
loader = DataLoader(scenes, batch_size=16)
score = metrics.evaluate(model, loader, len(CLASSES))
assert abs(score.miou - metrics.miou(before)) < 1e-3  # the same pixels, in batches
print(f"mIoU {score.miou:.2f}, pixel accuracy {score.pixel_accuracy:.2f}")
print("the card says mIoU", round(zoo.card("deeplabv3_mini")["test_miou"], 2))

# %%
show(
    viz.iou_bars({"DeepLabV3 mini": score.iou}, CLASSES),
    alt="IoU of each class, best first: road, sky and building are nearly perfect; "
    "person, pole and bicycle, the thin ones, are at the end.",
)

# %% [markdown]
# Compare this order with the widths in section 3. Now read one row and one column of the confusion matrix: what
# do the pole's pixels become, and what is it that gets called pole?

# %%
row, column = score.confusion[pole], score.confusion[:, pole]
for title, counts in (("pole pixels are called", row), ("called pole, really", column)):
    print(title)
    for k in counts.argsort(descending=True)[:3].tolist():
        print(f"   {100 * counts[k] / counts.sum():5.1f} %  {CLASSES[k]}")

# %% [markdown]
# ### Exercise 2 ★★ (8 minutes): the mean of what?
#
# You could also compute the mIoU of each image and average those. Is it the same number? `guesses` and `truths` are
# label maps (B, H, W); 255 is not labelled. You may use `metrics`.


# %% tags=["nbval-check-output"]
def per_image_miou(guesses, truths, classes):
    return None  # your code: one number


done = check("01.2", per_image_miou)
done

# %% [markdown]
# {{solution 01.2}}
#
# Once it is right, compare the two on our streets:

# %%
if done.ok:
    mine = per_image_miou(guesses, truths, len(CLASSES))
    print(f"mean of the images' mIoUs {mine:.3f}, the data set's {score.miou:.3f}")

# %% [markdown]
# ## 7 · The cost: MACs and parameters of a convolution
#
# **Equation.** Every output value is a sum over the weights that meet there, one multiply-accumulate each:
#
# $$\text{MACs} = \underbrace{H \cdot W \cdot c_{out}}_{\text{output values}} \cdot
# \underbrace{\frac{c_{in}}{g} \cdot k^2}_{\text{weights that meet}}$$
#
# $$\text{params} = c_{out} \cdot \frac{c_{in}}{g} \cdot k^2$$


# %%
def conv_macs(conv, height, width):
    """height, width: of the output."""
    meet = conv.in_channels // conv.groups * conv.kernel_size[0] * conv.kernel_size[1]
    return height * width * conv.out_channels * meet


# %% [markdown]
# **Check** against `prunekit/profiling.py`, which asks PyTorch's own counter. The layers differ in kernel, stride,
# dilation and groups.

# %% tags=["nbval-check-output"]
from torch import nn

from prunekit import profiling  # prunekit/profiling.py

kinds = {
    "3×3": {"kernel_size": 3, "padding": 1},
    "3×3 dilated": {"kernel_size": 3, "padding": 8, "dilation": 8},
    "3×3 stride 2": {"kernel_size": 3, "padding": 1, "stride": 2},
    "1×1": {"kernel_size": 1},
    "3×3 depth-wise": {"kernel_size": 3, "padding": 1, "groups": 64},
}
x = torch.randn(1, 64, 32, 64)
for kind, options in kinds.items():
    conv = nn.Conv2d(64, 64, bias=False, **options)
    macs = conv_macs(conv, *conv(x).shape[2:])
    assert macs == profiling.count_macs(conv, x)
    print(f"{macs / 1e6:5.1f} M MACs {conv.weight.numel():5} params {kind}")

# %% [markdown]
# **What to see.** Dilation is free in MACs: the same weights, further apart. A stride of 2 quarters the output and so the
# MACs, with the same parameters. One channel per group, a *depth-wise* convolution, is the cheapest of all, on paper.
# And the two formulas differ by one factor only:
#
# $$\text{MACs} = \text{params} \cdot H \cdot W$$
#
# Each weight is used once at every output position. Weights that work on large maps cost many MACs; weights that work on
# small maps cost storage.

# %% [markdown]
# ### Exercise 3 ★ (5 minutes): what will pruning save?
#
# You remove the fraction $r$ of the channels of *every* layer. For a convolution in the middle of the network, what
# fraction **remains** of its MACs, its parameters, and the values it writes? (Guess for $r = 0.5$ first.)


# %% tags=["nbval-check-output"]
def remains(r):
    return None  # your code: (macs, params, values_written), fractions of before


check("01.3", remains)

# %% [markdown]
# {{solution 01.3}}

# %% [markdown]
# ## 8 · Where a DeepLabV3 spends its work
#
# A DeepLabV3 is a backbone (a stem and four stages), then ASPP, which looks at the deepest map through a 1×1 convolution,
# three dilated 3×3 convolutions and a mean over the image, then a 3×3 convolution that fuses, then a classifier
# (`prunekit/models/deeplab.py`). Forward hooks let every convolution report its own MACs:


# %%
def layer_macs(model, x):
    """Convolution's name -> MACs of one forward pass on x."""
    found, hooks = {}, []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):

            def note(layer, _, output, name=name):
                found[name] = len(output) * conv_macs(layer, *output.shape[2:])

            hooks.append(layer.register_forward_hook(note))
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


# %%
PARTS = {"stem": "backbone.body.conv1"}
PARTS |= {f"stage {i}": f"backbone.body.layer{i}" for i in (1, 2, 3, 4)}
PARTS |= {
    "ASPP 1×1": "aspp.branches.0",
    "ASPP three 3×3": ("aspp.branches.1", "aspp.branches.2", "aspp.branches.3"),
    "ASPP image mean": "aspp.branches.4",
    "ASPP project": "aspp.project",
    "fuse 3×3": "fuse",
    "classifier": "classifier",
}


def part_macs(model, x):
    found = layer_macs(model, x)
    assert sum(found.values()) == profiling.count_macs(model, x)
    return [sum(m for n, m in found.items() if n.startswith(p)) for p in PARTS.values()]


# %% [markdown]
# We count our mini network, and the paper's: ResNet-50, Cityscapes' 19 classes, half of Cityscapes' resolution. The
# second one lives on PyTorch's *meta* device: shapes without numbers, so counting it takes no memory and almost no time.
# (The parameters of both include an auxiliary head that works only during training.)

# %% tags=["nbval-check-output"]
from prunekit.models.deeplab import deeplabv3

with torch.device("meta"):
    paper, half_cityscapes = deeplabv3(19).eval(), torch.empty(1, 3, 512, 1024)
work = {
    "mini": part_macs(model, images[:1]),
    "paper": part_macs(paper, half_cityscapes),
}
for name, net in (("mini", model), ("paper", paper)):
    params, macs = profiling.count_params(net) / 1e6, sum(work[name]) / 1e9
    print(f"{name:6} {params:6.2f} M params {macs:8.2f} G MACs")

# %%
percent = {name: [100 * m / sum(parts) for m in parts] for name, parts in work.items()}
titles = {"mini": "mini, 64×128", "paper": "DeepLabV3-ResNet50, 512×1024"}
show(
    viz.bars(
        {titles[name]: values for name, values in percent.items()},
        list(PARTS),
        label="share of the network's MACs, %",
    ),
    alt="Share of MACs of each part of the mini and the paper-size DeepLabV3. In both, "
    "stage 4 and the three dilated 3x3 convolutions of ASPP take the most.",
)

# %% [markdown]
# **What to see.** The work sits late: in the last stages and in ASPP's three 3×3 convolutions, which read *all* channels
# of the deepest map, and that map is kept fine for the sake of thin objects. This is where pruning has something to
# take. And the two are tied: ASPP's input channels *are* the last stage's output channels. Cut one, and the other
# shrinks too. The mini network has the same profile, less steep, so what you learn on it carries over.

# %% [markdown]
# ## 9 · All costs at once, and how they grow
#
# `pk.profile` measures everything at one input shape. Let the image grow and watch which cost grows with it.

# %% tags=["nbval-check-output"]
import prunekit as pk

sizes = [(64, 128), (128, 256), (256, 512)]
print(" image  M params  G MACs  peak MiB")
for size in sizes:
    x = torch.zeros(1, 3, *size, device=course.device)
    cost = pk.profile(model, x, latency=False)
    print(f"{size[0]:3}×{size[1]:3} {cost.params / 1e6:8.2f}", end=" ")
    print(f"{cost.macs / 1e9:7.2f} {cost.peak_bytes / 2**20:9.1f}")
print(f"the weights alone: {4 * cost.params / 2**20:.1f} MiB")

# %% [markdown]
# **What to see.** Parameters do not know how large the picture is. MACs grow with the pixels: twice the side, four
# times the work. Peak memory begins with the weights and is then ruled by the largest feature maps that are alive at the
# same time. So "half the parameters" says little about memory, and nothing about speed.
#
# Milliseconds are different in kind: they belong to one machine at one moment. Here is the same forward pass, timed again
# and again.

# %% tags=["volatile"]
x = images[:1]
single = [
    profiling.latency_ms({"mini": model}, x, repeats=1, warmup=0, threads=1)["mini"]
    for _ in range(7)
]
print("ms, one by one:", " ".join(f"{ms:.1f}" for ms in single))
median = profiling.latency_ms({"mini": model}, x, threads=1)["mini"]
print(f"ms, median of twenty: {median:.1f}")

# %% [markdown]
# On a quiet machine these numbers agree; on a busy one, any of them can be twice the next. So `latency_ms` warms up,
# takes the **median**, and lets the models it compares take turns: if the machine slows down, it slows down for all of
# them. We use one thread here, so that other programs disturb less.

# %% [markdown]
# ## 10 · MACs are not milliseconds
#
# Back to the second question. Five layers are built to have exactly the same number of MACs; a sixth has a quarter of
# it. As a control, a seventh "layer" only copies its input: no MACs at all. Each runs on an input of its own size, which
# a small wrapper carries.


# %%
class OwnInput(nn.Module):
    """A layer with its input, so that layers of different sizes can take turns."""

    def __init__(self, layer, channels, height, width):
        super().__init__()
        self.layer = layer
        self.register_buffer("x", torch.randn(1, channels, height, width))

    def forward(self, _):
        return self.layer(self.x)


# %%
class Copy(nn.Module):
    def forward(self, x):
        return x.clone()


def same(channels, kernel, groups=1):
    """As many channels and pixels out as in."""
    kind = {"padding": kernel // 2, "groups": groups, "bias": False}
    return nn.Conv2d(channels, channels, kernel, **kind)


# %% tags=["nbval-check-output"]
layers = {
    "3×3 64 ch 16×32": OwnInput(same(64, 3), 64, 16, 32),
    "3×3 16 ch 64×128": OwnInput(same(16, 3), 16, 64, 128),
    "1×1 192 ch 16×32": OwnInput(same(192, 1), 192, 16, 32),
    "1×1 48 ch 64×128": OwnInput(same(48, 1), 48, 64, 128),
    "depth-wise 256 ch 64×128": OwnInput(same(256, 3, groups=256), 256, 64, 128),
    "depth-wise 64 ch 64×128": OwnInput(same(64, 3, groups=64), 64, 64, 128),
    "only copy 256 ch 64×128": OwnInput(Copy(), 256, 64, 128),
}
nothing = torch.zeros(1, device=course.device)
for name, layer in layers.items():
    layer.macs = profiling.count_macs(layer.to(course.device), nothing)
    print(f"{layer.macs / 1e6:5.2f} M MACs  {name}")

# %% tags=["volatile"]
ms = profiling.latency_ms(layers, nothing, threads=1)
first, *_, equal, quarter, copy = ms.values()
print("   ms  G MACs/s")
for name, value in ms.items():
    rate = layers[name].macs / value / 1e6
    print(f"{value:5.2f} {rate:9.0f}  {name}")
print(f"same MACs, {equal / first:.1f} × the time")
print(f"   your guess: {my_times_longer:.1f} ×")
print(f"a quarter of the MACs, {quarter / first:.1f} × the time")
print(f"no MACs at all, {copy / first:.1f} × the time")

# %% [markdown]
# Why? A processor has two jobs: to multiply, and to bring numbers from memory to where they are multiplied. The second
# job depends on the values that a layer reads and writes, and we can count those:


# %%
def values_moved(layer):
    """Numbers read and written: input, weights, output (as large as the input here)."""
    weights = sum(p.numel() for p in layer.parameters())
    return 2 * layer.x.numel() + weights


moved_values = [values_moved(layer) for layer in layers.values()]

# %% tags=["volatile"]
show(
    viz.bars(
        {
            "time": [value / first for value in ms.values()],
            "numbers moved": [n / moved_values[0] for n in moved_values],
        },
        list(layers),
        label="times the first layer (log scale)",
        log=True,
    ),
    alt="Time and numbers moved of the seven layers, relative to the first. The large "
    "depth-wise layer takes by far the longest; it and the copy move by far the most.",
)

# %% [markdown]
# **What to see.** A dense 3×3 layer with many channels uses each number that it fetches hundreds of times. It multiplies at
# a high rate, and its MACs predict its time. A depth-wise layer finds only nine uses for a number and then needs the
# next: more to move for the same arithmetic, and multipliers that are built for long sums over channels run nearly
# empty. Its rate says so. The copy shows what moving alone costs: no MACs, and still it takes its time. So do batch norms,
# activations and resizing, which a MAC count calls free. Other machines give other ratios; run these cells on yours.
#
# For pruning this means: **MACs are a promise, milliseconds are the delivery.** Exercise 3 said that the arithmetic
# shrinks faster than the traffic. So expect a speed-up smaller than the MACs suggest, and measure it. How latency moves
# as a layer gets narrower, channel by channel, has a lesson of its own later.

# %% [markdown]
# ### Exercise 4 ★★ (8 minutes): the separable trade
#
# MobileNets replace a dense $k \times k$ convolution ($c$ channels in, $c$ out) by a depth-wise $k \times k$ followed by a
# 1×1. Write the ratio of MACs, separable over dense, as a function of $c$ and $k$.


# %% tags=["nbval-check-output"]
def separable_ratio(c, k):
    return None  # your code


check("01.4", separable_ratio)

# %% [markdown]
# {{solution 01.4}}

# %% [markdown]
# ## 11 · Explore
#
# Choose a street and a class, and see which of its pixels are right, missed or false. Try *pole*, then *road*, then
# *bicycle*. (On the book's pages the picture stands still; the cell after it shows more of them.)


# %%
import base64
import io

import ipywidgets as widgets
from PIL import Image


def overlap_html(number, name):
    """A picture for the explorer, with its caption."""
    k, file = CLASSES.index(name), io.BytesIO()
    pixels = viz.overlap(images[number], truths[number], guesses[number], k)
    big = Image.fromarray(pixels).resize((512, 256), Image.Resampling.NEAREST)
    big.save(file, "PNG")
    counts = metrics.confusion_matrix(guesses[number], truths[number], len(CLASSES))
    caption = f"{name}, street {number}: IoU {metrics.iou_per_class(counts)[k]:.2f}"
    source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    picture = f'<img style="width:100%" alt="{caption}" src="{source}">'
    return f"{caption} (blue right, yellow missed, orange false)<br>{picture}"


# %%
street = widgets.IntSlider(9, 0, len(scenes) - 1, description="street")
name = widgets.Dropdown(options=CLASSES, value="pole", description="class")
picture = widgets.HTML()


def redraw(_):
    picture.value = overlap_html(street.value, name.value)


for control in (street, name):
    control.observe(redraw, "value")
redraw(None)
widgets.VBox([street, name, picture])

# %%
four = [7, 8, 9, 11]
parts = (images[four], truths[four], guesses[four])
show(
    viz.overlap_grid(*parts, pole, classes=len(CLASSES)),
    alt="Four streets in grey with the pixels of poles coloured: right ones form the "
    "core, false ones line its sides; thin arms over the road are partly missed.",
)

# %% [markdown]
# ## 12 · Break it
#
# Labels go wrong in every project. These calls fail on purpose; read what the errors advise.

# %% tags=["nbval-check-output"]
from textwrap import fill

from prunekit.errors import DataError

count = metrics.confusion_matrix
faults = {
    "255 IS NOT IGNORED": lambda: count(guess, truth, 3, ignore=None),
    "ANOTHER IGNORE LABEL": lambda: count(guess, truth, 3, ignore=0),
    "ONE CLASS TOO FEW": lambda: count(guess, truth, 2),
    "COARSE LOGITS": lambda: count(logits[..., ::4, ::4], truths, 12),
}
for what, call in faults.items():
    try:
        call()
    except DataError as error:
        print(fill(f"{what}: {error}", 56), end="\n\n")

# %% [markdown]
# An error's advice is a suggestion, not an order. Read the third one again: `ignore=2` would end the complaint and, with it,
# every trace of the pole. The label tells you where to look; what it means, only you know.
#
# The dangerous faults are those that raise nothing. Feed the network pictures that were not normalised, and everything
# runs:

# %%
from prunekit.data.transforms import denormalize

with torch.no_grad():
    raw = model(denormalize(images)).argmax(1)  # values from 0 to 1
counts = metrics.confusion_matrix(raw, truths, len(CLASSES))
print(f"mIoU {score.miou:.2f} normalised, {metrics.miou(counts):.2f} not normalised")

# %% [markdown]
# No error, and a much worse number. Whenever a pruned network scores low, check first that the *dense* one still gets its
# known score in the same loop. Many a "pruning failure" is born here.
#
# **What we simplified.** The scenes are small and synthetic, so class order and absolute mIoU are not those of
# Cityscapes. MACs leave out batch norm, activations and resizing. Peak memory on a CPU counts tensors, not the scratch
# space inside a kernel. One thread of a busy machine is no benchmark of a product.

# %% [markdown]
# ## 13 · Quiz

# %%
quiz("01")

# %% [markdown]
# ## Key points
#
# - Add the confusion matrix over all images, then divide. IoU punishes missed and false pixels alike.
# - Pixel accuracy is ruled by large classes. Thin classes vanish from it without a trace; watch per-class IoU.
# - One pixel of slip leaves a class of width $w$ an IoU of about $(w-1)/(w+1)$.
# - A convolution's MACs are its parameters times its output positions. Halve all channels, and a quarter remains.
# - A DeepLabV3 works hardest in its last stages and in ASPP.
# - Equal MACs, unequal milliseconds. Count first, then measure; report both.
#
# ## Use it on your own model

# %% tags=["volatile"]
import timm

yours = timm.create_model("mobilenetv3_small_100")  # any nn.Module
x = torch.randn(1, 3, 224, 224)  # the input it was built for
cost = pk.profile(yours, x)
print(f"{cost.params / 1e6:.2f} M parameters, {cost.macs / 1e6:.0f} M MACs")
print(f"{cost.latency_ms:.1f} ms on {cost.device}, {cost.peak_bytes / 2**20:.1f} MiB")

# %% [markdown]
# ## References
#
# DeepLabV3 is Chen et al. 2017, Cityscapes and its long tail Cordts et al. 2016, ResNet He et al. 2016; all in the
# [list of references](../book/references.md).
#
# Now you can say what is good and what is expensive. Next: how a channel comes out.

# %% tags=["volatile"]
course.footer()
