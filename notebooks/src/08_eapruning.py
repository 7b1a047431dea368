# %% [markdown]
# # EAPruning: evolve the widths, rebuild the weights
#
# {{badge}}
#
# {{minutes}}
#
# **You will be able to**
#
# - *show* that a cut destroys a network's weights and not its structure,
# - *rebuild* a layer by least squares, from one small matrix instead of thousands of features,
# - *solve* every width of a layer with one Cholesky factor, and *check* it against `torch.linalg.lstsq`,
# - *read* a front of small and exact networks, and *evolve* it with NSGA-III,
# - *choose* from the front, prune, fine-tune, and *judge* a claim by several seeds.
#
# **You need** [lesson 00](00_quickstart.ipynb) for the words (group, plan, certificate) and
# [lesson 03](03_importance.ipynb) for ThiNet's repair.

# %%
import subprocess
import sys
from importlib.util import find_spec

if find_spec("prunekit") is None:  # on Colab and Kaggle
    package = "prunekit[evolution,quiz] @ git+{{repo}}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

from prunekit.course import check, quiz, setup, show

course = setup("08_eapruning", version="{{version}}")

# %% [markdown]
# ## 1 · The problem: what does a cut destroy?
#
# A small ResNet knows five kinds of things that stand in a street: traffic lights, signs, persons, cars, bicycles. Its
# images are crops of the course's scenes, 32 pixels wide. It errs on about one in a hundred. You keep 60 % of the channels
# of every group, chosen by dice.
#
# **Predict first.** How often does the cut network err? And after every layer behind a cut got new weights from 500
# images, without any label and without any training step?

# %%
from dataclasses import replace

import torch

import prunekit as pk
from prunekit.course.eapruning import data, preset_of
from prunekit.course.eapruning.experiment import dense_model, prepare

preset = replace(preset_of("mini", "resnet"), held=200)
source = data.sources(preset, None)  # crops of 300 scenes, and of 150 others to test
model = dense_model(preset, source.classes)
lab = prepare(preset, source, model)
space, rebuilder, fitness = lab.rebuilder.space, lab.rebuilder, lab.fitness
print(f"{len(space.names)} groups with {sum(space.whole)} channels")


# %% tags=["nbval-check-output"]
def at_width(share):
    """The same share of every group."""
    return tuple(max(1, round(share * size)) for size in space.whole)


cut_only = replace(fitness, rebuild=False)
shares = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
cut, rebuilt = ([f(at_width(s))[0] for s in shares] for f in (cut_only, fitness))
print("errors on 200 held images, to the nearest tenth")
print("kept   ", *(f"{s:5.0%}" for s in shares))
print("cut    ", *(f"{e:5.1f}" for e in cut))
print("rebuilt", *(f"{e:5.1f}" for e in rebuilt))

# %% tags=["hide-input"]
from matplotlib import pyplot as plt

from prunekit import viz

blue, orange, green, red = viz.colors(4)


def clean(ax, x, y, **more):
    ax.set_xlabel(x, fontsize=12)
    ax.set_ylabel(y, fontsize=12)
    ax.set(**more)
    ax.spines[["top", "right"]].set_visible(False)


fig, ax = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
ax.plot(shares, cut, "o-", color=orange, lw=2, label="cut")
ax.plot(shares, rebuilt, "o-", color=blue, lw=2, label="cut and rebuilt")
ax.invert_xaxis()
ax.legend(fontsize=12, frameon=False)
clean(ax, "share of the channels that stays", "error", ylim=(0, 1))
show(
    fig,
    alt="Error against the share of channels that stays: with the weights as they "
    "were cut it rises early, with rebuilt weights it rises later.",
)

# %% [markdown]
# **What to see.** The same channels are gone in both lines. At half of the channels the cut network guesses, and the one with
# new weights still knows most things, and the two have the same *structure*. So the cut network was not a bad one, its weights had only lost their partners. That is this lesson's idea (Li et al., 2022): *which*
# channels stay matters little, *how many* in each layer matters much. So search the numbers, and let algebra find the
# weights.

# %% [markdown]
# ## 2 · The method in one figure

# %% tags=["hide-input"]
counts = space.draw(3, seed=4)
fig, axes = plt.subplots(3, 1, figsize=(5.4, 4.6), sharex=True, layout="constrained")
for ax, candidate in zip(axes, counts):
    error, cost = fitness(candidate)
    ax.bar(range(len(candidate)), space.whole, color="0.9")
    ax.bar(range(len(candidate)), candidate, color=blue)
    title = f"{cost:.0%} of the MACs, error {error:.2f} after rebuilding"
    ax.set_title(title, fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_ylabel("channels", fontsize=10)
axes[-1].set_xlabel("group", fontsize=12)
show(
    fig,
    alt="Three candidates: for each group of channels a grey bar of its full width and "
    "a blue one of what the candidate keeps, with its MACs and error above.",
)

# %% [markdown]
# 1. **Encode**: a candidate is *one number a group*, the channels it keeps. Layers that must agree share one number.
# 2. **Rebuild** the weights of each layer that lost inputs, by least squares.
# 3. **Evaluate**: the error on images that were held back, and the MACs.
# 4. **Evolve**: NSGA-III mixes good candidates, again and again. What remains is a *front*, from small to exact.
# 5. **Choose** from the front, and train.
#
# | letter | meaning |
# | --- | --- |
# | $x$ | what a layer reads for one of its outputs: $D$ inputs |
# | $x'$ | what is left of it: $n$ inputs |
# | $W$, $W'$ | the layer's weights before and after, one row an output |
# | $G$ | Gram matrix, the sum of $x x^\top$ over sampled outputs, $D \times D$ |
# | $L$ | its Cholesky factor: $L L^\top = G$, zeros above the diagonal |

# %% [markdown]
# ## 3 · Least squares from scratch
#
# A layer answers $y = Wx$. Some inputs go, and the answers should stay (Eq. 1):
#
# $$W' = \arg\min \sum_{\text{samples}} \lVert W x - W' x' \rVert^2$$
#
# ### Exercise 1 ★ (4 minutes): two small matrices
#
# `check` (`prunekit/course/checks.py`) runs your function on small examples. If you are stuck: `hint("08.1")`.


# %% tags=["nbval-check-output"]
def normal_equations(x, y):
    """x (S, D) what is read, y (S, O) the answers wanted -> weights (O, D)."""
    return None  # your code here


check("08.1", normal_equations)

# %% [markdown]
# {{solution 08.1}}
#
# **On a real layer.** One 3x3 convolution of the ResNet, half of its input channels gone. The rows of `x` are patches: what the
# kernel covers at one place.

# %%
from prunekit.observe.grams import patches  # prunekit/observe/grams.py

layer = model.get_submodule("layer2.1.conv2")
images = torch.stack([source.plain[i][0] for i in range(200)])
read = []
hook = layer.register_forward_pre_hook(
    lambda m, args: read.append(patches(m, args[0], 16, torch.Generator()).double())
)
with torch.no_grad():
    model(images)
hook.remove()
x = read[0]  # (samples, channels x 9)
weight = layer.weight.detach().double().flatten(1)
y = x @ weight.T
print("x", tuple(x.shape), " y", tuple(y.shape))

# %% tags=["nbval-check-output"]
half = x.shape[1] // 2
ours = torch.linalg.solve(x[:, :half].T @ x[:, :half], x[:, :half].T @ y).T
torchs = torch.linalg.lstsq(x[:, :half], y).solution.T
print("as torch.linalg.lstsq to 1e-6:", torch.allclose(ours, torchs, rtol=1e-6))
for name, w in (("cut", weight[:, :half]), ("rebuilt", ours)):
    missed = (y - x[:, :half] @ w.T).square().sum() / y.square().sum()
    print(f"{name:8} misses {missed:.0%} of the answers' energy")

# %% [markdown]
# ## 4 · The Gram matrix is all you need
#
# `x.T @ x` is $D \times D$, however many images there were. And since $y = Wx$, the other matrix is in it too:
# $x^\top y = G W^\top$. So one pass over the images is enough *for all candidates*: whatever inputs a candidate keeps, its
# equations are rows and columns of the same $G$.
#
# ### Exercise 2 ★★ (6 minutes): the first $n$ inputs


# %% tags=["nbval-check-output"]
def rebuild(gram, weight, n):
    """gram (D, D), weight (O, D): the best weights on the first n inputs, (O, n)."""
    return None  # your code here


check("08.2", rebuild)

# %% [markdown]
# {{solution 08.2}}
#
# Note what is *not* in it: labels, the loss, the layers behind. Each layer is asked for its own old answer, before batch norm,
# so the norm's running statistics stay right. A bias joins as an input that is always 1. A depth-wise kernel reads its own
# channel alone, which is there or not, so there is nothing to rebuild.
#
# **Predict first.** The fewer inputs stay, the more is missed. What shape has that line, for the cut weights and for the
# rebuilt ones?

# %% tags=["hide-input"]
gram = x.T @ x
widths = range(9, x.shape[1] + 1, 9)  # channel by channel
missed = {"cut": [], "rebuilt": []}
for n in widths:
    w = torch.linalg.solve(gram[:n, :n], gram[:n] @ weight.T).T
    for name, these in (("cut", weight[:, :n]), ("rebuilt", w)):
        gap = (y - x[:, :n] @ these.T).square().sum() / y.square().sum()
        missed[name].append(gap.item())
fig, ax = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
for (name, line), color in zip(missed.items(), (orange, blue)):
    ax.plot([n // 9 for n in widths], line, "o-", ms=4, color=color, lw=2, label=name)
ax.legend(fontsize=12, frameon=False)
clean(ax, "input channels that stay", "missed, of the answers' energy", ylim=(0, None))
show(
    fig,
    alt="What a layer's answers miss against the input channels that stay: the line of "
    "the rebuilt weights runs below that of the cut ones at every width.",
)

# %% [markdown]
# **What to see.** The rebuilt line is below the other one everywhere, and it never rises when a channel is added: with one
# more input, the best weights can only get better. The cut line has no such promise.

# %% [markdown]
# ## 5 · Every width from one factor
#
# A search asks for thousands of networks, and each has dozens of layers. Solving $n \times n$ equations takes $n^3/3$
# multiplications *each time*. Two facts about triangles save that.
#
# **The corner of the factor is the factor of the corner.** If $LL^\top = G$, then $L_n L_n^\top = G_n$, where the index means the
# first $n$ rows and columns. So put the channels in *one fixed order*, and let a candidate keep the first ones.
#
# **Forward substitution runs from the top.** $LZ = GW^\top$ is solved row by row, so the first $n$ rows of $Z$ are the answer
# for $n$. Solve it once. What is left for each candidate is the way back: $L_n^\top W'^\top_n = Z_n$.
#
# ### Exercise 3 ★★ (6 minutes): the corner


# %% tags=["nbval-check-output"]
def leading(factor, z, n):
    """factor L (D, D), z = L^-1 G W^T (D, O): the best weights on the first n, (O, n)."""
    return None  # your code here


check("08.3", leading)

# %% [markdown]
# {{solution 08.3}}

# %% tags=["nbval-check-output"]
factor = torch.linalg.cholesky(gram)
solved = torch.linalg.solve_triangular(factor, gram @ weight.T, upper=False)  # Z
worst = 0.0
for n in range(1, len(gram) + 1):
    corner = factor[:n, :n].T
    w = torch.linalg.solve_triangular(corner, solved[:n], upper=True).T
    best = torch.linalg.lstsq(x[:, :n], y).solution.T
    worst = max(worst, ((w - best).abs().max() / best.abs().max()).item())
print(f"{len(gram)} widths, all as lstsq to 1e-6: {worst < 1e-6}")
wrong = torch.linalg.inv(gram)[:half, :half] @ gram[:half] @ weight.T
print("control, the corner of the inverse:", torch.allclose(wrong.T, ours, rtol=1e-2))

# %% tags=["volatile"]
import time


def seconds(work):
    times = []
    for _ in range(3):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


corner, right = factor[:half, :half].T, solved[:half]
slow = seconds(lambda: torch.linalg.lstsq(x[:, :half], y))
fast = seconds(lambda: torch.linalg.solve_triangular(corner, right, upper=True))
print(f"lstsq from {len(x)} patches {1000 * slow:8.2f} ms")
print(f"the corner of the factor  {1000 * fast:8.2f} ms")

# %% [markdown]
# **When $G$ has no factor.** A channel that is always 0 on your images makes $G$ singular. The library looks at the *condition
# number*, largest eigenvalue over smallest. Above $10^8$ it adds a small ridge to the diagonal, and where $G$ is singular it says
# so and names the layer. A corner's eigenvalues lie between those of the whole (Cauchy's interlacing), so a ridge
# that is right for the whole layer is right for every candidate.
#
# The library's version (`prunekit/methods/eapruning/leading.py`) against `pk.prune` and a repair that knows nothing of factors:

# %% tags=["nbval-check-output"]
from prunekit.reconstruct import reconstruct  # prunekit/reconstruct.py

few, _ = data.split(preset, source, torch.device("cpu"), seed=0)
candidate = at_width(0.6)
plan = space.plan(candidate)
small = pk.prune(model, space.groups, plan)
repaired = reconstruct(model, small, space.groups, plan, few, samples=8, ridge=1e-8)
with torch.no_grad():
    masked = rebuilder.masked(candidate)(images)
    pruned = rebuilder.small(candidate)(images)
    other = repaired(images)
print(
    "masked, then rebuilt = pruned, then rebuilt:",
    torch.allclose(masked, pruned, atol=1e-3),
)
agree = (other.argmax(1) == pruned.argmax(1)).double().mean()
print(f"the same answers as reconstruct's: {agree:.0%}")

# %% [markdown]
# ## 6 · The front
#
# Small and exact pull in different directions, so there is no best network. There is a **front**: those that nobody beats
# in both.
#
# ### Exercise 4 ★ (5 minutes): who is not beaten


# %% tags=["nbval-check-output"]
def front(points):
    """points: list of (cost, error) -> the front, the cheapest first."""
    return None  # your code here


check("08.4", front)

# %% [markdown]
# {{solution 08.4}}
#
# To say that one search beats another you need one number for a front. The **hypervolume** is the area of all that it beats,
# up to the worst corner (1, 1). It grows when a point gets better, and when a gap is filled.
#
# ### Exercise 5 ★★ (6 minutes): the area behind it


# %% tags=["nbval-check-output"]
def area(front):
    """front: list of (cost, error), the cheapest first -> area up to (1, 1)."""
    return None  # your code here


check("08.5", area)

# %% [markdown]
# {{solution 08.5}}

# %% [markdown]
# ## 7 · NSGA-III in one picture
#
# Each generation: cross two candidates (each count from one parent or the other), change a few counts, evaluate, and let
# the better ones survive. *Better* has two parts. First the front, then the front of the rest, and so on. Within the last
# one that fits only in part, **reference directions** decide: they fan out over the objectives, each candidate belongs to the
# nearest one, and directions with few candidates are served first. So the survivors spread over all sizes.

# %% tags=["hide-input"]
import numpy as np

first = [
    (cost, error) for error, cost in map(fitness, space.draw(40, seed=0, how="spread"))
]
points = np.array(first)
unit = (points - points.min(0)) / np.ptp(points, 0)
fan = np.linspace(0, 1, 9)
directions = np.stack([fan, 1 - fan], 1)
directions /= np.linalg.norm(directions, axis=1, keepdims=True)
along = unit @ directions.T
gap = np.linalg.norm(unit[:, None] - along[..., None] * directions, axis=2)
owner = gap.argmin(1)
fig, ax = plt.subplots(figsize=(5, 4.4), layout="constrained")
for d in directions:
    ax.plot([0, 1.3 * d[0]], [0, 1.3 * d[1]], color="0.85", lw=1, zorder=0)
for k in range(9):
    mine = unit[owner == k]
    ax.scatter(mine[:, 0], mine[:, 1], s=36, color=(blue, orange)[k % 2])
clean(ax, "cost, stretched to 0 .. 1", "error, stretched to 0 .. 1")
ax.set(xlim=(-0.05, 1.1), ylim=(-0.05, 1.1))
show(
    fig,
    alt="Forty candidates and nine grey reference directions that fan out from the "
    "corner; candidates are coloured by the direction they are nearest to.",
)

# %% [markdown]
# ## 8 · The search
#
# 200 candidates: 40 at the start, then ten generations of 16. The cost of one is a forward pass of 200 images; rebuilding is a
# small part of it. Beside it, 200 candidates by dice from the same start.
#
# **Predict first.** Where does evolution win most: at small networks, at large ones, or in the middle?

# %%
from prunekit.methods import eapruning

settings = eapruning.Settings(40, 16, 10, sampling="spread")
found = eapruning.search(fitness, settings, quiet=True)
chance = eapruning.search(fitness, settings, how="random", quiet=True)
print(f"{settings.budget} candidates each")

# %%
from prunekit.widgets import explore_fronts, front_strip  # prunekit/widgets/fronts.py

show(
    front_strip(found.points(), rival=chance.points()),
    alt="Four frames of the search, from the start to the last generation: all "
    "candidates, the new ones, the front, and the front of a random search.",
)

# %% tags=["hide-input"]
fig, ax = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
for name, one, color in (("NSGA-III", found, blue), ("random", chance, orange)):
    ax.plot(one.hypervolumes(), "o-", ms=4, color=color, lw=2, label=name)
ax.legend(fontsize=12, frameon=False, loc="lower right")
clean(ax, "generation", "hypervolume")
show(
    fig,
    alt="Hypervolume by generation of NSGA-III and of a random search with as many "
    "candidates; both start at the same value and never fall.",
)

# %% [markdown]
# **What to see.** Both lines start together, since the start is the same, and neither can fall. They also end close
# together: with a start that has networks of all sizes, and so few generations, chance is hard to beat. One seed proves
# nothing either way; the table in section 11 has several, from starts as the paper has them. Move through the generations
# yourself:

# %%
explore_fronts(found.points(), rival=chance.points())

# %% [markdown]
# ## 9 · From the front to a network
#
# Take the best one with at most half of the MACs. The certificate speaks about the cut, before weights were rebuilt.
# Then it is trained in two ways: on from its rebuilt weights, and **from scratch**, with fresh ones.
#
# **Predict first.** With equally few steps, which one is ahead?

# %% tags=["nbval-check-output"]
plan, worth = found.within(0.5)
cut_net = pk.prune(model, lab.groups, plan)
certificate = pk.check_equivalence(model, cut_net, lab.groups, plan, images[:1])
print(
    "the cut is exact:",
    certificate.max_error < 1e-9,
    "- at most half:",
    worth.cost <= 0.5,
)

# %%
from prunekit.course.experiments import adamw, training
from prunekit.train import finetune


def tuned(network, steps=40):
    task = training(adamw(steps, 64, 0.002), source.train, source.loss, seed=0)
    config = replace(task.config, quiet=True)
    return finetune(network, task.loader, config, loss_fn=task.loss_fn).model


small = rebuilder.small(worth.counts)
networks = {
    "dense": model,
    "cut": cut_net,
    "rebuilt": small,
    "rebuilt, fine-tuned": tuned(small),
    "from scratch": tuned(eapruning.from_scratch(small, model)),
}
for name, network in networks.items():
    print(f"{name:20} top-1 {source.measure(network)['top1']:.3f}")

# %% [markdown]
# Forty steps are few: the fresh weights have only begun. The paper gives them three times as many steps as the
# rebuilt ones, and says that they then win (claim E5, below).
#
# ## 10 · The same for MobileNetV1, DeiT and a segmenter
#
# Nothing in the method knows what a network looks like: counts come from `find_groups`, so a transformer gives *heads* and *hidden
# neurons* (its embedding stays as it is: behind a LayerNorm no rebuilding is exact). The paper has no segmenter. Here is one, at 70 % of the channels
# of every group:


# %%
def uniform(name, share, **few):
    """(error of the dense network, cut, rebuilt, MACs) at one width for all groups."""
    given = replace(preset_of("mini", name), **few)
    pictures = data.sources(given, None)
    ready = prepare(given, pictures, dense_model(given, pictures.classes)).fitness
    whole = ready.rebuilder.space.whole
    counts = tuple(max(1, round(share * size)) for size in whole)
    rebuilt, cost = ready(counts)
    return ready(whole)[0], replace(ready, rebuild=False)(counts)[0], rebuilt, cost


rows = {
    "MobileNetV1": uniform("mobilenet", 0.7, held=200),
    "DeiT": uniform("deit", 0.7, held=200),
    "DeepLabV3 (1 - mIoU)": uniform("segmenter", 0.7, images=30, held=16),
}
print(f"{'error':22} dense   cut  rebuilt   MACs")
for name, (dense, cut, rebuilt, cost) in rows.items():
    print(f"{name:22} {dense:5.2f} {cut:5.2f} {rebuilt:8.2f} {cost:6.0%}")

# %% [markdown]
# **What to see.** Rebuilding helps the two convolutional networks most; DeiT loses little at this width in either way, so there is
# little to win back. One layer after the other is matched on what the *original* network would have seen, so errors of earlier layers add up; the finer way, layer by layer on what the cut
# network really sees, is `eapruning.asymmetric` (one pass for each layer, so it is for chosen networks only):

# %%
one = eapruning.asymmetric(rebuilder, worth.counts, few, samples=8)
both = [source.measure(network)["top1"] for network in (small, one)]
print(f"rebuilt on original inputs {both[0]:.3f}, on its own {both[1]:.3f}")

# %% [markdown]
# ## 11 · Paper and ours
#
# ### Which layers does evolution prune? (Figure 6)
#
# For DeiT-Base the paper reports that the last block goes first, then those near the image (a cone), and at stronger cuts the
# middle too (a double hump). Ours has eight blocks. The lines are means over the seeds of the stored runs.

# %% tags=["hide-input"]
from prunekit.course import ledger

fig, axes = plt.subplots(1, 2, figsize=(6, 3.2), sharey=True, layout="constrained")
runs = [entry for entry in ledger.load("E7") if entry.method.startswith("last")]
for size, color in (("−24 %", blue), ("−42 %", orange)):
    rows = [r.metrics["counts"] for r in runs if r.method.endswith(size)]
    if rows:
        mean = np.array(rows).mean(0)
        for ax, part in zip(axes, (mean[0::2] / 8, mean[1::2] / 256)):
            ax.plot(range(1, 9), part, "o-", color=color, lw=2, label=f"{size} MACs")
for ax, title in zip(axes, ("heads kept", "neurons kept")):
    clean(ax, "block", "share", ylim=(0, 1.05), xticks=range(1, 9), title=title)
axes[0].legend(fontsize=11, frameon=False, loc="lower left")
show(
    fig,
    alt="Share of heads and of hidden neurons that stays in each of DeiT's eight "
    "blocks at two sizes of plan, means over seeds.",
)

# %% [markdown]
# ### The claims
#
# Numbers are percent. *Reproduced* needs three seeds or more and a difference that they do not explain.

# %%
from prunekit.course import claims

claims.table("E2", "E3")

# %%
claims.table("E4", "E5", "E6", "E7")

# %% [markdown]
# **What we simplified.** The paper's networks see ImageNet, ours see crops of drawn streets, with five classes and an error near
# zero: there is little to lose before half of the network is gone. Its searches take 1,564 candidates, ours 300. It does not say
# how it crosses and mutates; ours are in `prunekit/methods/eapruning/evolution.py`. It takes the plans from the last generation, we
# take them from everything that was evaluated. The full presets (`prunekit run eapruning --scale full`) have its numbers.

# %%
quiz("08")

# %% [markdown]
# ## Key points
#
# - A cut destroys weights, and least squares brings many of them back, without labels and without training.
# - One Gram matrix a layer serves all candidates; one Cholesky factor serves all widths.
# - A candidate is a list of counts. Which channels they are is left to the dice.
# - A front, not a winner: hypervolume compares searches, several seeds judge them.
#
# ## On your own model

# %%
from prunekit.models import zoo

mine = zoo.load("mobilenet_mini")
pictures, labels = map(
    torch.stack,
    zip(*((i, torch.tensor(k)) for i, k in (source.plain[n] for n in range(300)))),
)
groups = pk.find_groups(mine, pictures[:1])
found = eapruning.search_plan(
    mine,
    groups,
    [(pictures[:200], None)],  # to rebuild on
    eapruning.Misclassified(pictures[200:], labels[200:]),  # to judge by
    settings=eapruning.Settings(16, 8, 2, sampling="spread"),
    quiet=True,
)
for _, worth in found.plans(3):
    print(f"{worth.cost:5.0%} of the MACs, error {worth.error:.2f}")

# %% [markdown]
# With `processes=2` two workers share out the candidates, `checkpoint="search"` lets you stop and go on, and under `accelerate
# launch` all GPUs take part; the result is the same.
#
# **References.** Li et al., *EAPruning*, 2022; Deb and Jain, *NSGA-III*, 2014; He et al., *Channel Pruning*, 2017. All are in
# the [references](../book/references.md). Before this: [lesson 05](05_sirfp.ipynb); what a plan is worth on a device:
# [lesson 09](09_deploy.ipynb).

# %% tags=["volatile"]
course.footer()
