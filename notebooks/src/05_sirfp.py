# %% [markdown]
# # SIRFP: redundancy that knows where
#
# {{badge}}
#
# {{minutes}}
#
# **You will be able to**
#
# - *explain* why a criterion that forgets places is unkind to poles,
# - *measure* what two feature maps have in common, pixel by pixel, and for all pairs with one matrix product,
# - *find* the set of channels that differ most, greedily, and *judge* the result by brute force,
# - *turn* the order of removal into scores that one threshold can cut across layers,
# - *prune* a DeepLabV3 to a quarter of its work with it, and *compare* honestly.
#
# **You need** [lesson 00](00_quickstart.ipynb) for the words (group, score, plan) and
# [lesson 03](03_importance.ipynb) for redundancy and the trap of the twins.

# %%
import subprocess
import sys
from importlib.util import find_spec

if find_spec("prunekit") is None:  # on Colab and Kaggle
    package = "prunekit[quiz,solvers] @ git+{{repo}}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

from prunekit.course import check, quiz, setup, show

course = setup("05_sirfp", version="{{version}}")

# %% [markdown]
# ## 1 · The problem: a pole is two pixels wide
#
# A trained network, and a small act of vandalism: after its first stage, all feature maps are moved a little to the right.
# Every value is still there, only its place is wrong. (What leaves on the right comes in again on the left.)
#
# **Predict first.** One pixel of such a map is two pixels of the image. The maps move by *one* pixel. What happens to the
# IoU of the road? Of the poles? And to the mean of each map, which is all that a classifier reads in the end?

# %%
import torch

import prunekit as pk
from prunekit.course.tasks import load_task  # prunekit/course/tasks.py
from prunekit.metrics import evaluate
from prunekit.models import zoo

task = load_task("scenes", train_count=200, test_count=50)
model = zoo.load("deeplabv3_mini")
images, truth = task.examples(8)
groups = pk.find_groups(model, images[:1])


# %%
def moved(pixels):
    """IoU of each class when a stage's maps are moved to the right."""
    stage = model.backbone.body.layer1
    move = stage.register_forward_hook(lambda _, inputs, maps: maps.roll(pixels, 3))
    found = evaluate(model, task.test_loader(), len(task.classes))
    move.remove()
    return dict(zip(task.classes, found.iou))


ious = {pixels: moved(pixels) for pixels in (0, 1, 2, 4)}
maps = torch.rand(1, 24, 32, 64)
same = torch.allclose(maps.mean((2, 3)), maps.roll(1, 3).mean((2, 3)))
print("the means of the maps are the same:", same)

# %% tags=["hide-input"]
from matplotlib import pyplot as plt

from prunekit import viz

fig, ax = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
for name, color in zip(("road", "building", "car", "pole"), viz.colors(4)):
    line = [ious[pixels][name] for pixels in ious]
    ax.plot(list(ious), line, "o-", color=color, lw=2)
    ax.text(4.12, line[-1], name, color=color, fontsize=12, va="center")
ax.set_xlabel("moved by, pixels of the map", fontsize=12)
ax.set_ylabel("IoU", fontsize=12)
ax.set(xlim=(-0.1, 5.1), ylim=(0, 1), xticks=list(ious))
ax.spines[["top", "right"]].set_visible(False)
show(
    fig,
    alt="IoU against the shift of the maps: the road falls slowly, cars faster, and "
    "poles lose most of theirs at the first pixel.",
)

# %% [markdown]
# **What to see.** One pixel, and most of the pole is gone, while the road hardly minds. And the means of
# the moved maps are exactly what they were: whoever looks at means alone says that *nothing has happened*.
#
# Now think of a criterion that scores channels. If it looks at weights (L1, slimming, FPGM), it has never seen a street. If
# it looks at the mean of a map, two channels that show the same thing in different places look alike to it. Either way it does
# not know *where*, and where is all there is to a pole. The figure below asks a simpler thing: in each layer, take the
# channel that tells poles best from the rest. Where does it stand in the order of removal?

# %% tags=["hide-input"]
import torch.nn.functional as F

from prunekit.course import plots
from prunekit.methods import fpgm, l1, slimming
from prunekit.observe import watch_made  # prunekit/observe/made.py

seen = {}
with (
    torch.no_grad(),
    watch_made(model, groups, lambda n, x: seen.update({n: x[:, :, 0]})),
):
    model(images)

# %% tags=["hide-input"]
is_pole = (truth == task.classes.index("pole")).float()[:, None]
methods = {"L1": l1, "slimming": slimming, "FPGM": fpgm}
scores = {title: method.score(model, groups) for title, method in methods.items()}
places = {title: [] for title in scores}
for layer, maps in seen.items():
    if maps.shape[2] > 1:
        pole = F.adaptive_max_pool2d(is_pole, maps.shape[2:])[:, 0].bool().flatten()
        flat = maps.transpose(0, 1).flatten(1)
        apart = flat[:, pole].mean(1) - flat[:, ~pole].mean(1)
        best = (apart / flat.std(1)).abs().argmax()
        for title, score in scores.items():
            below = (score[layer] < score[layer][best]).double().mean()
            places[title].append(below.item())
show(
    plots.strips(
        places, label="0 = goes first · the best pole channel · stays longest = 1"
    ),
    alt="One dot a layer for L1, slimming and FPGM: the place of the channel that "
    "knows most about poles is spread from the first to the last to go.",
)

# %% [markdown]
# **What to see.** Anywhere, on average a little above the middle. These criteria do not hate poles; they do not know them.
# The remedy of this lesson (Wu et al., 2025) does not look for poles either, and would not stand out in this figure. It asks
# of every channel: *is what you show, where you show it, shown by somebody else too?*

# %% [markdown]
# ## 2 · The method in one figure

# %% tags=["hide-input"]
from prunekit.methods.sirfp import jensen_shannon, solvers

layer, six = "backbone.body.conv1.3", [7, 13, 14, 18, 21, 23]
maps = seen[layer][0, six]  # one street, six channels, before ReLU
r = jensen_shannon.exact(maps.flatten(1).softmax(1))
kept = solvers.brute_force(1 - r, 4)


# %% tags=["hide-input"]


def draw_table(ax):
    ax.imshow(r.fill_diagonal_(torch.nan), cmap="cividis")
    for i in range(6):
        for j in set(range(6)) - {i}:
            text = f"{r[i, j]:.2f}"[1:]
            color = "k" if r[i, j] > 0.5 else "w"
            ax.text(j, i, text, ha="center", va="center", fontsize=10, color=color)


def draw_graph(ax):
    turn = torch.arange(6) * torch.pi / 3
    x, y = turn.sin(), turn.cos()
    for i in range(6):
        for j in range(i):
            ends = {i, j} <= set(kept)
            color, width = (
                (viz.colors(1)[0], 10 * (1 - r[i, j])) if ends else ("0.85", 1)
            )
            ax.plot(x[[i, j]], y[[i, j]], color=color, lw=float(width) / 2, zorder=ends)
        look = {"facecolor": "w" if i in kept else "0.85", "edgecolor": "0.3"}
        ax.text(
            x[i], y[i], i, ha="center", fontsize=12, bbox={"boxstyle": "circle", **look}
        )
    ax.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal")


# %% tags=["hide-input"]
fig = plt.figure(figsize=(5.4, 5), layout="constrained")
grid = fig.add_gridspec(3, 6, height_ratios=(1, 1, 3))
for number, picture in enumerate(maps):
    row, column = divmod(number, 3)
    ax = fig.add_subplot(grid[row, 2 * column : 2 * column + 2])
    ax.imshow(picture, cmap="cividis")
    ax.set_title(f"map {number}", fontsize=11)
    ax.set_axis_off()
for place, draw, title in (
    (grid[2, :3], draw_table, "redundancy of each pair"),
    (grid[2, 3:], draw_graph, "keep four"),
):
    ax = fig.add_subplot(place)
    draw(ax)
    ax.set_title(title, fontsize=11)
    ax.set_axis_off()
show(
    fig,
    alt="Six feature maps of a street; below them a table with the redundancy of each "
    "pair, and the six as a graph in which four are joined by thick edges.",
)

# %% [markdown]
# 1. Each map becomes a **probability map**: where is this channel's weight?
# 2. For each pair: how much do the two overlap? That is their **redundancy** $r_{ij}$.
# 3. The layer becomes a **graph**. Channels are its corners, and an edge weighs $1 - r_{ij}$: the more two differ, the more.
# 4. Keep the **set of corners whose edges weigh most**. (All corners of such a set are joined with one another, and that is
#    called a clique.)
# 5. One **threshold** for the whole network decides how many go from each layer.
#
# | letter | meaning |
# | --- | --- |
# | $x_i$ | map of channel $i$: the signed output of its batch norm, $H \times W$ |
# | $p_i$ | the same as a probability map: positive, sum 1 |
# | $r_{ij}$ | redundancy of two channels, from 0 to $\log 2$ |
# | $a_{ij}$ | weight of their edge, $1 - r_{ij}$ |
# | $s_i$ | sum of $a_{ij}$ over those $j$ that are still there |
# | $U$, $P$ | channels of the layer, pixels of a map |

# %% [markdown]
# ## 3 · From a map to a probability map
#
# The paper says that a map is "normalised as a probability score map". It does not say how. Two readings:
#
# $$\text{softmax:}\quad p_i = \frac{e^{x_i}}{\sum_{\text{pixels}} e^{x_i}} \qquad\qquad \text{sum:}\quad p_i = \frac{|x_i|}{\sum_{\text{pixels}} |x_i|}$$
#
# **Predict first.** You take one channel of the layer and replace it by faint noise, a twentieth as loud as its neighbours.
# Nobody needs it. Which of the two readings sends it away first?


# %%
def probabilities(maps, how):
    """maps (U, P), signed -> (U, P), each row sums to 1."""
    if how == "softmax":
        return maps.softmax(1)
    return maps.abs() / maps.abs().sum(1, keepdim=True)


def redundancies(p):
    """p (U, P) -> r of all pairs (U, U); one logarithm for each pair and pixel."""
    mixed = torch.stack([(p + row).xlogy(p + row).sum(1) for row in p])
    own = p.xlogy(p).sum(1)
    return (mixed - own[:, None] - own) / 2


# %% tags=["nbval-check-output"]
maps = seen[layer][0].flatten(1)  # (24, 2048), one street
noisy = maps.clone()
noisy[5] = 0.05 * torch.randn(2048, generator=torch.Generator().manual_seed(0))
print("place of 24      as it was  faint noise")
for how in ("softmax", "sum"):
    print(f"{how:8}", end="")
    for each in (maps, noisy):
        r = redundancies(probabilities(each, how)).fill_diagonal_(0)
        place = (r.sum(1) > r[5].sum()).sum().item() + 1
        print(f"{place:15}", end="")
    print()

# %% [markdown]
# (Place 1 repeats the others most and goes first. The formula inside `redundancies` is the subject of the next section.)
#
# **What to see.** Dividing by the sum forgets how loud a channel is: the faint noise is blown up to full size, is like
# nobody else, and is kept to the last. Softmax keeps loudness. A faint map is nearly constant, its softmax nearly uniform,
# and a uniform map has something in common with everybody. So softmax is the library's default, and the experiment in
# section 11 (S8) asks whether it pays on a whole network.

# %% [markdown]
# ## 4 · Redundancy: what two maps share
#
# Put the two maps' mean between them, $m = (p + q)/2$, and measure how far each is from it. That is the **Jensen-Shannon
# divergence**, which cannot exceed $\log 2$. Redundancy is what is missing to that (Eq. 3):
#
# $$r = \log 2 - \tfrac12 \sum p \log \frac{p}{m} - \tfrac12 \sum q \log \frac{q}{m}$$
#
# ### Exercise 1 ★ (5 minutes): one pair
#
# `check` (`prunekit/course/checks.py`) runs your function on small examples. If you are stuck: `hint("05.1")`.


# %% tags=["nbval-check-output"]
def redundancy(p, q):
    """Two probability maps (P,), all entries positive -> a number."""
    return None  # your code here


check("05.1", redundancy)

# %% [markdown]
# {{solution 05.1}}
#
# **Check it** where you know the answer: a map with itself, two that never overlap, and one thing that is not obvious at
# all: $\sqrt{JS}$ is a *distance*, so no detour over a third map is shorter.

# %% tags=["nbval-check-output"]
from math import log

left_half = torch.cat([torch.full((4,), 0.25), torch.zeros(4)])
both = redundancies(torch.stack([left_half, left_half.flip(0)]))
print(f"with itself {both[0, 0] / log(2):.2f} log 2, without overlap {both[0, 1]:.2f}")
p = probabilities(maps.double(), "softmax")
distance = (log(2) - redundancies(p)).clamp_min(0).sqrt()
detour = distance[:, :, None] + distance[None]  # from i over j to k
shortest = (detour - distance[:, None]).min().item()
print("no detour is shorter:", shortest > -1e-6)

# %% [markdown]
# **What does it know about places?** Draw one map of a street's poles and one of its road, move a copy of each to the side,
# and look at what original and copy still share.


# %% tags=["hide-input"]
def drawn(mask):
    """A probability map with nearly all of its weight on the mask's pixels."""
    return (9.0 * mask.float()).flatten().softmax(0)


street = 0
pictures = {
    name: truth[street] == task.classes.index(name) for name in ("road", "pole")
}
fig, ax = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
for (name, mask), color in zip(pictures.items(), viz.colors(2)):
    pairs = [torch.stack([drawn(mask), drawn(mask.roll(k, 1))]) for k in range(9)]
    shared = torch.tensor([redundancies(pair)[0, 1] for pair in pairs])
    share = shared / log(2)
    ax.plot(range(9), share, "o-", color=color, lw=2)
    ax.text(8.3, share[8], name, color=color, fontsize=12, va="center")
ax.set_xlabel("copy moved by, pixels", fontsize=12)
ax.set_ylabel("redundancy / log 2", fontsize=12)
ax.set(xlim=(-0.2, 9.4), ylim=(0, 1.05))
ax.spines[["top", "right"]].set_visible(False)
show(
    fig,
    alt="Redundancy of a mask and its moved copy: for the pole most of it is gone "
    "after a few pixels, for the road it falls slowly.",
)

# %% [markdown]
# **What to see.** The pole's copy soon has next to nothing in common with it; the road's stays close to it all the way. Of the
# means, both lines would be flat. That is what *spatial-aware* means.
#
# ### All pairs
#
# With the entropy $H(p) = -\sum p \log p$ the divergence is shorter: $JS = H(m) - \tfrac12 H(p) - \tfrac12 H(q)$. The entropies
# of the maps are computed once; only $H(m)$ belongs to the pair. That is what `redundancies` above does.
#
# ### Exercise 2 ★★ (6 minutes): the graph
#
# Give the edge weights $a_{ij} = 1 - (\log 2 - JS)$ of all pairs.


# %% tags=["nbval-check-output"]
def edge_weights(p):
    """p (U, P), rows are positive and sum to 1 -> a (U, U)."""
    return None  # your code here


check("05.2", edge_weights)

# %% [markdown]
# {{solution 05.2}}

# %% tags=["nbval-check-output"]
from prunekit.methods.sirfp.jensen_shannon import exact, spectral

assert torch.allclose(redundancies(p), exact(p), atol=1e-9)
print("as in the library's exact way: yes")

# %% [markdown]
# In the paper $a_{ij}$ is a moving average over all training steps, $a \leftarrow \alpha a + (1 - \alpha)(1 - r)$ with $\alpha = 0.99$
# (Eq. 4). Ours starts as a plain mean, so that the first batch does not count more than the others
# (`prunekit/methods/sirfp/observer.py`).

# %% [markdown]
# ## 5 · The spectral trick: from logarithms to one matrix product
#
# A layer with 2048 channels has two million pairs, and each costs one logarithm for every pixel. The paper calls this its
# limitation. There is a way out (Vedaldi and Zisserman, 2012), in four steps.
#
# **One pixel, one number.** At one pixel, $p$ and $q$ share $k(p, q) = \tfrac12[(p+q)\log(p+q) - p\log p - q\log q]$. Double both
# and $k$ doubles. So take $\sqrt{pq}$ out, and what is left depends on the ratio alone:
# $k = \log 2 \, \sqrt{pq}\; K(\log q - \log p)$.
#
# **Waves.** $K$ is smooth and even, thus a mixture of cosines. How much of each is known in closed form:
#
# $$K(w) = \int \kappa(l) \cos(l w)\, dl, \qquad \kappa(l) = \frac{2}{\log 4} \cdot \frac{1}{\cosh(\pi l)\,(1 + 4 l^2)}$$
#
# **A few of them.** $\kappa$ falls like $e^{-\pi l}$, so a handful of frequencies $0, L, 2L, \dots, nL$ will do.
#
# **Apart.** And now the step for which it was all done: $\cos(a - b) = \cos a \cos b + \sin a \sin b$. What was a function of the
# *pair* is now a product of something of $p$ with something of $q$:
#
# $$\psi(p) = \sqrt{p}\,\bigl[\sqrt{L\kappa(0)},\; \dots,\; \sqrt{2L\kappa(jL)} \cos(jL \log p),\; \sqrt{2L\kappa(jL)} \sin(jL \log p),\; \dots\bigr]$$
#
# $$r \approx \log 2 \cdot \psi(p) \cdot \psi(q)$$
#
# Each map is turned into waves *once*; all pairs together are one matrix product, which is what computers do best.
#
# ### Exercise 3 ★★★ (10 minutes): one matrix product
#
# You get $\kappa(0), \kappa(L), \dots, \kappa(nL)$ as a tensor, and $L$. Give $r$ of all pairs.


# %% tags=["nbval-check-output"]
def by_product(p, kappa, spacing):
    """p (U, P), kappa (n + 1,), spacing: a number -> r (U, U)."""
    return None  # your code here


check("05.3", by_product)

# %% [markdown]
# {{solution 05.3}}
#
# Ours, with $\psi$ written out, and the spacing that the library found best for each $n$:

# %%
from prunekit.methods.sirfp.jensen_shannon import best_spacing, error_bound


def psi(p, n):
    """p (U, P) -> (U, (2 n + 2) P); the sine of j = 0 is zero and does no harm."""
    spacing = best_spacing(n)
    at = spacing * torch.arange(n + 1, dtype=p.dtype)
    kappa = 2 / log(4) / torch.cosh(torch.pi * at) / (1 + 4 * at**2)
    size = (spacing * kappa * torch.tensor([1.0] + n * [2.0])).sqrt()
    angle = at[:, None, None] * p.log()  # (n + 1, U, P)
    size = size[:, None, None] * p.sqrt()
    waves = torch.cat([size * angle.cos(), size * angle.sin()])
    return waves.transpose(0, 1).flatten(1)


# %% tags=["nbval-check-output"]
wide = seen["backbone.body.layer4.0.conv2"].transpose(0, 1)  # (96, 8, 16, 32)
p = probabilities(wide.double().flatten(1), "softmax")
true = redundancies(p)
order = true.sum(1).argsort().tolist()
errors = {}
for n in (1, 2, 3, 5, 8):
    found = log(2) * psi(p, n) @ psi(p, n).T
    errors[n] = (found - true).abs().max().item()
    same = sum(a == b for a, b in zip(found.sum(1).argsort().tolist(), order))
    print(f"n = {n}: channels in their right place {same} of {len(p)}")
print("library's:", torch.allclose(spectral(p, 8), found, atol=1e-6))

# %% tags=["hide-input"]
fig, ax = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
blue, orange = viz.colors(2)
ns = range(1, 11)
ax.semilogy(ns, [error_bound(n) for n in ns], color=orange, lw=2)
ax.semilogy(list(errors), list(errors.values()), "o", color=blue, ms=8)
ax.text(5.6, error_bound(5), "bound, whatever the maps", color=orange, fontsize=12)
ax.text(1.2, errors[8], "measured on 96 real maps", color=blue, fontsize=12)
ax.set_xlabel("harmonics n", fontsize=12)
ax.set_ylabel("largest error of r", fontsize=12)
ax.spines[["top", "right"]].set_visible(False)
show(
    fig,
    alt="Largest error of the redundancy against the number of harmonics, on a "
    "logarithmic scale: each harmonic cuts it, and real maps stay below the bound.",
)

# %% [markdown]
# **What to see.** Every harmonic makes the error smaller by a constant factor. With five harmonics
# nearly all channels stand in their right place, with eight all do, and the order is all that pruning needs. The library takes as many harmonics as a tolerance asks for
# ($2 \cdot 10^{-4}$ unless you say otherwise) and is exact for `tolerance=0`. What does it save?

# %% tags=["volatile"]
import time

p = torch.randn(256, 2048, generator=torch.Generator().manual_seed(0)).softmax(1)


def milliseconds(way):
    """The best of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        way()
        times.append(1000 * (time.perf_counter() - start))
    return min(times)


hundred = milliseconds(lambda: [redundancies(p[[0, i]]) for i in range(1, 101)])
print(f"{256 * 255 // 2} pairs of 2048 pixels")
print(f"pair by pair   {hundred * 256 * 255 / 200:8.0f} ms, from a hundred")
print(f"exact, blocks  {milliseconds(lambda: exact(p)):8.0f} ms")
print(f"spectral       {milliseconds(lambda: spectral(p)):8.0f} ms")

# %% [markdown]
# How much the trick saves depends on the machine: a processor that takes many logarithms at once is hard to beat with any
# trick. The error stays below what you allow, whatever the maps.

# %% [markdown]
# ## 6 · The clique: who stays?
#
# The redundancies of a layer are known. Now keep $b$ of $U$ channels such that those that stay differ as much as possible
# *from one another* (Eq. 2):
#
# $$\max_{\text{sets of } b \text{ channels}} \;\; \sum_{i < j \text{ in the set}} a_{ij}$$
#
# That is the maximum edge weight clique problem, and it is NP-hard. But removing *one* is easy: of all edges you lose those
# of the one who goes, so let the one with the smallest sum $s_i = \sum_j a_{ij}$ go (Eq. 6). The paper's greedy
# search, EHGP, does that again and again.
#
# **By hand.** Here are the edges of the six maps of section 2. Two have to go. Which one goes first? And then? Take a pencil.

# %% tags=["nbval-check-output"]
p = probabilities(seen[layer][0, six].double().flatten(1), "softmax")
a = (1 - redundancies(p)).fill_diagonal_(0)
print("  " + "".join(f"{j:6}" for j in range(6)) + "   sum")
for i in range(6):
    print(f"{i} " + "".join(f"{v:6.2f}" for v in a[i]) + f"{a[i].sum():6.2f}")

# %% [markdown]
# ### Exercise 4 ★★ (8 minutes): the greedy clique
#
# Return the channels that stay, in ascending order.


# %% tags=["nbval-check-output"]
def clique(a, size):
    """a (U, U), its diagonal is zero; size: how many stay -> list of int."""
    return None  # your code here


check("05.4", clique)

# %% [markdown]
# {{solution 05.4}}
#
# Ours writes down what it does. `reverse` removes the *largest* sum: that is how Algorithm 1 is printed in the paper,
# against its own Eq. 6. A misprint, as you are about to see.


# %%
def greedy(a, size, reverse=False):
    """The channels that stay, and for each that went: its number and its s."""
    left, went = list(range(len(a))), []
    while len(left) > size:
        s = a[left][:, left].sum(1)
        place = int(s.argmax() if reverse else s.argmin())
        went.append((left.pop(place), s[place].item()))
    return left, went


def weight(a, kept):
    """Sum of the edges inside, each once."""
    return a[kept][:, kept].triu(1).sum().item()


# %% tags=["nbval-check-output"]
from itertools import combinations

sets = [list(kept) for kept in combinations(range(6), 4)]
sets.sort(key=lambda kept: -weight(a, kept))
for title, reverse in (("greedy", False), ("as printed", True)):
    kept, went = greedy(a, 4, reverse)
    rank = sets.index(kept) + 1
    gone = [number for number, _ in went]
    print(f"{title:11} {gone} go, {weight(a, kept):.3f}, number {rank} of {len(sets)}")
print(f"best        {sorted({*range(6)} - {*sets[0]})} go, {weight(a, sets[0]):.3f}")

# %% [markdown]
# **What to see.** The printed comparison ends at the bad end of the list. Greedy ends near the top, but this time not *at*
# the top: these six were picked from thousands because greedy misses here (four of six stay). The first step is the exact answer for five of
# six, and the best five need not contain the best four. How often does it miss? Three hundred random sixes of
# the layer, of which three stay:

# %% tags=["nbval-check-output"]
a24 = 1 - redundancies(probabilities(maps.double(), "softmax"))
dice = torch.Generator().manual_seed(0)
met, worst = 0, 0.0
for _ in range(300):
    some = torch.randperm(24, generator=dice)[:6]
    sub = a24[some][:, some].fill_diagonal_(0)
    best = max(weight(sub, list(kept)) for kept in combinations(range(6), 3))
    found = weight(sub, greedy(sub, 3)[0])
    met += found > best - 1e-9
    worst = max(worst, 1 - found / best)
print(f"greedy finds the best three in {met} of 300")
print(f"at worst it misses {worst:.1%} of the weight")

# %% [markdown]
# ## 7 · Twins: why one at a time
#
# FPGM (lesson 03) removes the filters with the smallest sum of distances to *all* others. The paper's complaint: of two
# identical channels it removes both. Let us be fair and find out when that is so.
#
# Eight filters; 2 and 6 are identical. You choose how long the twins' filters are; the batch norm behind makes up for
# it, so **the maps are the same whatever you choose**.
#
# **Predict first.** Long or short twins: which does FPGM remove? And the clique?


# %%
from torch import nn


def twins(length):
    """Eight channels; 2 and 6 are alike, their filters `length` times as long."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
    net.extend([nn.ReLU(), nn.Conv2d(8, 12, 1)])
    with torch.no_grad():
        net[0].weight[2] *= length / net[0].weight[2].norm() * net[0].weight[0].norm()
        net[0].weight[6] = net[0].weight[2]
        made = net[0](images)
        net[1].running_mean.copy_(made.mean((0, 2, 3)))
        net[1].running_var.copy_(made.var((0, 2, 3)))
        net[1].eps = 0.0
    return net.eval()


# %% tags=["nbval-check-output"]
from prunekit.methods import sirfp

print("when the twins go, of 8")
print("length     FPGM     clique")
for length in (0.1, 0.3, 1.0, 3.0):
    net = twins(length)
    alone = pk.find_groups(net, images[:1])
    line = f"{length:6}"
    for score in (fpgm.score(net, alone), sirfp.score(net, alone, [(images, None)])):
        order = (score["0"] * 1e4).round().argsort(stable=True).tolist()
        line += f"{sorted(order.index(i) + 1 for i in (2, 6))!s:>10}"
    print(line)

# %% [markdown]
# **What to see.** FPGM never separates the twins: equal filters have equal scores, so they stand side by side in its
# order. Short twins sit in the middle of the crowd and go *both*, and then nobody is left who does their work; long twins
# stay *both*, and one of them is wasted. So the complaint holds where the twins are near the middle of all filters, and
# turns into its opposite where they are not.
#
# The clique does not look at the length, and it separates them. One twin goes because of the other; with the first gone, the
# second is judged by what it shares with the rest. That separates, it does not protect: with `torch.manual_seed(1)` the
# second twin goes soon after the first, because it resembles the rest too.

# %% [markdown]
# ## 8 · One threshold for all layers
#
# How many go from which layer? Run the greedy search down to the last channel, note $s$ of each one when it went, and cut
# the whole network at one threshold (the paper's Appendix D).
#
# Careful: $s$ sums over those *still there*, so it falls as channels go. "Low $s$ goes" across the list would remove the
# survivors! In redundancies it is clear: with $n$ others still there, $s = n - \sum r$. So $\sum r = n - s$ is how much a channel repeated
# the rest when it went, and the score, higher = keep, is $s - n$.
#
# ### Exercise 5 ★★ (6 minutes): from order to score


# %% tags=["nbval-check-output"]
def scores(order, s):
    """order: list, first to go first; s (U,) at that moment -> score (U,)."""
    return None  # your code here


check("05.5", scores)

# %% [markdown]
# {{solution 05.5}}
#
# The last channel repeats nobody, so its score is 0 and the one before it always looks redundant to it. Of two that are
# left neither repeats more than the other: `scratch` and the library give both the same.
#
# That is the whole method. From scratch, for three layers, and the library's beside it:


# %%
def scratch(maps):
    """Signed maps (B, U, H, W) -> scores (U,)."""
    batch, units = maps.shape[:2]
    p = maps.double().flatten(2).softmax(2).transpose(0, 1).flatten(1) / batch
    a = (1 - redundancies(p)).fill_diagonal_(0)
    last, went = greedy(a, 1)
    score = torch.zeros(units, dtype=torch.float64)
    for turn, (number, s) in enumerate(went):
        score[number] = s - (units - 1 - turn)
    score[last] = score[went[-1][0]].item()  # of the last two neither repeats more
    return score


# %% tags=["nbval-check-output"]
some = [layer, "backbone.body.layer3.0.conv1", "aspp.project.0.0"]
library = sirfp.score(model, groups.only(some), [(images, truth)], tolerance=0)
for name in some:
    assert torch.allclose(scratch(seen[name]), library[name], atol=1e-3)
    low, high = library[name].min(), library[name].max()
    print(f"{name}:\n   equal; scores from {low:.1f} to {high:.1f}")

# %% [markdown]
# A wide layer reaches lower scores: with more channels there are more to repeat. The paper counts it so (`score_scale="sum"`);
# the mean over the others is the alternative (`"mean"`). S8 in section 11 compares them.

# %% [markdown]
# ## 9 · End to end
#
# Now the pipeline (Algorithm 2), in a short version of the preset in `prunekit/course/sirfp/preset.py`: the network trains
# for a little while the observer looks on, then comes the cut, a quarter of the work is left, then fine-tuning.
# `every=3`: one look in three steps is plenty, and `decay=0.9`, since 24 steps are too few for 0.99.

# %%
from prunekit.train import TrainConfig, finetune


def config(steps, lr):
    more = {"optimizer": "adamw", "weight_decay": 0.01, "schedule": "cosine"}
    return TrainConfig(steps=steps, lr=lr, warmup=5, seed=0, quiet=True, **more)


observer = sirfp.Observer(groups, decay=0.9, every=3)
loader = task.train_loader(8)
dense = finetune(
    model, loader, config(24, 0.001), loss_fn=task.loss, observer=observer
).model
print(f"{observer.passes} steps, looked at {max(observer.observations.values())}")

# %% [markdown]
# Three plans with the same planner for the same budget: SIRFP, L1, and random channels. At most 90 % of a layer may go.

# %% tags=["nbval-check-output"]
from prunekit.methods import random
from prunekit.plan import budget_plan, plan_macs

found = {
    "sirfp": observer.scores(groups),
    "l1": l1.score(dense, groups),
    "random": random.score(dense, groups),
}
limits = pk.Limits(max_ratio=0.9, round_to=4)
plans, small = {}, {}
for name, score in found.items():
    plans[name] = budget_plan(groups, score, macs_ratio=0.75, limits=limits)
    small[name] = pk.prune(dense, groups, plans[name])
    left = plan_macs(groups, plans[name]) / plan_macs(groups, pk.PruningPlan({}, {}))
    print(f"{name:7} {left:.0%} of the MACs left")

# %%
certificate = pk.check_equivalence(
    dense, small["sirfp"], groups, plans["sirfp"], images[:1]
)
print(certificate)
show(
    viz.plan_bars(plans["sirfp"]),
    alt="A bar for each layer: how many channels SIRFP keeps and removes; wide layers "
    "give most.",
)

# %% [markdown]
# Fine-tuning uses **GSRL**, the loss of DCFP (Wang et al., 2024), as the paper does for all methods. Crops are drawn so that
# each class comes equally often. A pixel's loss is multiplied by its class's rarity, spread to the neighbours, and by up
# to ten where the network is in doubt ($p_1$, $p_2$: its two best guesses):
#
# $$w = \operatorname{maxpool}(\text{class weight}) \cdot \bigl(1 + 9\,(1 - (p_1 - p_2))\bigr)$$
#
# **Predict first.** After so few steps: who leads, and by how much on poles?

# %%
from functools import partial

from torch.utils.data import DataLoader

from prunekit.data.crops import BalancedCrops
from prunekit.train import gsrl_loss

crops = DataLoader(BalancedCrops(task.train, (64, 128)), 16, shuffle=True)
loss = partial(gsrl_loss, window=3)
tuned = {}
for name, network in small.items():
    tuned[name] = finetune(network, crops, config(60, 0.003), loss_fn=loss).model
print("tuned:", ", ".join(tuned))

# %% tags=["volatile"]
from prunekit.course.quickstart import measure  # prunekit/course/quickstart.py

measured = measure({"dense": dense, **tuned}, task, images[:1])
rows = {
    "params, M": [m.cost.params / 1e6 for m in measured.values()],
    "MACs, M": [m.cost.macs / 1e6 for m in measured.values()],
    "ms": [m.cost.latency_ms for m in measured.values()],
    "mIoU": [m.accuracy.miou for m in measured.values()],
}
for name in ("road", "person", "pole", "bicycle"):
    k = task.classes.index(name)
    rows[name] = [m.accuracy.iou[k] for m in measured.values()]
print(f"{'':10}" + "".join(f"{name:>8}" for name in measured))
for name, row in rows.items():
    digits = 1 if name in ("MACs, M", "ms") else 2
    print(f"{name:10}" + "".join(f"{value:8.{digits}f}" for value in row))
dense_ms, sirfp_ms = rows["ms"][:2]
print(f"\nSIRFP's network: {dense_ms / sirfp_ms:.1f} times as fast as the dense one")

# %%
ious = {name: measured[name].accuracy.iou for name in ("dense", "sirfp", "l1")}
show(
    viz.iou_bars(ious, task.classes),
    alt="IoU of each class for the dense network and for SIRFP and L1 at a quarter of "
    "the work: large classes are back, thin ones pay.",
)

# %%
with torch.no_grad():
    labels = {name: tuned[name](images[:3]).argmax(1) for name in ("sirfp", "l1")}
masks = {"truth": truth[:3], **labels}
show(
    viz.mask_grid(images[:3], masks, task.palette, task.classes),
    alt="Three streets: true masks, those of SIRFP's network and those of L1's, both "
    "with a quarter of the work.",
)

# %% [markdown]
# **What to see.** The same work for all three, and very different streets. Look at poles and persons: there the choice of
# channels shows most. Then look again at the bars of the plan. SIRFP took nearly all from the deep, wide layers, where many
# channels say the same, and next to nothing from the first ones, where maps are still large and a pole is still a pole.
#
# Look at the milliseconds, too: a quarter of the MACs is not a quarter of the time, and at equal MACs the three networks are
# not equally fast. Large maps cost more than their MACs say (lesson 01).
#
# This is *one* run with a very short fine-tuning, and by the rule of lesson 03 one run decides nothing. Section 11 has the
# runs that do.

# %% [markdown]
# ## 10 · Explore and break it
#
# Ten channels of a layer as a graph. Where Python runs, move the slider and change the solver: who stays when only two may? Which
# edges does `worst` like? (`prunekit/widgets/clique.py`; a solver of your own fits, it is a function of `a` and `size`.)

# %%
from prunekit.methods.sirfp.clique import ehgp
from prunekit.methods.sirfp.solvers import brute_force
from prunekit.widgets import CliqueStudy, explore_clique

random_order = torch.randperm(10, generator=torch.Generator().manual_seed(0)).tolist()
solvers = {
    "greedy": lambda a, size: ehgp(a).keep(size),
    "brute force": brute_force,
    "random": lambda a, size: random_order[:size],
    "worst": lambda a, size: brute_force(-a, size),
}
explore_clique(CliqueStudy(a24[:10, :10], seen[layer][0, :10], solvers), size=5)

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


complaint(lambda: sirfp.Observer(groups).scores(groups))  # nothing seen yet
small_groups = pk.find_groups(small["sirfp"], images[:1])
complaint(lambda: observer.scores(small_groups))  # after the cut, with the old eyes
complaint(lambda: budget_plan(groups, found["sirfp"], macs_ratio=0.9999))
complaint(lambda: brute_force(torch.rand(40, 40), 20))
complaint(lambda: sirfp.score(model, groups, [(images, truth)], metric="cosine"))

# %% [markdown]
# ## 11 · The paper and ours
#
# ### Table 6: is the greedy search good enough?
#
# Small graphs first, where the best answer can be proved: the first channels of a layer, half of them stay. `brute_force`
# tries all sets, `milp` proves the optimum with a linear program, `tabu` starts from the greedy answer and swaps
# (`prunekit/methods/sirfp/solvers.py`).

# %%
from prunekit.methods.sirfp.solvers import milp, tabu

solvers = {
    "greedy": lambda a, size: ehgp(a).keep(size),
    "tabu": partial(tabu, steps=200),
    "MILP": milp,
    "brute force": brute_force,
}
spent, reached = {}, {}
milp(a24[:3, :3], 2)  # loads scipy, which is not to be timed
for count in (8, 12, 16, 20):
    part = a24[:count, :count].clone().fill_diagonal_(0)
    for name, solver in solvers.items():
        if name != "brute force" or count < 20:
            start = time.perf_counter()
            kept = list(solver(part, count // 2))
            spent[name, count] = time.perf_counter() - start
            reached[name, count] = weight(part, kept)

# %% tags=["nbval-check-output"]
print("weight  " + "".join(f"{name.split()[0]:>8}" for name in solvers))
for count in (8, 12, 16, 20):
    row = [reached.get((name, count)) for name in solvers]
    print(f"{count:8}" + "".join(f"{'-' if v is None else f'{v:.3f}':>8}" for v in row))

# %% tags=["hide-input", "volatile"]
fig, ax = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
for name, color in zip(solvers, viz.colors(4)):
    counts = [count for who, count in spent if who == name]
    times = [1000 * spent[name, count] for count in counts]
    ax.semilogy(counts, times, "o-", color=color, lw=2)
    shift, side = (-0.6, "right") if name == "brute force" else (0.4, "left")
    ax.text(counts[-1] + shift, times[-1], name, color=color, fontsize=12, ha=side)
ax.set_xlabel("channels", fontsize=12)
ax.set_ylabel("milliseconds", fontsize=12)
ax.set(xlim=(7, 25), xticks=(8, 12, 16, 20))
ax.spines[["top", "right"]].set_visible(False)
show(
    fig,
    alt="Time of four solvers against the number of channels, on a logarithmic scale: "
    "greedy stays far below a millisecond, MILP takes tens of them, and brute force "
    "grows by powers of ten.",
)

# %% [markdown]
# Then all layers of the network at once, where nobody can prove anything: does a longer search find more than greedy?

# %%
gains = []
for edges in observer.edges.values():
    half = len(edges) // 2
    better, plain = tabu(edges, half, steps=100), ehgp(edges).keep(half)
    edges = edges.double()
    gains.append(weight(edges, list(better)) / weight(edges, list(plain)) - 1)
print(f"{len(gains)} layers: tabu finds at most {max(gains):.3%} more")

# %% [markdown]
# **What to see.** On these graphs the greedy answer is the best one or so near that the rest cannot matter: maps of a trained
# layer are all moderately different, and then sums decide. The paper's other solvers took one to three hours; what takes
# long is not needed here.
#
# ### The tables
#
# The paper's numbers beside ours, from the [ledger](../book/results.md): nothing of ours is typed in by hand. S1 is the
# paper's main table, S4 its Table 6 as mIoU (`reversed` is the printed Algorithm 1), S7 its speeds, S8 our own question from
# sections 3 and 8.

# %%
from prunekit.course import claims  # prunekit/course/claims

claims.table("S1", "S4", "S7", "S8")

# %% [markdown]
# Two ablations: the metric (its Table 9) and the resolution of the maps (its Table 8). `vector` is what a mean sees.

# %%
claims.table("S2", "S3")

# %% [markdown]
# **Read it honestly.** S1 has two columns of ours. In *global*, each criterion also decides *how many* channels go from each
# layer (one threshold); in *uniform* all layers give the same share, and only *which* ones is left to decide. SIRFP leads
# clearly in the first and by little in the second, where the lead over Taylor is not shown. So is it only the sharing out?
# The last rows answer: random and FPGM's channels *in SIRFP's widths*. FPGM gains from them (for random channels the seeds
# leave it open), and both still stay behind SIRFP's own channels. Both halves count here. The paper does not separate them.
#
# S8 answers sections 3 and 8. Sums beat means by far: a mean hides how much a wide layer repeats. And softmax beats dividing
# by the sum, so that amplitude counts.
#
# We remove 75 % where the paper removes 60 %, to pull the methods further apart. Slimming here has no sparse training. All
# runs start from one dense network. A claim that is *not shown* at mini scale is not wrong at the paper's: its networks are far larger, its
# streets are real, its fine-tuning takes days. Nor does *reproduced* mean more than the
# [rule](../book/claims.md) says. `prunekit run sirfp --scale full --dataset cityscapes` has every number of the paper's
# Table 10; you need the data and a GPU.
#
# **What we simplified**
#
# - How a map becomes a probability map is our reading (softmax), and so is the start of the moving average (plain mean).
# - The printed Algorithm 1 and the threshold's sign contradict Eq. 6; we follow the equation.
# - Coupled layers (a residual stream) have one clique; their edges are the mean over all places that make the channels.
# - Section 9 cuts in one step after seconds of training; the paper cuts twice with hours in between, as `prunekit run
#   sirfp` does.
# - The formulas of `kl`, `dice` and `dot` are our reading; the paper names them only.
# - The authors' released code differs from their paper; we implement the paper.

# %% [markdown]
# ## 12 · Use it on your own model
#
# A timm backbone with all its feature maps, as a segmentation network uses it. The maps that it hands out keep their width, since
# others read them; everything inside may go. Use a few batches of *your* images; no labels are needed.

# %%
import timm

yours = timm.create_model("resnet10t", features_only=True, pretrained=False).eval()
pictures = torch.randn(4, 3, 64, 64)
score = partial(sirfp.score, batches=[(pictures, None)])
slimmed = pk.slim(yours, pictures[:1], macs_ratio=0.3, score=score)
print(f"MACs left: {slimmed.after.macs / slimmed.before.macs:.2f}")
widths = [tuple(m.shape[1:]) for m in slimmed.model(pictures)]
print("maps as before:", widths == [tuple(m.shape[1:]) for m in yours(pictures)])

# %% [markdown]
# For cuts in steps with training in between, give `sirfp.Observer` to `prunekit.progressive.progressive`.
#
# ## 13 · Quiz

# %%
quiz("05")

# %% [markdown]
# ## Key points
#
# - A mean does not know where. A pole is nothing but where.
# - Redundant is a relation, not a property: to whom, and is that one still there?
# - How a map is normalised decides whether a faint channel looks empty or unique.
# - A kernel that depends on a ratio is a sum of waves; waves of pairs fall apart into waves of each.
# - Remove one at a time and add up anew; then one twin stays.
# - Before you compare scores across layers, ask what they count.
#
# ## References
#
# The method: Wu et al. 2025. Waves instead of logarithms: Vedaldi and Zisserman 2012. GSRL: Wang et al. 2024 (DCFP). FPGM: He
# et al. 2019. The divergence: Lin 1991. All in the [list of references](../book/references.md).

# %% tags=["volatile"]
course.footer()
