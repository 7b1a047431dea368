# %% [markdown]
# # Channel surgery: what is tied, and how to cut it
#
# {{badge}}
#
# {{minutes}}
#
# **You will be able to**
#
# - *tell* a mask from a slice, and *place* a mask where nothing leaks,
# - *predict* which layers of a network must shrink together,
# - *build* the label propagation that finds them, and *read* what the library found,
# - *cut* a channel, a head or a neuron, and *prove* that the cut was right,
# - *recognise* the networks in which masking and removing are two different things.
#
# **You need** [lesson 00](00_quickstart.ipynb): a group, a plan, a certificate. Nothing is trained here. Which channels
# deserve to go is for other lessons; this one takes them out without hurting anything else.

# %%
import subprocess
import sys
from importlib.util import find_spec

if find_spec("prunekit") is None:  # on Colab and Kaggle
    package = "prunekit[onnx,quiz] @ git+{{repo}}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

from prunekit.course import check, quiz, setup, show

course = setup("02_channel_surgery", version="{{version}}")

# %% [markdown]
# ## 1 · The problem: one channel less
#
# Here is a ResNet-18. Its first convolution makes 64 channels. You want 63, so you cut the last row of its weight. (The
# network is untrained. Nothing in this lesson depends on good weights, and everything runs on the CPU.)

# %%
from textwrap import fill

import timm
import torch

resnet = timm.create_model("resnet18").eval()
photo = torch.randn(1, 3, 64, 64)
tensors = {**dict(resnet.named_parameters()), **dict(resnet.named_buffers())}


def cut_last(*names, axis=0):
    """Cut the last of 64 positions off these tensors, then run the network."""
    for name in names:
        tensors[name].data = tensors[name].data.narrow(axis, 0, 63)
    try:
        print("it runs", tuple(resnet(photo).shape))
    except RuntimeError as error:
        print(fill(str(error), 40))


cut_last("conv1.weight")

# %% [markdown]
# The batch norm behind it still holds four numbers for each of 64 channels. Cut those too.

# %%
cut_last("bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var")

# %% [markdown]
# Now the next convolution complains: it *reads* 64 channels. For what is read, the axis is 1.

# %%
cut_last("layer1.0.conv1.weight", axis=1)

# %% [markdown]
# And now a sum. The 63 channels run past two layers and are added to what those layers made, which is 64 channels wide.
#
# **Predict first.** You go on like this, error by error. In how many tensors have you cut that one channel when the
# network runs again? Six are done.

# %%
my_tensors = 8  # type your guess over mine; section 6 has the answer

# %% [markdown]
# ## 2 · Words and letters
#
# | word or letter | meaning |
# | --- | --- |
# | **unit** | what goes as one: a channel, an attention head, a neuron |
# | **row** | a unit where it is made: one entry of axis 0 of a weight (*producer*) |
# | **column** | the same unit where it is read: one entry of axis 1 (*consumer*) |
# | **follower** | has one number for each unit: bias, batch norm, a depth-wise kernel |
# | **group** | all axes that must lose the same units together |
# | $W \in \mathbb{R}^{O \times C \times k \times k}$ | a convolution's weight: $O$ rows, $C$ columns |
# | $U$, $K$ | units in a group; positions that one unit owns on an axis |
# | $\gamma, \beta, \mu, \sigma^2$ | a norm's scale, shift, mean and variance |
#
# All words are in the [glossary](../book/glossary.md).

# %% [markdown]
# ## 3 · Mask or slice
#
# Two ways to be rid of a channel: write zeros over it, or take it out. We try both on the smallest network that has
# everything: a convolution, a batch norm, an activation, and a convolution that reads.

# %%
from torch import nn


def conv3(inputs, outputs, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def tiny(channels=6, activation=nn.ReLU):
    norm = nn.BatchNorm2d(channels)
    layers = conv3(3, channels), norm, activation(), conv3(channels, 2)
    return nn.Sequential(*layers).eval()


# %% [markdown]
# A batch norm that has never been trained has $\mu = 0$, $\sigma^2 = 1$, $\gamma = 1$, $\beta = 0$: it does next to nothing. We give
# it numbers, as training would. Soon you will see why that matters.


# %%
def trained(net):
    """Numbers for the batch norm, as if it had seen pictures."""
    norm = net[1]
    for tensor in (norm.weight.data, norm.running_var):
        tensor.uniform_(0.5, 1.5)
    for tensor in (norm.bias.data, norm.running_mean):
        tensor.uniform_(-0.5, 0.5)
    return net


torch.manual_seed(0)
net = trained(tiny())
picture = torch.randn(1, 3, 16, 16)
keep, gone = [0, 2, 3, 5], [1, 4]

# %% [markdown]
# **Slice.** Rows where channels are made, columns where they are read, and the norm's four vectors in between. Layers
# `0` and `1` of the network make the channels, layer `3` reads them.


# %%
def sliced(net, keep):
    """The network with these channels only."""
    whole = net.state_dict()
    cut = dict(whole)
    for name, tensor in whole.items():
        if name[0] in "01" and tensor.dim():  # one of them is a counter
            cut[name] = tensor[keep]
    cut["3.weight"] = whole["3.weight"][:, keep]
    small = tiny(len(keep), type(net[2]))
    small.load_state_dict(cut)
    return small


# %% [markdown]
# **Mask.** The reader's columns become zero; nothing else changes.

# %%
import copy

masked = copy.deepcopy(net)
masked[3].weight.data[:, gone] = 0
small = sliced(net, keep)

# %% tags=["hide-input"]
from matplotlib import pyplot as plt

ratios = {"width_ratios": (6, 6, 4), "height_ratios": (3, 2)}
fig, axes = plt.subplots(
    2, 3, figsize=(5.4, 2.8), gridspec_kw=ratios, layout="constrained"
)
models = {"dense": net, "masked": masked, "sliced": small}
for (title, model), pair in zip(models.items(), axes.T):
    for layer, ax in zip((0, 3), pair):
        weight = model[layer].weight.detach().abs().sum((2, 3))
        grid = weight.T if layer == 0 else weight
        limits = {"vmin": 0, "vmax": net[layer].weight.abs().sum((2, 3)).max().item()}
        ax.pcolormesh(grid.flip(0), cmap="viridis", edgecolors="white", lw=2, **limits)
        numbers = keep if title == "sliced" else range(6)
        ax.set_xticks([i + 0.5 for i in range(len(numbers))], numbers)
        ax.tick_params(length=0)
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
    pair[0].set_title(title, fontsize=11)
for ax, verb in zip(axes[:, 0], ("makes", "reads")):
    ax.set_ylabel(verb, fontsize=11)
show(
    fig,
    alt="Weights of the layer that makes six channels and of the one that reads them. "
    "Masked: two of the reader's columns are zero. Sliced: both layers are narrower.",
)

# %% [markdown]
# Under each column stands its channel's number. A square is one 3 × 3 kernel, its weights added up without their signs;
# brighter is larger. The maker's rows are drawn upright, so that a channel stands above itself. Masked, its place is still
# there, and dark. Sliced, the place is gone.

# %% tags=["nbval-check-output"]
from prunekit.profiling import count_macs, count_params  # prunekit/profiling.py

print("        parameters    MACs")
for name, model in (("dense", net), ("masked", masked), ("sliced", small)):
    print(f"{name:7}{count_params(model):11}{count_macs(model, picture):8}")
with torch.no_grad():
    error = (masked(picture) - small(picture)).abs().max().item()
print("masked and sliced agree:", error < 1e-5)

# %% [markdown]
# **What to see.** The two compute the same, and only one of them is cheaper. A zero is stored, fetched and multiplied
# like any other number. So masks are for *asking* (what would happen without this channel?), slices are for *shipping*.
# Whoever asks with the one and ships the other relies on the two being equal.
#
# ### Where to put the mask
#
# Along a channel's way there are five places where you could write zeros. Which of them equal the slice? We ask three
# networks: the one above, one with a sigmoid in place of ReLU, and one that is fresh, its norm untouched by training.

# %%
places = {
    "maker's weights": ["0.weight"],
    "and its bias": ["0.weight", "0.bias"],
    "norm's scale": ["1.weight"],
    "and its shift": ["1.weight", "1.bias"],
    "reader's columns": [],
}


def largest_leak(net, place):
    """How far a network masked at `place` is from the sliced one."""
    masked = copy.deepcopy(net)
    for name in places[place]:
        masked.state_dict()[name][gone] = 0
    if place == "reader's columns":
        masked[3].weight.data[:, gone] = 0
    with torch.no_grad():
        return (masked(picture) - sliced(net, keep)(picture)).abs().max().item()


# %%
torch.manual_seed(4)
sigmoid, fresh = trained(tiny(activation=nn.Sigmoid)), tiny()
print("zeroed              ReLU sigmoid   fresh")
for place in places:
    leaks = (largest_leak(model, place) for model in (net, sigmoid, fresh))
    print(f"{place:16}{''.join(f'{leak:8.2f}' for leak in leaks)}")

# %% [markdown]
# **What to see.** Go down the first column. Without its weights a channel still carries its bias. Without both, the
# batch norm turns the zero into $\gamma\,(0 - \mu)/\sigma + \beta$. Without $\gamma$, the shift $\beta$ is left. Without $\beta$ too, ReLU lets the
# zero pass, and nothing leaks. In the second column even that is not enough: $\mathrm{sigmoid}(0) = 1/2$, at every pixel.
# **Only the reader's columns are right for everybody.** What nobody reads cannot matter.
#
# The third column is a trap. In a fresh network the norm has nothing to leak, so three wrong places look right. A check on
# a network like that is blind. Remember it for section 8.
#
# ### Exercise 1 ★ (4 minutes): the mask
#
# Return a copy of a reader's weight in which the channels `gone` are silent.
#
# `check` (`prunekit/course/checks.py`) runs your function on small examples. If you are stuck, type `hint("02.1")` into a
# new cell, then `hint("02.1", 2)`. The solution is folded away below.


# %% tags=["nbval-check-output"]
def mask_reader(weight, gone):
    """weight (O, C, k, k) -> the same shape, columns `gone` zero; weight stays."""
    return None  # your code here


check("02.1", mask_reader)

# %% [markdown]
# {{solution 02.1}}
#
# ## 4 · Why a sum ties layers
#
# Four layers are enough for the rest. `stem` makes four channels, `wide` makes six of them, `back` returns to four so that
# the *sum* is possible, and `head` reads sum and `wide` side by side.


# %%
class Four(nn.Module):
    def __init__(self, stem=4, wide=6):
        super().__init__()
        self.stem = conv3(3, stem, bias=False)
        self.wide = conv3(stem, wide, bias=False)
        self.back = conv3(wide, stem, bias=False)
        self.head = conv3(stem + wide, 2, bias=False)

    def forward(self, x):
        a = self.stem(x)
        w = self.wide(a).relu()
        b = a + self.back(w)
        return self.head(torch.cat([b, w], dim=1))


# %% [markdown]
# **Predict first.** `stem` gives up channel 1. Who else has to change, rows or columns?
#
# Write your answer down. Then watch two people try. Both cut channel 1 out of `stem`, and one channel out of `back`, so
# that the sum has three channels on both sides. One of them takes channel 1 out of `back`, the other channel 3.


# %%
def cut_four(net, stem, back):
    """Keep these rows of `stem` and `back`; readers follow `stem`."""
    columns = [*stem, *range(4, 10)]  # of head: the sum first, then `wide`
    small = Four(stem=len(stem))
    small.stem.weight.data = net.stem.weight.data[stem]
    small.wide.weight.data = net.wide.weight.data[:, stem]
    small.back.weight.data = net.back.weight.data[back]
    small.head.weight.data = net.head.weight.data[:, columns]
    return small


# %%
torch.manual_seed(0)
four = Four().eval()
quiet = copy.deepcopy(four)
for reader in (quiet.wide, quiet.head):  # the mask, at both readers of channel 1
    reader.weight.data[:, 1] = 0

small = cut_four(four, stem=[0, 2, 3], back=[0, 2, 3])
wrong = cut_four(four, stem=[0, 2, 3], back=[0, 1, 2])
with torch.no_grad():
    for name, model in (("channel 1 in both", small), ("1 here, 3 there", wrong)):
        error = (model(picture) - quiet(picture)).abs().max().item()
        print(f"{name:18} off by {error:.2f}")

# %% [markdown]
# **What to see.** No error message in either case. Both networks run and have the same shapes; the second adds `stem`'s
# channel 2 to `back`'s channel 1 and computes nonsense. **Shapes do not tell you whether a cut is right.** A sum meets
# channel by channel: channel $i$ of one side *is* channel $i$ of the other, so both makers must give up the same numbers,
# and every reader of the sum must follow.
#
# So the answer is: rows of `stem` and `back`, columns of `wide` and `head`.

# %% [markdown]
# ## 5 · From scratch: give every position a number
#
# How does a program find that out, for any network? With an idea of two lines. Give every row and every column of every
# weight a number of its own, a **label**. Then run through the network as data would, and wherever two labels meet and
# must be the same channel, **unite** them. Label 0 is special: it must stay.
#
# The book-keeping is a classic called *union-find*. Every label points to another one that it equals; follow the
# pointers to the end, and you are at the label's *root*. Same root, same channel.


# %%
class Labels:
    def __init__(self):
        self.parent = [0]

    def fresh(self, count):
        first = len(self.parent)
        self.parent += range(first, first + count)  # each is its own root
        return self.parent[first:]

    def root(self, label):
        parent = self.parent[label]
        return label if parent == label else self.root(parent)

    def unite(self, left, right):
        for a, b in zip(left, right, strict=True):
            low, high = sorted((self.root(a), self.root(b)))
            self.parent[high] = low  # the smaller wins, and 0 is the smallest


# %% tags=["nbval-check-output"]
labels = Labels()
left, right = labels.fresh(3), labels.fresh(3)
labels.unite(left, right)
labels.unite([right[0]], [0])
print(left, right)
print([labels.root(label) for label in left + right])

# %% [markdown]
# **What to see.** 1 was united with 4, and 4 with 0: now both must stay. Equality travels.
#
# Next, a rule for each operation of our network. A rule gets labels and returns labels, as the operation gets channels
# and returns channels. ReLU needs none: channel $i$ stays channel $i$.


# %%
labels = Labels()
layers = dict(four.named_children())
columns = {name: labels.fresh(layer.in_channels) for name, layer in layers.items()}
rows = {name: labels.fresh(layer.out_channels) for name, layer in layers.items()}


def conv(name, x):
    """What comes in is what the columns read; what goes out are the rows."""
    labels.unite(columns[name], x)
    return rows[name]


def add(x, y):
    labels.unite(x, y)  # channel i meets channel i
    return x


def cat(x, y):
    return x + y  # two lists, one behind the other


# %% [markdown]
# Now send labels through the network instead of pictures. Put this cell beside `forward` in section 4: it is the same
# five lines. The image's colours must stay, and so must the classes.

# %%
a = conv("stem", [0, 0, 0])
w = conv("wide", a)
b = add(a, conv("back", w))
classes = conv("head", cat(b, w))
labels.unite(classes, [0, 0])

# %% [markdown]
# That was all. Collect the positions by root, and the units stand there.

# %% tags=["nbval-check-output"]
from collections import defaultdict

units = defaultdict(list)
for axis, lines in enumerate((rows, columns)):
    for name in layers:
        for position, label in enumerate(lines[name]):
            units[labels.root(label)].append((f"{name}.weight", axis, position))
stays = units.pop(0)
for positions in units.values():
    row = [f"{name[:4]}[{i}]" for name, axis, i in positions if axis == 0]
    column = [f"{name[:4]}[:,{i}]" for name, axis, i in positions if axis == 1]
    print(*row, "|", *column)

# %% [markdown]
# **What to see.** Rows stand before the bar, columns behind it. Ten units, in two families. The first four live in the rows of `stem` *and* `back`: the sum. The last six
# are made by `wide` alone. In `head` their columns begin at 4, not at 0, because a concatenation moved them there; nobody
# had to do arithmetic with offsets. And your answer from section 4 is the second line.
#
# **Check** against the library. `pk.find_groups` returns groups, a group has *members* (which axis of which tensor), and
# `member.index[u]` lists the positions that unit `u` owns there. Our labels and its groups must say the same.

# %% tags=["nbval-check-output"]
import prunekit as pk  # prunekit/surgery/: labels.py, rules/, groups.py


def units_of(groups):
    """Every unit as the set of (tensor, axis, position) that it owns."""
    for group in groups.values():
        for u in range(group.size):
            owned = ((m.tensor, m.dim, m.index[u].tolist()) for m in group.members)
            yield frozenset((t, d, i) for t, d, line in owned for i in line)


groups = pk.find_groups(four, picture)
assert set(units_of(groups)) == {frozenset(unit) for unit in units.values()}
print({name: group.size for name, group in groups.items()})
print("frozen:", dict(groups.frozen))

# %% [markdown]
# The library does what you did, on the graph that `torch.export` records: one small rule for each operation
# (`prunekit/surgery/rules/`), all labels united at once (`prunekit/surgery/labels.py`). A group is named after the first
# layer that makes its channels. What has root 0 is *frozen*, with the reason.
#
# ### Exercise 2 ★★ (5 minutes): a rule of your own
#
# `x.flatten(1)` turns channels with several pixels into one long vector, for a linear layer to read. Each channel then
# owns several columns. Write its rule: given the labels of the channels, return the label of every column.


# %% tags=["nbval-check-output"]
def flatten_rule(x, pixels):
    """Labels of C channels with `pixels` pixels each -> C * pixels labels."""
    return None  # your code here: a list


check("02.2", flatten_rule)

# %% [markdown]
# {{solution 02.2}}
#
# ## 6 · Read the groups of real networks
#
# First the ResNet-18 of section 1, whole again. For each group: its size, the kind of its units, how many layers **m**ake
# them and how many **r**ead them, how many tensors **f**ollow, and the first maker.

# %%
resnet = timm.create_model("resnet18").eval()
groups = pk.find_groups(resnet, photo)


def table(groups, names=None, short=str):
    """One line per group. short: how a name is written."""
    print("size kind     m  r  f")
    for name in names or groups:
        group = groups[name]
        made, read = len(group.producers()), len(group.consumers())
        follow = len(group.members) - made - read
        print(
            f"{group.size:4} {group.kind:7} {made:2} {read:2} {follow:2}  {short(name)}"
        )


# %% tags=["nbval-check-output"]
table(groups)

# %% tags=["nbval-check-output"]
members = groups["conv1"].members
print(len(members), "tensors lose a channel when conv1 does:")
for member in members:
    if member.role != "follower":
        layer = member.tensor.removesuffix(".weight")
        print(f"{member.role} {layer}, axis {member.dim}")
print("and", sum(m.role == "follower" for m in members), "of batch norms")

# %%
print("your prediction:", my_tensors, "tensors; it is", len(members))

# %% [markdown]
# **What to see.** Every stage of a ResNet has one **residual stream**: all blocks of the stage add to it, so all of
# them make the same channels. Inside a block, `conv1` makes channels that only `conv2` reads; those are free.
#
# Now the picture. Each row is a layer, in the order of the network. On the right an arc ties layers that make the same
# channels; on the left an arc runs from a maker to a reader. A colour is a group; grey groups have one maker and one
# reader.


# %% tags=["hide-input"]
from itertools import cycle, pairwise

from prunekit import viz  # prunekit/viz.py


def rows_of(members, rows):
    """Where the layers of these members stand; those outside the picture left out."""
    names = (member.tensor.removesuffix(".weight") for member in members)
    return sorted(rows[name] for name in names if name in rows)


def arcs_of(makers, readers):
    """(from, to, side): makers in a chain, right; the last maker to a reader, left."""
    chain = [(a, b, 1) for a, b in pairwise(makers)]
    last = {b: max((m for m in makers if m < b), default=makers[0]) for b in readers}
    return chain + [(a, b, -1) for b, a in last.items()]


def draw_arc(ax, start, end, side, edge, width, color):
    t = torch.linspace(0, torch.pi, 40)
    middle, half = (start + end) / 2, (start - end) / 2
    x = side * (edge + width * t.sin())
    ax.plot(x, middle + half * t.cos(), color=color, lw=1.8)
    ends = (start, end) if side > 0 else (start, start)  # a dot marks a maker
    ax.plot([side * edge] * 2, ends, "o", color=color, ms=4, zorder=3)


# %% tags=["hide-input"]
def draw_ties(groups, layers, short=str):
    """layers: names, in the order of the rows. short: how a name is written."""
    rows = {name: i for i, name in enumerate(layers)}
    fig, ax = plt.subplots(figsize=(5, 0.5 + 0.27 * len(rows)), layout="constrained")
    edge = 0.1 + 0.05 * max(len(short(name)) for name in rows)
    palette = cycle(viz.colors(10))
    for group in groups.values():
        makers = rows_of(group.producers(), rows)
        readers = rows_of(group.consumers(), rows)
        color = next(palette) if makers and len(makers + readers) > 2 else "0.7"
        for start, end, side in arcs_of(makers, readers) if makers else []:
            width = 1.8 * (abs(end - start) / len(rows)) ** 0.5
            draw_arc(ax, start, end, side, edge, width, color)
    for name, i in rows.items():
        ax.text(0, i, short(name), ha="center", va="center", fontsize=10)
    for x, title in ((-2, "is read by"), (2, "made together")):
        ax.text(x, -0.9, title, ha="center", fontsize=10, style="italic")
    ax.set(xlim=(-3, 3), ylim=(len(rows) - 0.4, -1.2))
    ax.set_axis_off()
    return fig


# %%
show(
    draw_ties(pk.find_groups(four, picture), ["stem", "wide", "back", "head"]),
    alt="The four-layer network: the sum ties stem and back on the right; on the "
    "left arcs run from stem to wide, from wide to back and head, from back to head.",
)

# %%
convs = [n for n, m in resnet.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
show(
    draw_ties(groups, convs),
    alt="ResNet-18: four coloured chains on the right, one residual stream per stage, "
    "tie the first layer of the stage to the second of each block.",
)

# %% [markdown]
# **What to see.** Four chains on the right: four streams, one a stage. Cut a stream by a quarter and every layer on the
# chain pays, whatever it thinks of its own channels. That is why scores are added over all makers of a group, and why
# timid tools leave the streams alone and prune only the grey part.
#
# ### A DenseNet: many readers
#
# A DenseNet never adds. Each layer's output is *concatenated* to everything before it, so it is read by all later layers
# of its block. Predict: how many members has the group of the 64 channels of its first convolution?

# %% tags=["nbval-check-output"]
densenet = timm.create_model("densenet121").eval()
dense_groups = pk.find_groups(densenet, photo)


def shorter(name):
    for part in ("features.", "denseblock1.", "dense"):
        name = name.replace(part, "")
    return name


print(len(dense_groups), "groups, the first of them:")
table(dense_groups, list(dense_groups)[:7], shorter)

# %%
convs = [n for n, m in densenet.named_modules() if isinstance(m, nn.Conv2d)][:14]
show(
    draw_ties(dense_groups, convs, shorter),
    alt="The first block of a DenseNet: no arcs on the right; on the left a fan from "
    "the first layer to every conv1 of the block, and smaller fans from each conv2.",
)

# %% [markdown]
# **What to see.** Forty: one maker, seven readers, 32 followers. Each reader has a batch norm of its own in front of it, and each
# norm has four vectors. Nothing ties two makers, so every group is free. But look at a reader: its columns are a patchwork
# of the units of many groups. This is where tools that count offsets by hand go wrong, and where labels need no extra
# line: `cat` was `x + y`.

# %% tags=["nbval-check-output"]
reader = "features.transition1.conv.weight"
for name, group in dense_groups.items():
    for member in group.members:
        if member.tensor == reader and member.dim == 1:
            first, last = member.index.min().item(), member.index.max().item()
            print(f"columns {first:3} to {last:3}: {shorter(name)}")

# %% [markdown]
# ### A SegFormer: heads and neurons
#
# A transformer brings two new kinds of unit (`prunekit/models/segformer/`). We look at the third stage of the mini SegFormer.

# %% tags=["nbval-check-output"]
from prunekit.models.segformer import segformer_mini

torch.manual_seed(0)
segformer, street = segformer_mini().eval(), torch.randn(1, 3, 64, 128)
seg_groups = pk.find_groups(segformer, street)
stage = [name for name in seg_groups if name.startswith("encoder.stages.2.")]
table(seg_groups, stage, lambda name: name.removeprefix("encoder.stages.2."))
print("not exact:", sum(not seg_groups[name].exact for name in stage), "of these")

# %% [markdown]
# **What to see.** `embed.proj` begins the residual stream of the stage: every attention and every MLP adds to it. Inside a
# block there are *heads*, few and wide, and *neurons*, many and thin; section 10 weighs them. Some groups are *not exact*.
# Those are section 9.
#
# ### Exercise 3 ★★ (5 minutes): who is tied?
#
# Read the code. `stem` gives up its channel 5. Which layers must give up one of their **outputs** (rows) as well? Return
# the set of their names, `stem` among them.


# %%
class Puzzle(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.gate = conv3(3, 8), nn.Conv2d(8, 8, 1)
        self.narrow, self.widen = conv3(8, 4), conv3(4, 8)
        self.depthwise, self.head = conv3(8, 8, groups=8), conv3(12, 2)

    def forward(self, x):
        x = self.stem(x)
        x = x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        y = self.narrow(x).relu()
        x = self.depthwise(x + self.widen(y))
        return self.head(torch.cat([y, x], 1))


# %% tags=["nbval-check-output"]
def tied_to_stem():
    return None  # your answer, for example {"stem", "head"}


check("02.3", tied_to_stem)

# %% [markdown]
# {{solution 02.3}}
#
# ## 7 · The cut
#
# With the groups known, the cut itself is short: for every member, keep the positions of the units that stay. For our
# conv, norm, conv this is what you did by hand in section 3. `pk.prune` (`prunekit/surgery/cut.py`) must give the same
# numbers in every tensor.

# %% tags=["nbval-check-output"]
groups = pk.find_groups(net, picture)
plan = pk.PruningPlan(sizes={"0": 6}, keep={"0": (0, 2, 3, 5)})
small, by_hand = pk.prune(net, groups, plan), sliced(net, keep)
for name, tensor in small.state_dict().items():
    assert torch.equal(tensor, by_hand.state_dict()[name]), name
    print(f"{name:22}", tuple(tensor.shape))

# %% [markdown]
# The plan names the group, says how many units it had, and which of them stay. What comes back is a new network of the same
# class, whose layers know their new sizes. `net` still has all of its own.
#
# ### Exercise 4 ★★ (6 minutes): what will it cost?
#
# You prune `Four`: of the first group's four units `stem` stay, of the second group's six `wide`. Predict the MACs on a
# picture of 16 × 16 pixels. Every kernel is 3 × 3, and [lesson 01](01_segmentation_and_cost.ipynb) has the formula.


# %% tags=["nbval-check-output"]
def macs_left(stem, wide):
    """MACs of Four with `stem` (of 4) and `wide` (of 6) channels left."""
    return None  # your code here


check("02.4", macs_left)

# %% [markdown]
# {{solution 02.4}}
#
# ## 8 · The certificate, and how a wrong plan is caught
#
# Section 4 showed a wrong network that runs. Who would notice? `pk.check_equivalence` asks three questions:
#
# 1. Does every tensor of the small network hold exactly the kept numbers of the large one?
# 2. Does it compute what the large one computes when the removed units are masked where they are read? Both in double
#    precision, so that rounding (about $10^{-15}$) and mistakes (all the rest) are far apart, and with random batch norms:
#    remember the third column of the table in section 3.
# 3. Would we have noticed? The *control* is the large network without any mask. It has to differ.

# %%
certificate = pk.check_equivalence(net, small, groups, plan, picture)
print(fill(str(certificate), 40))

# %% [markdown]
# A check that has never failed proves little. So we give it three reasons to fail. First: the reader keeps the wrong
# columns, one number off, all shapes right.


# %%
def complaint(call):
    """Run it and print what it says when it refuses."""
    try:
        print("no complaint:", call())
    except pk.PrunekitError as error:
        print(fill(f"{type(error).__name__}: {error}", 40))


swapped = copy.deepcopy(small)
swapped[3].weight.data = net[3].weight.data[:, [0, 2, 3, 4]]  # 4 in place of 5
complaint(lambda: pk.check_equivalence(net, swapped, groups, plan, picture))

# %% [markdown]
# Second: a network that was cut by another plan.

# %%
other = pk.PruningPlan({"0": 6}, {"0": (0, 1, 2)})
another = pk.prune(net, groups, other)
complaint(lambda: pk.check_equivalence(net, another, groups, plan, picture))

# %% [markdown]
# Third, and this is the hard one: what if the *engine* were wrong? We falsify the groups themselves: the reader's columns
# are listed one place off. Now `prune` cuts wrongly, and question 1 is answered by the same wrong list. It finds nothing.
# Question 2 does.

# %%
from dataclasses import replace

group = groups["0"]
lies = [
    replace(member, index=member.index.roll(1, 0))
    if member.role == "consumer"
    else member
    for member in group.members
]
false = replace(groups, table={"0": replace(group, members=tuple(lies))})
ill = pk.prune(net, false, plan)
complaint(lambda: pk.check_equivalence(net, ill, false, plan, picture))

# %% [markdown]
# **What to see.** Mask and slice take different roads: one writes zeros into the large network, the other never sees what
# it left out. A mistake in the groups has to be wrong in both, in the same way, to stay hidden.

# %% [markdown]
# ## 9 · Where masked and pruned differ: LayerNorm
#
# A batch norm treats channels one by one. A **LayerNorm** looks at *all channels of a pixel* and subtracts their mean:
#
# $$y_i = \gamma_i\, \frac{x_i - \mu}{\sigma} + \beta_i, \qquad \mu = \frac{1}{C}\sum_{j=1}^{C} x_j$$
#
# and $\sigma^2$ is the mean of all $(x_j - \mu)^2$.
#
# So what channel 0 becomes depends on channel 3. Four channels, the last one goes. What happens to the first three?

# %% tags=["nbval-check-output"]
norm = nn.functional.layer_norm
x = torch.tensor([1.0, 2.0, 3.0, 10.0])
zeroed = torch.tensor([1.0, 2.0, 3.0, 0.0])
ways = {
    "masked at the reader": norm(x, (4,)),
    "zeroed before the norm": norm(zeroed, (4,)),
    "removed": norm(x[:3], (3,)),
}
for way, y in ways.items():
    print(f"{way:22}", *(f"{value:5.2f}" for value in y[:3]))

# %% [markdown]
# **What to see.** Three ways, three answers, and none of them is a mistake. Masked at the reader, the large channel 3
# still pulls the mean up to 4. Zeroed before the norm, it still counts: the sum is divided by four, not by three. Removed,
# it has no say. No place for a mask can imitate that, so the group is marked `exact=False`.
#
# How much does it matter in a network? We remove more and more channels from the residual stream of the SegFormer's third
# stage, then more and more neurons from one of its MLPs, and compare masked with pruned.


# %%
def disagreement(name, share):
    """Largest difference of masked and pruned, relative to the largest output."""
    size = seg_groups[name].size
    keep = tuple(range(round(size * share), size))
    plan = pk.PruningPlan({name: size}, {name: keep})
    cut = (
        make(segformer, seg_groups, plan).double()(street.double())
        for make in (pk.mask, pk.prune)
    )
    with torch.no_grad():
        masked, pruned = cut
    gap = (masked - pruned).abs().max() / masked.abs().max()
    return max(gap.item(), 1e-16)  # less cannot be seen in double precision


stream, neurons = "encoder.stages.2.embed.proj", "encoder.stages.2.blocks.0.mlp.fc1"
shares = [1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4]
gaps = {name: [disagreement(name, s) for s in shares] for name in (stream, neurons)}

# %% tags=["hide-input"]
fig, ax = plt.subplots(figsize=(5, 3.4), layout="constrained")
titles = ("residual stream, through LayerNorms", "neurons of one MLP")
for values, title, color in zip(gaps.values(), titles, viz.colors(2)):
    ax.plot([100 * s for s in shares], values, "o-", color=color)
    above = {"textcoords": "offset points", "ha": "center"}
    ax.annotate(title, (40, values[3]), (0, 10), **above)
ax.set(yscale="log", ylim=(1e-17, 30), xlabel="removed, %")
ax.set_ylabel("relative difference")
ax.axhline(1e-9, color="0.6", ls="--", lw=1)
ax.annotate("the certificate's limit", (40, 1e-9), (0, 6), **above)
ax.spines[["top", "right"]].set_visible(False)
show(
    fig,
    alt="Difference of masked and pruned SegFormer on a log scale. Neurons stay at "
    "rounding, near 1e-15; the residual stream starts at some percent and grows.",
)

# %% [markdown]
# **What to see.** Neurons: rounding, at any share. The stream: visible from the first channel on. So when you ask with a
# mask what a channel of this stream is worth, you get an answer about a network that you will not ship. The answer is
# still useful as a ranking; fine-tuning has to close the gap.
#
# What is left to prove? The certificate names such groups and leaves them out of question 2. It still answers question 1
# for them, tensor by tensor, and both questions for everything else in the plan.

# %%
plan = pk.PruningPlan(
    {stream: 64, neurons: 256}, {stream: tuple(range(48)), neurons: tuple(range(128))}
)
small = pk.prune(segformer, seg_groups, plan)
certificate = pk.check_equivalence(segformer, small, seg_groups, plan, street)
print(fill(str(certificate), 40))

# %% [markdown]
# Is a fault inside an inexact group still found? Let two of its channels change places.

# %%
fault = copy.deepcopy(small)
weight = fault.encoder.stages[2].embed.proj.weight.data
weight[[0, 1]] = weight[[1, 0]]
complaint(lambda: pk.check_equivalence(segformer, fault, seg_groups, plan, street))

# %% [markdown]
# ## 10 · Heads and neurons
#
# Why does an attention head go as one? A head compares queries with keys by a sum over *its* positions. Take one position
# out of the query, and its partner in the key has nothing to meet; and there is no weight that reads the two, so there is
# no column to silence. A whole head is another matter: only the projection behind it reads what it makes. (Position $d$ of
# *all* heads can go too, in query and key alike; `find_groups(..., heads="dimension")` forms such units.) This is what one
# head and one neuron own:


# %% tags=["nbval-check-output"]
def owns(group):
    """One line per weight: how many positions a unit has there."""
    print(f"{group.kind}, one of {group.size}")
    for member in group.members:
        if member.tensor.endswith("weight"):
            layer = member.tensor.split(".")[-2]
            where = "rows" if member.dim == 0 else "columns"
            print(f"   {layer:10} {where:8}{member.index.shape[1]:3}")


heads = "encoder.stages.2.blocks.0.attention.query"
owns(seg_groups[heads])
owns(seg_groups[neurons])

# %% [markdown]
# A head owns sixteen rows in three layers and sixteen columns in a fourth; a neuron has one row, one depth-wise kernel, one
# column. So their prices differ, and a head brings something else along: the products of queries, keys and values, which
# have no weights at all. `plan_macs` counts a plan from the groups alone (`prunekit/plan.py`).

# %% tags=["nbval-check-output"]
from prunekit.plan import plan_macs, plan_params

whole = pk.PruningPlan({}, {})
for name in (heads, neurons):
    size, products = seg_groups[name].size, seg_groups.unit_macs.get(name, 0)
    less = pk.PruningPlan({name: size}, {name: tuple(range(size - 1))})
    params = plan_params(seg_groups, whole) - plan_params(seg_groups, less)
    macs = plan_macs(seg_groups, whole) - plan_macs(seg_groups, less)
    print(f"one {seg_groups[name].kind:6} {params:5} params {macs / 1e3:6.1f} k MACs")
    print(f"   {products / macs:.0%} of the MACs have no weights")

# %% [markdown]
# **What to see.** A head costs about as much as thirty neurons. Rank both in one list, and a head's score has to answer for
# all that. This is why scores are normalised within a group before groups are compared, or divided by what a unit costs.
#
# One more thing goes with a head. How many there are is written in the module's Python code, as a number. `pk.prune` sets
# it; a slice of the tensors alone would leave four, and reshape three heads into four without complaint.

# %% tags=["nbval-check-output"]
plan = pk.PruningPlan({heads: 4}, {heads: (0, 1, 3)})
small = pk.prune(segformer, seg_groups, plan)
for model in (segformer, small):
    attention = model.encoder.stages[2].blocks[0].attention
    print(attention.num_heads, "heads, queries", tuple(attention.query.weight.shape))
certificate = pk.check_equivalence(segformer, small, seg_groups, plan, street)
print("exact:", certificate.max_error < 1e-9 < certificate.control)

# %% [markdown]
# ## 11 · Break it
#
# A network that hides something from the engine, in six ways. In each cell the code between `a` and `b` is
# yours to change; so are the numbers to keep. There are three good ends: the cut is exact, the engine returns an *edited
# graph* in place of your class, or it refuses with a reason. A wrong network is none of them.


# %%
class Between(nn.Module):
    """a (8 channels) -> your code -> b (6 channels) -> c."""

    def __init__(self, code):
        super().__init__()
        self.a, self.b, self.c, self.code = conv3(3, 8), conv3(8, 6), conv3(6, 2), code

    def forward(self, x):
        return self.c(self.b(self.code(self.a(x))).relu())


def operate(model, keep):
    """Keep these units of the group `a`, and say what came of it."""
    groups = pk.find_groups(model, picture)
    plan = pk.PruningPlan({"a": groups["a"].size}, {"a": keep})
    small = pk.prune(model, groups, plan)
    certificate = pk.check_equivalence(model, small, groups, plan, picture)
    edited = isinstance(small, torch.fx.GraphModule)
    kind = "an edited graph" if edited else "your class"
    return f"{kind}, off by {certificate.max_error:.0e}"


complaint(lambda: operate(Between(lambda y: y.relu()), keep=(0, 2, 5, 7)))

# %% [markdown]
# ### Fault 1: an operation without a rule
#
# A running sum over channels: each channel holds all channels before it.

# %%
running = Between(lambda y: y.cumsum(dim=1))
complaint(lambda: operate(running, keep=(0, 2, 5, 7)))

# %% [markdown]
# *Why.* The engine has no rule for this operation. It could guess, and be silently wrong; it freezes `a` and says why. `b` is
# not touched by that and can still be pruned. Try `y.softmax(1)`: there is a rule, and it says no for another reason.
#
# ### Fault 2: sizes in the code
#
# The code asks for eight channels, whatever the weights say. Attention modules are full of lines like this one.

# %%
fixed = Between(lambda y: y * y.view(-1, 8, 256).mean(2)[:, :, None, None].sigmoid())
complaint(lambda: operate(fixed, keep=(0, 2, 5, 7)))

# %% [markdown]
# *Why.* No attribute holds that 8, so nothing could be set. The engine ran the pruned network on shapes alone, saw it fail,
# and took the recorded graph instead, with a 4 in the right place. What you get is a `GraphModule`: it trains, saves and
# exports, but it is not your class. Write `y.shape[1]` for 8, and you get your class back.
#
# ### Fault 3: a channel called by its number
#
# The code picks channel 3 by its number. Take channels 0 and 1 out, and the number points to another channel.

# %%
numbered = Between(lambda y: y * y[:, 3:4].sigmoid())
print("units in a:", pk.find_groups(numbered, picture)["a"].size, "of 8")
complaint(lambda: operate(numbered, keep=(2, 3, 4, 5, 6)))

# %% [markdown]
# *Why.* Everything would have run here, on the wrong channel. Channel 3 itself must stay, so it is in no group: seven units
# are left. And since its number changes, the recorded graph comes back, with the new number. Try `keep=(0, 1, 2, 4)`:
# nothing moves, and your own class is good enough.
#
# ### Fault 4: a grouped convolution, unevenly cut
#
# `g` is four convolutions side by side, each reading three of `a`'s twelve channels. You want to remove channel 0 only.


# %%
class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.g, self.b = conv3(3, 12), conv3(12, 8, groups=4), conv3(8, 2)

    def forward(self, x):
        return self.b(self.g(self.a(x).relu()).relu())


grouped = Grouped()
groups = pk.find_groups(grouped, picture)
eleven = pk.PruningPlan({"a": 12}, {"a": tuple(range(1, 12))})
complaint(lambda: pk.prune(grouped, groups, eleven))
print("a unit of a owns the rows", groups["a"].members[0].index[0].tolist())
complaint(lambda: operate(grouped, keep=(1, 2)))

# %% [markdown]
# *Why.* PyTorch stores the four as one tensor, so all four must stay equally wide. The labels say it in their way: channels
# 0, 3, 6 and 9 are *one* unit. A plan for twelve single channels does not fit, and is refused.
#
# ### Fault 5: a stale plan
#
# The plan was made for the dense network. You prune, forget, and prune again.

# %%
groups = pk.find_groups(net, picture)
plan = pk.PruningPlan({"0": 6}, {"0": (0, 2, 3)})
once = pk.prune(net, groups, plan)
complaint(lambda: pk.prune(once, groups, plan))

# %% [markdown]
# *Why.* In the small network, number 2 is what was number 3. The groups remember the shapes they were found on, and
# refuse. The same plan with *new* groups is refused as well: it says that it was made for six units.
#
# ### Fault 6: code that looks at its width

# %%
nosy = Between(lambda y: y if y.shape[1] > 4 else -y)
complaint(lambda: operate(nosy, keep=(0, 2, 5)))

# %% [markdown]
# *Why.* At eight channels the code takes one branch, at three the other. Tracing the network showed only the first, and
# every tensor is cut correctly. Nothing but the comparison of numbers could find this one. So ask for the certificate,
# always. (With `keep=(0, 1, 2, 3, 4)` there is nothing to find.)

# %% [markdown]
# ## 12 · Use it on your own model
#
# A RegNet has streams *and* grouped convolutions. Any timm name will do; so will your own `nn.Module`.

# %%
from prunekit.methods import l1

yours = timm.create_model("regnetx_002").eval()  # any nn.Module
x = torch.randn(1, 3, 224, 224)  # the input it was built for
groups = pk.find_groups(yours, x)
print(len(groups), "groups; frozen:", dict(groups.frozen))
plan = pk.budget_plan(groups, l1.score(yours, groups), macs_ratio=0.5)
small = pk.prune(yours, groups, plan)
print(fill(str(pk.check_equivalence(yours, small, groups, plan, x)), 40))
print(f"MACs left: {count_macs(small, x) / count_macs(yours, x):.2f}")

# %% [markdown]
# **What we simplified.** Our `Labels` walks long chains one step at a time; the library joins all of them at once with numpy.
# We wrote the rules' walk by hand beside `forward`; the library reads it off the exported graph. And a label here stands
# for a whole channel, where the library's can also follow a channel through reshapes into heads and positions.
#
# ## 13 · Quiz

# %%
quiz("02")

# %% [markdown]
# ## Key points
#
# - A mask asks, a slice ships. They agree only if the mask sits **where the unit is read**.
# - A sum, a product or a depth-wise layer ties makers. A concatenation ties nobody; it moves numbers.
# - Shapes that fit prove nothing.
# - Labels and `unite` find every tie: one number for each position, one small rule for each operation.
# - The certificate compares two roads to the same network, and has a control that must differ.
# - Norms over channels make a group inexact: masked and pruned are then two networks, both well defined.
# - What the engine does not know it freezes, with the reason.
#
# ## References
#
# Ties found on a graph are the subject of DepGraph (Fang et al. 2023). ResNets are He et al. 2016, DenseNets Huang et al.
# 2017, SegFormer Xie et al. 2021, layer normalization Ba et al. 2016; union-find and its speed are Tarjan 1975. All in the
# [list of references](../book/references.md).
#
# Now you can take out any channel you like. The next lessons ask which.

# %% tags=["volatile"]
course.footer()
