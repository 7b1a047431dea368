# %% [markdown]
# # Importance: what "unimportant" can mean
#
# {{badge}}
#
# {{minutes}}
#
# **You will be able to**
#
# - *name* five things that "unimportant" can mean, and the criterion that measures each,
# - *write* each of them in a few lines, and *check* it against brute force or a formula,
# - *predict* which criterion is fooled by a dead, a doubled, a loud or a constant channel,
# - *decide* when scores of different layers may be compared,
# - *read* a table of methods with its noise, and say honestly who won.
#
# **You need** [lesson 00](00_quickstart.ipynb) for the words (group, score, plan), and from
# [lesson 02](02_channel_surgery.ipynb) what a row and a column are.

# %%
import subprocess
import sys
from importlib.util import find_spec

if find_spec("prunekit") is None:  # on Colab and Kaggle
    package = "prunekit[onnx,quiz] @ git+{{repo}}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

from prunekit.course import check, quiz, setup, show

course = setup("03_importance", version="{{version}}")

# %% [markdown]
# ## 1 · The problem: who may go?
#
# A trained network looks at a street. Below are the 24 feature maps of one of its layers, as the next layer reads them.
#
# **Predict first.** Six of the 24 must go. Write down their numbers. How did you choose?

# %%
import torch

import prunekit as pk
from prunekit.course.tasks import load_task  # prunekit/course/tasks.py
from prunekit.models import zoo

task = load_task("scenes", train_count=200, test_count=50)
model = zoo.load("deeplabv3_mini")
street = task.examples(1)[0]
groups = pk.find_groups(model, street)
layer = "backbone.body.conv1.3"

# %% tags=["hide-input"]
from matplotlib import pyplot as plt

from prunekit.observe import see_maps  # prunekit/observe/maps.py

seen = {}
see_maps(
    model, groups.only([layer]), [(street, None)], seen.__setitem__, method="lesson"
)
maps = seen[layer][0, :, 0]


def draw_maps(maps, order, title):
    """All maps, four to a row, each on its own scale, in this order."""
    fig, axes = plt.subplots(6, 4, figsize=(5.6, 5.2), layout="constrained")
    for ax, i in zip(axes.flat, order):
        ax.imshow(maps[i], cmap="viridis", interpolation="nearest")
        ax.set_title(i, fontsize=10, pad=2)
        ax.set_axis_off()
    fig.suptitle(title, fontsize=11)
    return fig


show(
    draw_maps(maps, range(24), "24 feature maps of one layer"),
    alt="24 small feature maps of a street, numbered: some show edges, some surfaces, "
    "several look alike, a few are nearly empty.",
)

# %% [markdown]
# Most people take the empty ones, then one of two that look alike, then the ones that are "boring". Those are already
# three different ideas of what unimportant means. There are at least five:
#
# | idea | the channel may go when ... | criteria |
# | --- | --- | --- |
# | **magnitude** | its weights are small | L1, L2, slimming's $\gamma$, DepGraph |
# | **gradient** | the loss hardly moves without it | Taylor, DCFP |
# | **redundancy** | another one does the same | FPGM, CHIP |
# | **reconstruction** | the next layer can do without it | ThiNet |
# | **rank** | its map is made of few patterns | HRank |
#
# They look at different places:

# %% tags=["hide-input"]
from prunekit import viz

steps = [
    ("weights that make it", "magnitude, FPGM"),
    ("batch norm's scale", "slimming"),
    ("its map", "rank, CHIP"),
    ("what the next layer makes of it", "reconstruction"),
    ("the loss", "gradient"),
]
fig, ax = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
for y, ((place, ideas), color) in enumerate(zip(steps, viz.colors(5))):
    ax.text(0, -y, place, ha="center", va="center", fontsize=12)
    ax.text(0.62, -y, ideas, ha="left", va="center", fontsize=12, color=color)
    if y:
        arrow = {"arrowstyle": "-|>", "color": "0.5", "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", (0, 0.28 - y), (0, 0.72 - y), arrowprops=arrow)
ax.text(0, 0.6, "the way of a channel", ha="center", style="italic", fontsize=11)
ax.text(0.62, 0.6, "looked at by", style="italic", fontsize=11)
ax.set(xlim=(-0.6, 1.3), ylim=(-4.4, 0.9))
ax.set_axis_off()
show(
    fig,
    alt="The way of a channel from top to bottom: weights, batch norm, map, the next "
    "layer's output, the loss; beside each place the ideas that look at it.",
)

# %% [markdown]
# The further down, the more a criterion knows about *your* task, and the more it costs: data, a forward pass, a backward
# pass.
#
# | letter | meaning |
# | --- | --- |
# | $s_i$ | score of channel $i$; higher means keep |
# | $w_i$ | all weights that make channel $i$: a row of the maker |
# | $x_i$ | its map, $H \times W$ numbers for each image, as the next layer reads it |
# | $v_i$ | the column of the reader that belongs to it |
# | $g_i$ | a gate on it; 1 = as it is, 0 = removed |
# | $L$ | the loss |
# | $U$ | channels in the layer |

# %% [markdown]
# ## 2 · A network in which we know the truth
#
# Who is right? In a real network nobody can say. So you build one in which four channels are worthless *by
# construction*. It begins as two small convolutions that learn to label streets, at a quarter of the pixels, for a few
# seconds.

# %%
from torch import nn

from prunekit.train import segmentation_loss  # prunekit/train/loss.py


def toy(channels):
    """Layer 0 makes, 1 is the norm, 3 reads: twelve classes at every pixel."""
    make = nn.Conv2d(3, channels, 3, padding=1, bias=False)
    read = nn.Conv2d(channels, 12, 1)
    return nn.Sequential(make, nn.BatchNorm2d(channels), nn.ReLU(), read)


def small_batches(data, count):
    """Batches of 16 scenes at half width and height, from the first on."""
    pairs = [data[i] for i in range(16 * count)]
    images = torch.stack([image[:, ::2, ::2] for image, _ in pairs])
    masks = torch.stack([mask[::2, ::2] for _, mask in pairs])
    return list(zip(images.split(16), masks.split(16)))


# %%
batches, test_batches = small_batches(task.train, 4), small_batches(task.test, 2)
torch.manual_seed(0)
eight = toy(8)
optimizer = torch.optim.Adam(eight.parameters(), lr=0.02)
for step in range(120):
    x, target = batches[step % 4]
    loss = segmentation_loss(eight(x), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
eight.eval()


def loss_of(net, batches=test_batches):
    with torch.no_grad():
        return sum(segmentation_loss(net(x), y).item() for x, y in batches) / len(
            batches
        )


print(f"loss of the eight: {loss_of(eight):.3f}")

# %% [markdown]
# Now four stowaways come on board, and the network must not notice:
#
# | number | name | how it is made |
# | --- | --- | --- |
# | 8 | **dead** | ordinary weights, but shifted so far down that ReLU never opens |
# | 9 | **twin** | a copy of channel 3; the reader's column is split between the two |
# | 10 | **loud** | large weights, a large map; the reader's column is zero |
# | 11 | **flat** | no weights, a shift of 2: its map is 2 everywhere; the reader's bias makes up for it |


# %%
def plant(net):
    """The same function, with four channels more."""
    big = toy(12).eval()
    (make, norm, _, read), (old, old_norm, _, old_read) = big, net
    with torch.no_grad():
        new = torch.stack([old.weight[1].flip(2), old.weight[3], 3 * make.weight[10]])
        make.weight.copy_(torch.cat([old.weight, new, torch.zeros_like(new[:1])]))
        for name in ("weight", "bias", "running_mean", "running_var"):
            value = getattr(old_norm, name)
            four = torch.stack([value[1], value[3], value[0], value[0]])
            getattr(norm, name).copy_(torch.cat([value, four]))
        norm.bias[8], norm.weight[10], norm.bias[11] = -30.0, 3.0, 2.0
        norm.running_mean[10:] = 0
        columns = torch.zeros(12, 4, 1, 1)
        columns[:, 0], columns[:, 1] = old_read.weight[:, 1], old_read.weight[:, 3] / 2
        columns[:, 3] = 0.2 * torch.randn(12, 1, 1)
        read.weight.copy_(torch.cat([old_read.weight, columns], 1))
        read.weight[:, 3] /= 2
        read.bias.copy_(old_read.bias - 2 * columns[:, 3, 0, 0])
    return big


# %% tags=["nbval-check-output"]
torch.manual_seed(1)
net = plant(eight)
names = {8: "dead", 9: "twin", 10: "loud", 11: "flat"}
with torch.no_grad():
    error = (net(batches[0][0]) - eight(batches[0][0])).abs().max().item()
print("the same outputs:", error < 1e-4)

# %% [markdown]
# **Predict first.** Dead, twin, loud, flat: all four can go without loss (the twin if its brother takes over, the flat one
# if the bias does). Which of the five ideas finds which? Fill a table of five rows and four columns with ticks. Section 8
# has the answer, and one of its rows surprises nearly everybody.
#
# The makers' weights, and the maps on the first batch, will be needed all along. The library needs to know the network's
# only group, which is named after layer `0`.

# %%
weight = net[0].weight.detach()
x, target = batches[0]
with torch.no_grad():
    maps = net[:3](x)  # (B, U, H, W), after norm and ReLU
toy_groups = pk.find_groups(net, x)
print("weights", tuple(weight.shape))
print("maps   ", tuple(maps.shape))
print(toy_groups)

# %% [markdown]
# ## 3 · Magnitude: small weights, small channel
#
# The oldest idea: a filter with small weights makes a small map, and a small map changes little.
#
# $$s_i = \sum |w_i|$$
#
# ### Exercise 1 ★ (3 minutes): L1
#
# `check` (`prunekit/course/checks.py`) runs your function on small examples. If you are stuck: `hint("03.1")`.


# %% tags=["nbval-check-output"]
def l1_scores(weight):
    """weight (U, C, k, k) of the layer that makes U channels -> (U,)."""
    return None  # your code here


check("03.1", l1_scores)

# %% [markdown]
# {{solution 03.1}}
#
# Here is ours, and beside it what the library says (`prunekit/methods/l1.py`).

# %% tags=["nbval-check-output"]
from prunekit.methods import l1

scores = {"L1": weight.abs().flatten(1).sum(1)}
same = torch.allclose(scores["L1"].double(), l1.score(net, toy_groups)["0"])
print("as in the library:", same)
for i in scores["L1"].argsort().tolist()[:3]:
    print(f"channel {i:2} {names.get(i, '')}")

# %% [markdown]
# **Check it: what does it measure?** Multiply a filter by 10. A batch norm follows, which divides by the spread of what it
# gets, so with the norm's statistics multiplied too, *the network is the same function*. The score is not.


# %%
def louder(net, channel, factor):
    """The same function; one filter and the norm's statistics multiplied."""
    other = plant(eight)
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        other[0].weight[channel] *= factor
        other[1].running_mean[channel] *= factor
        other[1].running_var[channel] *= factor**2
    return other


# %% tags=["nbval-check-output"]
other = louder(net, 0, 10)
before = l1.score(net, toy_groups)["0"]
after = l1.score(other, toy_groups)["0"]
with torch.no_grad():
    error = (other(x) - net(x)).abs().max().item()
print("the same outputs:", error < 1e-2)
print(f"L1 of channel 0: times {after[0] / before[0]:.0f}")

# %% [markdown]
# **What to see.** In front of a batch norm the size of a filter is an accident of training. Network slimming looks one step
# further: at the norm's scale $\gamma_i$, which the factor does not touch. In the paper the network is trained with a penalty
# on $\sum|\gamma_i|$, which pulls every scale that the task does not hold towards zero.

# %% tags=["nbval-check-output"]
from prunekit.methods import slimming

scores["slimming"] = net[1].weight.detach().abs()
library = slimming.score(net, toy_groups)["0"]
assert torch.allclose(scores["slimming"].double(), library)
same = torch.equal(library, slimming.score(other, toy_groups)["0"])
print("slimming is not fooled by the factor:", same)

# %% [markdown]
# ## 4 · Gradient: would the loss notice?
#
# Put a gate $g_i = 1$ on every channel and ask how the loss changes when it is turned. To first order, removing the channel
# changes $L$ by $-\partial L / \partial g_i$. Up or down, a large change says that the channel matters, so it is squared, and averaged
# over batches:
#
# $$s_i = \Bigl(\frac{\partial L}{\partial g_i}\Bigr)^2, \qquad \frac{\partial L}{\partial g_i} = \sum_{\text{images, pixels}} x_i \frac{\partial L}{\partial x_i}$$


# %%
def gated_loss(gate, x, target):
    """The loss with channel i's map multiplied by gate[i]."""
    maps = net[:3](x) * gate[:, None, None]
    return segmentation_loss(net[3](maps), target)


def gate_gradient(x, target):
    gate = torch.ones(12, requires_grad=True)
    return torch.autograd.grad(gated_loss(gate, x, target), gate)[0]


scores["Taylor"] = torch.stack([gate_gradient(*b) ** 2 for b in batches]).mean(0)

# %% [markdown]
# **Check it** twice: by finite differences (turn each gate a little by hand), and by what the derivative stands for: take
# the channel out and measure.

# %% tags=["nbval-check-output"]
gradient, h = gate_gradient(x, target), 0.01
one = torch.eye(12)
with torch.no_grad():
    up = torch.stack([gated_loss(1 + h * one[i], x, target) for i in range(12)])
    down = torch.stack([gated_loss(1 - h * one[i], x, target) for i in range(12)])
    gone = torch.stack([gated_loss(1 - one[i], x, target) for i in range(12)])
    now = gated_loss(torch.ones(12), x, target)
slope = (up - down) / (2 * h)
print("finite differences agree:", torch.allclose(gradient, slope, atol=1e-3))

# %% tags=["hide-input"]
fig, ax = plt.subplots(figsize=(4.8, 4.2), layout="constrained")
true, guess = (gone - now).tolist(), (-gradient).tolist()
ax.axhline(0, color="0.85", lw=1)
ax.axvline(0, color="0.85", lw=1)
ends = [min(guess), max(guess)]
ax.plot(ends, ends, color="0.6", lw=1)
spots = {}  # channels that lie on one another share a label
for i, spot in enumerate(zip(guess, true)):
    ax.plot(*spot, "o", color=viz.colors(4)[3 if i in names else 0])
    near = round(spot[0] / 0.004), round(spot[1] / 0.02)
    spots.setdefault(near, (spot, []))[1].append(str(names.get(i, i)))
for spot, labels in spots.values():
    text = ", ".join(labels)
    ax.annotate(text, spot, (5, 5), textcoords="offset points", fontsize=11)
ax.set_xlabel("change of the loss, first order", fontsize=11)
ax.set_ylabel("change of the loss, measured", fontsize=11)
ax.spines[["top", "right"]].set_visible(False)
show(
    fig,
    alt="Each channel's measured change of the loss against the first-order guess: "
    "dead and loud lie at zero; most others are far above the line of agreement.",
)

# %% [markdown]
# **What to see.** Dead and loud sit exactly at zero: the loss does not notice them, however large they are. The others are
# far above the grey line, on which guess and truth agree. Look at channel 7: its slope is next to nothing, and without it the
# loss rises all the same. A trained network stands where slopes are small, but a gate that goes from 1 all the way to 0
# leaves the neighbourhood in which a slope means something. Taylor knows who does *nothing*; for the rest it guesses.
#
# ### Exercise 2 ★★ (5 minutes): the gate that is not there
#
# Nobody has to build gates: the second formula above needs only the maps and the loss's gradient with respect to them.
# The loss is already a mean over the batch. Give the score of one batch.


# %% tags=["nbval-check-output"]
def taylor_scores(maps, gradient):
    """maps, gradient = dL/dmaps, both (B, U, H, W) -> (U,)."""
    return None  # your code here


check("03.2", taylor_scores)

# %% [markdown]
# {{solution 03.2}}

# %% tags=["nbval-check-output"]
from prunekit.methods import taylor

library = taylor.score(net, toy_groups, batches)["0"]
assert torch.allclose(scores["Taylor"].double(), library, rtol=1e-3, atol=1e-9)
print("first to go:", [names.get(i, i) for i in library.argsort().tolist()[:4]])
print("louder() changes nothing:", end=" ")
print(torch.allclose(taylor.score(other, toy_groups, batches)["0"], library, rtol=0.01))

# %% [markdown]
# ## 5 · Redundancy: does another one do the same?
#
# Importance is not a property of one channel alone. FPGM adds up how far a filter is from all the others: whoever sits in
# the middle of the crowd can be replaced by it.
#
# $$s_i = \sum_j \lVert w_i - w_j \rVert$$
#
# ### Exercise 3 ★ (4 minutes): the middle of the crowd


# %% tags=["nbval-check-output"]
def fpgm_scores(weight):
    """weight (U, C, k, k) -> (U,): sum of distances to all other filters."""
    return None  # your code here


check("03.3", fpgm_scores)

# %% [markdown]
# {{solution 03.3}}

# %% tags=["nbval-check-output"]
from prunekit.methods import fpgm

rows = weight.flatten(1).double()
scores["FPGM"] = torch.cdist(rows, rows).sum(1)
brute = [sum((a - b).norm() for b in rows) for a in rows]
assert torch.allclose(scores["FPGM"], torch.stack(brute), atol=1e-4)
library = fpgm.score(net, toy_groups)["0"]
assert torch.allclose(scores["FPGM"], library, atol=1e-4)
print("first to go:", [names.get(i, i) for i in library.argsort().tolist()[:3]])

# %% [markdown]
# CHIP asks the same of the *maps*. Write them as rows of a matrix $A$ ($U$ rows, $H \cdot W$ columns). Its **nuclear norm**
# $\lVert A \rVert_*$, the sum of its singular values, says how much independent content there is. A channel is worth what
# disappears with it:
#
# $$s_i = \lVert A \rVert_* - \lVert A_{\text{without row } i} \rVert_*$$


# %%
def independence(rows):
    """rows (U, N) -> (U,): what is lost of the nuclear norm with each row."""

    def content(a):
        return torch.linalg.matrix_norm(a, "nuc")

    others = [torch.cat([rows[:i], rows[i + 1 :]]) for i in range(len(rows))]
    return content(rows) - torch.stack([content(a) for a in others])


# %% [markdown]
# **Check it** on three rows where you know the answer: two twins of length 1, and one of length 1 at right angles to both.
# The twins together have the singular value $\sqrt 2$; one of them alone has 1. So each twin is worth $\sqrt 2 - 1 = 0.41$,
# and the loner is worth 1.

# %% tags=["nbval-check-output"]
three = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]])
print([f"{value:.2f}" for value in independence(three).tolist()])

# %% tags=["nbval-check-output"]
from prunekit.methods import chip

per_image = [independence(image.flatten(1).double()) for image in maps]
scores["CHIP"] = torch.stack(per_image).mean(0)
library = chip.score(net, toy_groups, batches[:1])["0"]
assert torch.allclose(scores["CHIP"], library, rtol=1e-3, atol=1e-3)
order = (library / library.max() * 1e4).round().argsort(stable=True)  # twins tie
print("first to go:", [names.get(i, i) for i in order.tolist()[:5]])

# %% [markdown]
# Ours decomposes thirteen matrices for each image, the library one: it reads all answers off a single decomposition
# (`prunekit/methods/chip.py` says how).
#
# **A trap.** *Both* twins get a low score, since each can be replaced by the other. Whoever cuts by score takes both, and
# then nobody is left to stand in. Scores are given one at a time; a cut takes many at once.

# %% [markdown]
# ## 6 · Reconstruction: can the next layer do without?
#
# The reader computes $\sum_j v_j x_j$ at every pixel. Remove the channels $R$, and what it loses is $\sum_{j \in R} z_j$ with
# $z_j = v_j x_j$. ThiNet looks for the set that loses least:
#
# $$\min_R \; \sum_{\text{pixels}} \Bigl\lVert \sum_{j \in R} z_j \Bigr\rVert^2 \; = \; \min_R \sum_{j,k \in R} M_{jk}, \qquad M_{jk} = \sum_{\text{pixels}} z_j \cdot z_k$$
#
# One pass over the data gives $M$; from then on it is arithmetic. The greedy search takes, one after the other, the channel
# that adds least.


# %%
def shared_output(net, batches):
    """M (U, U): what the channels' contributions to the reader have in common."""
    v = net[3].weight.detach().flatten(1).double()
    gram = torch.zeros(12, 12, dtype=torch.float64)
    for x, _ in batches:
        flat = net[:3](x).detach().double().movedim(1, 0).flatten(1)
        gram += flat @ flat.T
    return gram * (v.T @ v)


def greedy(M):
    """The order in which channels go."""
    gone = []
    while len(gone) < len(M):
        left = [j for j in range(len(M)) if j not in gone]
        gone.append(min(left, key=lambda j: M[[*gone, j]][:, [*gone, j]].sum()))
    return gone


# %% [markdown]
# **Check it.** Twelve channels, four to remove: 495 sets. Few enough to try them all.

# %% tags=["nbval-check-output"]
from itertools import combinations

from prunekit.methods import thinet

M = shared_output(net, batches)
lost = {R: M[list(R)][:, list(R)].sum().item() for R in combinations(range(12), 4)}
best, order = min(lost, key=lost.get), greedy(M)
print("best of 495:", [names.get(i, i) for i in sorted(best)])
print("greedy     :", [names.get(i, i) for i in sorted(order[:4])])
rank_of_greedy = sorted(lost.values()).index(lost[tuple(sorted(order[:4]))]) + 1
print("greedy is number", rank_of_greedy, "of 495")
scores["ThiNet"] = torch.tensor(order).argsort().double()
library = thinet.score(net, toy_groups, batches, samples=32 * 64)["0"]
assert torch.equal(scores["ThiNet"], library)

# %% [markdown]
# ### The other half: repair
#
# ThiNet does not stop at the choice. After the cut the reader gets *new weights*, those that come nearest to its old output
# $Y$ from what is left, $X'$. That is least squares, with one solution:
#
# $$\min_{W'} \lVert Y - X' W' \rVert^2$$
#
# ### Exercise 4 ★★ (6 minutes): repair the reader
#
# `torch.linalg.lstsq(A, B).solution` finds the matrix that makes `A @ matrix` nearest to `B`.


# %% tags=["nbval-check-output"]
def refit(X, W, keep):
    """Inputs X (N, U), old W (U, O), keep: list -> new W (len(keep), O)."""
    return None  # your code here


check("03.4", refit)

# %% [markdown]
# {{solution 03.4}}
#
# In our network: cut the four stowaways, and look at the loss before and after the repair. The ones in the last column
# stand for the bias, so that it can be fitted too. (The library's `prunekit/reconstruct.py` does the same for all layers
# of any network.)


# %%
def cut(net, gone):
    """A new toy without these channels."""
    keep = [i for i in range(12) if i not in gone]
    plan = pk.PruningPlan({"0": 12}, {"0": tuple(keep)})
    return pk.prune(net, toy_groups, plan), plan


def repaired(net, small, keep):
    """Give small's reader the weights that come nearest to net's outputs."""
    maps = torch.cat(
        [net[:3](x).detach().movedim(1, -1).flatten(0, 2) for x, _ in batches]
    )
    X = torch.cat([maps, torch.ones(len(maps), 1)], 1).double()
    W = torch.cat([net[3].weight.detach().flatten(1), net[3].bias.detach()[:, None]], 1)
    new = torch.linalg.lstsq(X[:, [*keep, 12]], X @ W.T.double()).solution.float()
    small[3].weight.data = new[:-1].T[:, :, None, None].contiguous()
    small[3].bias.data = new[-1].contiguous()
    return small


# %% tags=["nbval-check-output"]
from prunekit.reconstruct import reconstruct  # prunekit/reconstruct.py

small, plan = cut(net, gone=[8, 9, 10, 11])
print(f"all twelve       {loss_of(net):.2f}")
print(f"stowaways cut    {loss_of(small):.2f}")
library = reconstruct(net, small, toy_groups, plan, batches, samples=32 * 64)
ours = repaired(net, small, plan.keep["0"])
print(f"reader repaired  {loss_of(ours):.2f}")
print("as in the library:", abs(loss_of(ours) - loss_of(library)) < 1e-3)

# %% [markdown]
# **What to see.** Cutting four worthless channels *hurts*: the twin took half of its brother's weight along, the flat one
# left its bias behind. Repaired, the loss is that of the eight again. "Unimportant" depends on whether somebody may clean up
# afterwards.

# %% [markdown]
# ## 7 · Rank: how many patterns?
#
# HRank takes each map as a matrix and counts its linearly independent rows. A map made of few patterns has a low rank; the
# paper finds that the mean rank hardly depends on which images are shown, so a few will do.
#
# $$s_i = \frac{1}{B} \sum_{\text{images}} \operatorname{rank}(x_i)$$
#
# ### Exercise 5 ★ (4 minutes): mean rank


# %% tags=["nbval-check-output"]
def rank_scores(maps):
    """maps (B, U, H, W) -> (U,) float."""
    return None  # your code here


check("03.5", rank_scores)

# %% [markdown]
# {{solution 03.5}}

# %% tags=["nbval-check-output"]
from prunekit.methods import hrank

column, row = torch.rand(32, 1), torch.rand(1, 64)
print("one pattern:", torch.linalg.matrix_rank(column * row).item(), end="; ")
print("noise:", torch.linalg.matrix_rank(torch.rand(32, 64)).item())
scores["HRank"] = torch.linalg.matrix_rank(maps).double().mean(0)
library = hrank.score(net, toy_groups, batches[:1])["0"]
assert torch.equal((library * 16).floor() / 16, scores["HRank"])
for i in range(6, 12):
    print(f"channel {names.get(i, i)}: mean rank {scores['HRank'][i]:.1f}")

# %% [markdown]
# **What to see.** Dead has rank 0 and flat has rank 1. Noise has full rank, and so has any busy map: rank counts patterns,
# not whether anybody wants them. On small maps most channels tie (here most reach 32). The library breaks ties by energy.

# %% [markdown]
# ## 8 · Who finds whom
#
# The answer to your prediction. For each criterion, the places of the planted channels when all twelve are put in order: 1
# is the first to go. Places 1 to 4 would be cut. The last two columns are the loss after cutting the four lowest, without and
# with repair.

# %% tags=["nbval-check-output"]
print(f"{'':9}{'dead':>5}{'twin':>5}{'loud':>5}{'flat':>5}{'cut':>7}{'+repair':>8}")
for name, score in scores.items():
    order = (score / score.max() * 1e4).round().argsort(stable=True).tolist()
    places = [order.index(i) + 1 for i in names]
    small, plan = cut(net, order[:4])
    losses = loss_of(small), loss_of(repaired(net, small, plan.keep["0"]))
    print(f"{name:9}" + "".join(f"{p:5}" for p in places), end="")
    print(f"{losses[0]:7.2f}{losses[1]:8.2f}")
print(f"{'(eight)':29}{loss_of(eight):7.2f}")

# %% [markdown]
# **What to see.** No row has 1, 2, 3 and 4 in it.
#
# - Magnitude calls the loud one the best of all, and slimming, which looks at one number for each channel, finds nobody.
#   Weights cannot show that a ReLU never opens.
# - Gradient and reconstruction see through dead, loud and flat, since they look *behind* the reader.
# - Only CHIP finds the twin, and it takes the brother along: the loss jumps to 1.
# - The flat one goes first for everybody who looks at weights: it has none. And yet cutting it without repair costs.
# - The last column: repaired, even the poor choices lose much less. And a good choice is as good as the eight.
#
# Each criterion answers its own question, correctly. The questions differ.

# %% [markdown]
# ## 9 · One layer, or the whole network?
#
# So far all channels were of one layer. A network has many, and there are two ways to share out the cut:
#
# - **layer-wise** (*uniform*): the same fraction from every layer; scores are compared within a layer only,
# - **global**: one list of all channels of the network; layers with many low scores lose more.
#
# Global sounds better: let the scores decide. But a score has a scale. Here are the mean L1 scores of some layers of the
# mini DeepLabV3:

# %% tags=["nbval-check-output"]
whole = l1.score(model, groups)
for name in list(whole)[:12:2]:
    print(f"{name:30}{whole[name].mean():6.1f}")

# %% [markdown]
# A filter that reads 96 channels has more weights than one that reads 3, so its L1 is larger, whatever it is worth. Put in
# one list, the narrow layers at the front go first. The remedy in `pk.global_plan` is to divide each layer's scores by
# their mean (`normalize="mean"`).
#
# ### Exercise 6 ★★ (6 minutes): one list
#
# Given the scores of several layers, divide each by its mean, put all in one list, and remove the `count` lowest. How many
# does each layer lose?


# %% tags=["nbval-check-output"]
def lost_per_layer(scores, count):
    """scores: list of (U,) tensors, one a layer -> list of int."""
    return None  # your code here


check("03.6", lost_per_layer)

# %% [markdown]
# {{solution 03.6}}
#
# **Check it** with a network that computes the same as ours, in which one layer's filters are ten times larger (and the
# norm behind it is told). A sensible plan must not change.

# %%
import copy

scaled = copy.deepcopy(model)
state = scaled.state_dict()
for member in groups[layer].members:
    if member.role == "producer" or member.tensor.endswith("running_mean"):
        state[member.tensor] *= 10
    elif member.tensor.endswith("running_var"):
        state[member.tensor] *= 100

# %% tags=["nbval-check-output"]
from prunekit.plan import global_plan

for normalize in ("none", "mean"):
    plans = [
        global_plan(groups, l1.score(m, groups), 0.3, normalize=normalize)
        for m in (model, scaled)
    ]
    kept = [len(plan.keep[layer]) for plan in plans]
    print(f"{normalize}: of 24 stay {kept[0]}, with larger filters {kept[1]}")

# %% [markdown]
# Now with real numbers: 20 % of the MACs removed, no fine-tuning, mIoU on 50 scenes. Three criteria, three ways to share.


# %%
from prunekit.metrics import evaluate
from prunekit.plan import Limits, budget_plan, plan_macs


def raw_global(scores, macs_ratio):
    """The gentlest global plan without normalisation that meets the budget."""
    dense = plan_macs(groups, global_plan(groups, scores, 0.0))
    for ratio in torch.linspace(0.02, 0.6, 30).tolist():
        plan = global_plan(groups, scores, ratio, normalize="none")
        if plan_macs(groups, plan) <= (1 - macs_ratio) * dense:
            return plan


def miou_of(plan):
    small = pk.prune(model, groups, plan)
    return evaluate(small, task.test_loader(), len(task.classes)).miou


# %%
from prunekit.methods import random

looked_at = [batch for batch, _ in zip(task.train_loader(16), range(2))]
whole = {
    "random": random.score(model, groups),
    "L1": l1.score(model, groups),
    "slimming": slimming.score(model, groups),
    "Taylor": taylor.score(model, groups, looked_at, loss_fn=task.loss),
}
exact = Limits(round_to=1)  # any width, not only multiples of 8
print(f"dense {evaluate(model, task.test_loader(), 12).miou:.2f}")
print(f"{'':10}{'layer-wise':>11}{'global':>8}{'raw global':>12}")
for name, score in whole.items():
    plans = [
        budget_plan(groups, score, macs_ratio=0.2, limits=exact),
        budget_plan(groups, score, macs_ratio=0.2, how="uniform", limits=exact),
    ]
    values = miou_of(plans[1]), miou_of(plans[0]), miou_of(raw_global(score, 0.2))
    print(f"{name:10}{values[0]:11.2f}{values[1]:8.2f}{values[2]:12.2f}")

# %% [markdown]
# **What to see.** First: before fine-tuning, criteria differ *a lot*, and L1 is no better than random channels. Second: no
# column is the best in every row. L1's raw list empties the first layers and ruins the network. For Taylor the raw list is
# by far the best: its score means the same everywhere, a change of one and the same loss, and dividing by the layer's mean
# throws that away. Slimming is safest layer by layer. So ask what a score's unit is before you compare it across layers;
# and mind that normalising is a belief too, that all layers are equally worth keeping on average.

# %% [markdown]
# ## 10 · And after fine-tuning?
#
# Nobody ships a network right after the cut. So here is a small piece of the course's bench, live: three methods, the same
# plan's widths, the same 40 steps of fine-tuning on the same images in the same order (`prunekit/course/bench.py`).

# %%
from dataclasses import replace

from prunekit.course import bench
from prunekit.course.presets import BENCH

preset = BENCH["mini"]
training = replace(preset.training, tune_steps=40, batch=8)
live = replace(preset, training=training, score_batches=2)
print("50 test scenes    before  after fine-tuning")
for method in ("random", "l1", "slimming"):
    run = bench.Run(method, 0.2, seed=0)
    found = bench.one(live, run, task, model, groups, street, course.out)
    print(f"{method:16}{found['miou_before_tuning']:8.2f}{found['miou']:8.2f}")

# %% [markdown]
# **What to see.** What was far apart before is close together after less than a minute of training. Is the order of the
# right column a result, or is it chance? One run cannot say. So the bench repeats everything with other seeds, each of which
# changes the order of the images, the images that criteria look at, and what is drawn at random.
#
# ### The rule
#
# Two methods count as different only when their means are more than **three standard errors** apart:
#
# $$|\bar a - \bar b| > 3 \, s \sqrt{1/n_a + 1/n_b}$$
#
# $s$ is the spread over seeds, pooled over all methods of the table. Why three and not two? Because a table of ten methods
# gives chance ten opportunities. Try it: ten methods that are *equally good*, three seeds each, a thousand tables.

# %% tags=["nbval-check-output"]
dice = torch.Generator().manual_seed(0)
runs = 0.6 + 0.01 * torch.randn(1000, 11, 3, generator=dice)  # the first is random
spread = runs.var(2).mean(1).sqrt()
apart = (runs[:, 1:].mean(2) - runs[:, :1].mean(2)).abs()
for errors in (1, 2, 3):
    margin = errors * spread * (2 / 3) ** 0.5
    fooled = (apart > margin[:, None]).any(1).float().mean()
    print(f"{errors} standard errors: {fooled:.0%} of the tables")

# %% [markdown]
# So often does a table name a winner or a loser where there is none. The bench is a little stricter still: where the two
# methods have a larger spread of their own, that one counts.
#
# ### The table
#
# All criteria of this lesson and more, at half of the work, drawn from the [ledger](../book/bench.md): nothing is typed in
# by hand. `open` means fewer than three seeds so far.

# %%
from prunekit.course import verdict

records = bench.stored(preset, 0.5)
rows = verdict.standings(records)
print(verdict.table(rows) if rows else "The ledger is in the clone; the book shows it.")

# %% tags=["hide-input"]
from prunekit.course import plots

values = {
    row.method: [r.metrics["miou"] for r in records if r.method == row.method]
    for row in rows
}
margins = [row.margin for row in rows if row.margin == row.margin]
middle = next((row.miou for row in rows if row.method == "random"), 0)
band = (middle - min(margins), middle + min(margins)) if margins else None
show(
    plots.strips(values, label="mIoU after fine-tuning", band=band, bold=["random"]),
    alt="One row a method, a dot for each seed, half of the MACs removed: most methods "
    "lie within a few hundredths of mIoU of each other and of random channels.",
)

# %% tags=["hide-input"]
before = {
    row.method: [
        r.metrics["miou_before_tuning"] for r in records if r.method == row.method
    ]
    for row in sorted(rows, key=lambda row: -row.before)
}
show(
    plots.strips(
        before, label="mIoU before fine-tuning", bold=["thinet", "random+repair"]
    ),
    alt="The same methods before fine-tuning: those with a repaired reader keep most "
    "of their mIoU, all the others are near zero.",
)

# %% [markdown]
# **Read it honestly.** A grey band, where there is one, is what the rule calls noise around random channels. A method in the
# band has not been shown to be better than chance *here*: on a small network with little to spare, with a short
# fine-tuning. That is a finding about this setting, and no proof that criteria are worthless. Published tables often show
# one seed.
#
# The second figure is the louder message. At half of the work every choice of channels ruins the network, and *any* choice
# with a repaired reader survives, random ones too. Before you compare ways to choose, look at what is done after the
# choice.

# %% [markdown]
# ## 11 · Explore and break it
#
# Back to the first picture. The same 24 maps, in the order of their Taylor score. Are your six in the last rows?

# %%
order = whole["Taylor"][layer].argsort(descending=True).tolist()
maps = seen[layer][0, :, 0]
show(
    draw_maps(maps, order, "by Taylor score, highest first"),
    alt="The 24 maps of the first figure, sorted by Taylor score: the sky comes first, "
    "and bright maps of the road are among the last.",
)

# %% [markdown]
# Bright is not important: the road fills several maps, and some of them are among the last. Try `whole["L1"]`, or
# `"slimming"`: three criteria, three orders. Other layers, other streets, the best and the worst
# channels are in the explorer (`prunekit/widgets/channels.py`); where Python runs you can choose.

# %%
from prunekit.widgets import explore_channels

explore_channels(model, groups, whole["Taylor"], task.examples(2)[0], group=layer)

# %% [markdown]
# And now things that go wrong. Each message says what to do.

# %% tags=["nbval-check-output"]
from textwrap import fill


def complaint(call):
    """Run it and print what it says when it refuses."""
    try:
        print("no complaint:", call())
    except pk.PrunekitError as error:
        print(fill(f"{type(error).__name__}: {error}", 44), "\n")


complaint(lambda: taylor.score(model, groups))  # no data
complaint(lambda: slimming.score(toy(8), pk.find_groups(toy(8), x)))  # untrained
poisoned = x.clone()
poisoned[0, 0, 0, 0] = torch.nan
complaint(lambda: chip.score(net, toy_groups, [(poisoned, target)]))
transformer = zoo.load("segformer_mini")
mlp = pk.find_groups(transformer, street).only(["encoder.stages.0.blocks.0.mlp.fc1"])
complaint(lambda: hrank.score(transformer, mlp, [(street, None)]))

# %% [markdown]
# ## 12 · Use it on your own model
#
# Any criterion fits `pk.slim`. One that needs data gets it by `partial`. Use a few batches of *your* data and *your* loss;
# here both are made up.

# %%
from functools import partial

import timm
import torch.nn.functional as F

yours = timm.create_model("resnet10t", num_classes=10).eval()
images = torch.randn(8, 3, 64, 64)
labels = torch.arange(8)
score = partial(taylor.score, batches=[(images, labels)], loss_fn=F.cross_entropy)
slimmed = pk.slim(yours, images[:1], macs_ratio=0.5, score=score)
print(f"MACs left: {slimmed.after.macs / slimmed.before.macs:.2f}")

# %% [markdown]
# **What we simplified.** Slimming, CAP and DCFP are training methods; we score with them on the network as it is. HRank and
# CHIP are meant for large maps. FPGM's paper prunes softly while training. And our table has one network, trained once: for
# another network run `prunekit run bench --model segformer_mini`.
#
# ## 13 · Quiz

# %%
quiz("03")

# %% [markdown]
# ## Key points
#
# - "Unimportant" can mean small, insensitive, replaceable, unread or plain. Ask which, before you ask how much.
# - The size of a filter in front of a batch norm means nothing by itself.
# - A slope says what a small turn does. Removing is a large one.
# - Both twins look replaceable. Scores are given one by one, a cut takes many.
# - Scores of different layers may be compared only if they mean the same there.
# - Repairing the reader can do more than choosing well.
# - A winner needs seeds, a spread and a rule written down before the table.
#
# ## References
#
# L1: Li et al. 2017. Slimming: Liu et al. 2017. Taylor: Molchanov et al. 2019. FPGM: He et al. 2019. CHIP: Sui et al. 2021.
# ThiNet: Luo et al. 2017. HRank: Lin et al. 2020. DepGraph: Fang et al. 2023. CAP: He et al. 2021. DCFP: Wang et al. 2024.
# That random channels are hard to beat was found by Mittal et al. 2018. All in the [list of
# references](../book/references.md).

# %% tags=["volatile"]
course.footer()
