# %% [markdown]
# # MTP: one backbone, two tasks
#
# {{badge}}
#
# {{minutes}}
#
# **You will be able to**
#
# - *explain* why a segmentation network has two tasks, though it is trained on one,
# - *sparsify* batch-norm scales by hand, so that they become exactly zero,
# - *derive* the augmented Lagrangian term by term, and *see* what each term does and what a wrong sign does,
# - *choose* two thresholds, one for the backbone and one for the decoder,
# - *prune* a DeepLabV3 with two tasks in turn, and *say* what the runs show and what they do not.
#
# **You need** [lesson 00](00_quickstart.ipynb) for the words (group, score, plan) and
# [lesson 03](03_importance.ipynb) for network slimming and the rule that compares methods.

# %%
import subprocess
import sys
from importlib.util import find_spec

if find_spec("prunekit") is None:  # on Colab and Kaggle
    package = "prunekit[quiz] @ git+{{repo}}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

from prunekit.course import check, quiz, setup, show

course = setup("04_mtp", version="{{version}}")

# %% [markdown]
# ## 1 · The problem: a task that nobody mentions
#
# Nearly every segmentation network begins as a classifier. Its backbone learns from a million labelled pictures what an edge, a
# wheel or a face is; then a decoder is put on top, and the whole learns to segment from a few thousand. When you
# prune that network, which task do you ask?
#
# Let us watch what segmentation does to what was learnt before. The first task: *what is in the middle of this patch?* Twelve
# classes, patches of 32 pixels, streets by day and night, in fog, snow and desert
# (`prunekit/data/scenes/patches.py`). The second task: segment streets by day. A backbone learns the first, then
# it is put into the segmenter and learns the second. From time to time we put it back under the *old* classifier's head,
# which nobody has touched.
#
# **Predict first.** After eighty steps of segmentation: how much does the old head still name rightly?

# %%
import copy
from functools import partial

import torch
from torch.utils.data import DataLoader

import prunekit as pk
from prunekit.course.tasks import load_task  # prunekit/course/tasks.py
from prunekit.data.scenes import CLASSES, ScenePatches
from prunekit.methods import mtp  # prunekit/methods/mtp
from prunekit.metrics import evaluate, top1
from prunekit.models import zoo
from prunekit.models.classifier import Classifier
from prunekit.train import TrainConfig, classification_loss, finetune

task = load_task("scenes", train_count=200, test_count=50)
patches, unseen = ScenePatches(250, seed=0), ScenePatches(50, seed=1)
segmenter = zoo.load("deeplabv3_mini")
torch.manual_seed(0)
fresh = Classifier(copy.deepcopy(segmenter.backbone), len(CLASSES))


# %%
def adam(steps, lr):
    """Settings of an ordinary training."""
    more = {"optimizer": "adamw", "weight_decay": 0.01, "schedule": "cosine"}
    return TrainConfig(steps=steps, lr=lr, seed=0, quiet=True, **more)


objects = DataLoader(patches, 32, shuffle=True)
streets = DataLoader(task.train, 4, shuffle=True)
config = adam(120, 0.002)
classifier = finetune(fresh, objects, config, loss_fn=classification_loss).model
whole = mtp.with_backbone(segmenter, classifier)
print(f"{len(patches)} patches to learn from, {len(unseen)} to test on")

# %%
remembered = {}


def look_back(step, network):
    """The segmenter's backbone under the old classifier's head."""
    old = copy.deepcopy(classifier)
    old.backbone.load_state_dict(network.backbone.state_dict())
    remembered[step] = top1(old, DataLoader(unseen, 100))


look_back(0, whole)
for steps in (20, 20, 40):
    config = adam(steps, 0.003)
    whole = finetune(whole, streets, config, loss_fn=task.loss).model
    look_back(max(remembered) + steps, whole)

# %% tags=["hide-input"]
from matplotlib import pyplot as plt

from prunekit import viz

fig, ax = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
ax.plot(list(remembered), list(remembered.values()), "o-", color=viz.colors(1)[0], lw=2)
ax.axhline(1 / len(CLASSES), color="0.6", ls="--", lw=1)
ax.text(80, 1 / len(CLASSES) + 0.02, "a guess", ha="right", color="0.4", fontsize=11)
ax.set_xlabel("steps of segmentation", fontsize=12)
ax.set_ylabel("top-1 of the old head", fontsize=12)
ax.set(ylim=(0, 0.5), xticks=list(remembered))
ax.spines[["top", "right"]].set_visible(False)
show(
    fig,
    alt="Top-1 accuracy of the untouched classification head against steps of "
    "segmentation: it falls by nearly half in twenty steps, then stays there.",
)

# %% [markdown]
# **What to see.** Segmentation moves the backbone, and much of what it knew about patches is no longer where the old head
# looks for it: twenty steps cost nearly half of the top-1. Nothing in the segmentation loss asks for it. For a dense network
# that may not matter: there is room for both. A network from which you are about to take half of the channels has no room to
# spare, and whoever chooses the channels by the segmentation loss alone does not see what the other task needs.
#
# The paper's own evidence (Chen et al. 2022, Table 1) is slimming at half of the channels: fine-tuned on segmentation alone it
# loses 6.5 points, with ImageNet first only 2.4. Here is the table, with our runs beside it. *With* and *without* mean: with
# classification before segmentation, or without; *as long* puts the steps that this saves into segmentation.

# %%
from prunekit.course import claims  # prunekit/course/claims

claims.table("M2")

# %% [markdown]
# **What to see.** The paper's effect is large. Ours is not there: going without classification costs our mini networks
# nothing. Keep that in mind for the whole lesson. On ImageNet a backbone learns what no segmentation set teaches. Our streets
# are drawn by a program, a thousand of them seem to be enough to learn what there is to see, and neither crops of such
# streets (DeepLabV3) nor patches from five worlds (BiSeNet) add anything. The *mechanism* can be seen and tested at mini
# scale; its *profit* needs a first task that knows more than the second.

# %% [markdown]
# ## 2 · The method in one figure

# %% tags=["hide-input"]
blue, orange, green = viz.colors(3)
boxes = (
    (0.0, 2.0, "classifier's\nbackbone W1", blue),
    (0.0, 3.2, "patches", "0.5"),
    (2.2, 2.0, "segmenter's\nbackbone W3", orange),
    (2.2, 3.2, "decoder W2", green),
    (4.1, 3.2, "streets", "0.5"),
    (1.1, 0.4, "one sparse backbone\nτ1 cuts it, τ2 the decoder", "0.2"),
)

# %% tags=["hide-input"]
fig, ax = plt.subplots(figsize=(5.4, 4.6), layout="constrained")
for x, y, text, color in boxes:
    look = {"boxstyle": "round,pad=0.5", "fc": "w", "ec": color, "lw": 2}
    ax.text(x, y, text, ha="center", va="center", fontsize=11, bbox=look)
for start, end in (((0, 2.5), (0, 2.95)), ((2.2, 2.5), (2.2, 2.95))):
    ax.annotate("", end, start, arrowprops={"arrowstyle": "<->", "color": "0.5"})
ax.annotate(
    "", (3.0, 3.2), (3.6, 3.2), arrowprops={"arrowstyle": "<->", "color": "0.5"}
)
ax.plot([0.75, 1.45], [2, 2], color="0.2", lw=3)
ax.text(1.1, 2.25, "E, μ", ha="center", fontsize=12)
for x in (0.3, 1.9):
    ax.annotate("", (1.1, 0.9), (x, 1.5), arrowprops={"arrowstyle": "->", "lw": 1.5})
ax.set(xlim=(-0.9, 4.8), ylim=(-0.1, 3.7))
ax.set_axis_off()
show(
    fig,
    alt="Two copies of a backbone, one under a classifier, one under a decoder, held "
    "together by a rod named E and mu; below them the one sparse backbone.",
)

# %% [markdown]
# 1. **Two copies** of one backbone: $W_1$ classifies, $W_3$ segments under a decoder $W_2$.
# 2. They take **turns**: some steps of classification, some of segmentation.
# 3. A penalty makes **batch-norm scales** small where a task does not hold them.
# 4. A rod holds the copies **together**: in the end $W_1 = W_3$, and a channel survives if *either* task wants it.
# 5. Two **thresholds** cut, one for the backbone, one for the decoder. Then the small network learns both tasks again,
#    classification first.
#
# | letter | meaning |
# | --- | --- |
# | $W_1, W_2, W_3$ | weights: classifier's backbone, decoder, segmenter's backbone |
# | $\gamma_1, \gamma_2, \gamma_3$ | the batch-norm scales among them, one a channel |
# | $\alpha_1, \alpha_2$ | how hard the penalty pulls scales to zero |
# | $\lambda$ | weight of the segmentation loss |
# | $E, \mu$ | multipliers, as many as $W_1$; weight of the quadratic penalty |
# | $\rho$ | growth of $\mu$ from round to round, above 1 |
# | $\tau_1, \tau_2$ | thresholds of backbone and decoder |

# %% [markdown]
# ## 3 · Slimming by hand: a scale that becomes zero
#
# Network slimming (Liu et al. 2017) adds $\alpha \sum |\gamma|$ to the loss: each scale is pulled to zero with the *same*
# force $\alpha$, and the loss pulls back where the channel is of use.
#
# How do you minimise that? The derivative of $|\gamma|$ is $+1$ or $-1$, and at zero there is none. Take it nevertheless (a
# *subgradient*), and a scale near zero jumps from one side to the other for ever. The clean way: first a step on the loss, then
# solve the rest exactly. For a step of size $s$ that is *soft-thresholding* with $t = s\alpha$:
#
# $$\gamma \leftarrow \operatorname{sign}(\gamma)\,\max(|\gamma| - t,\; 0)$$
#
# ### Exercise 1 ★ (4 minutes): soft-thresholding
#
# `check` (`prunekit/course/checks.py`) runs your function on small examples. If you are stuck: `hint("04.1")`.


# %% tags=["nbval-check-output"]
def soft(x, t):
    """x: tensor, t: a positive number -> tensor like x."""
    return None  # your code here


check("04.1", soft)

# %% [markdown]
# {{solution 04.1}}
#
# Twelve channels, each of use to the loss $\tfrac12(\gamma - u)^2$ to a degree $u$; the penalty pulls with $\alpha = 0.3$.
#
# **Predict first.** Which of the twelve end at zero? And what do the two ways of stepping make of them?


# %%
def shrink(x, t):
    """Soft-thresholding."""
    return x.sign() * (x.abs() - t).clamp_min(0)


use = torch.linspace(0, 1.1, 12)
step, alpha = 0.1, 0.3
paths = {"subgradient": [torch.ones(12)], "soft-thresholding": [torch.ones(12)]}
for _ in range(120):
    gamma = paths["subgradient"][-1]
    paths["subgradient"].append(gamma - step * (gamma - use + alpha * gamma.sign()))
    gamma = paths["soft-thresholding"][-1]
    paths["soft-thresholding"].append(
        shrink(gamma - step * (gamma - use), step * alpha)
    )

# %% tags=["nbval-check-output"]
print("of 12:            exactly 0  below 0.05")
for name, path in paths.items():
    zeros = (path[-1] == 0).sum().item()
    small = (path[-1].abs() < 0.05).sum().item()
    print(f"{name:18}{zeros:9}{small:12}")

# %% tags=["hide-input"]
fig, axes = plt.subplots(2, 1, figsize=(5.2, 5), layout="constrained", sharex=True)
for ax, (name, path) in zip(axes, paths.items()):
    lines = torch.stack(path)
    for number, line in enumerate(lines.T):
        color = blue if use[number] > alpha else orange
        ax.plot(line.tolist(), color=color, lw=1.3)
    ax.set_title(name, fontsize=12)
    ax.set_ylabel("scale γ", fontsize=12)
    ax.set(xlim=(0, 120), ylim=(-0.08, 1.02))
    ax.spines[["top", "right"]].set_visible(False)
axes[1].set_xlabel("steps", fontsize=12)
show(
    fig,
    alt="Twelve scales over 120 steps, by subgradient and by soft-thresholding: useful "
    "ones settle at different heights; the others reach zero, where only "
    "soft-thresholding keeps them still.",
)

# %% [markdown]
# **What to see.** Who is of less use than $\alpha$ goes to zero, whatever its scale was at the start: the first three. (The
# fourth sits right on $u = \alpha$: it creeps towards zero and gets there in no finite number of steps.) And who stays pays
# $\alpha$ as well: every survivor settles $\alpha$ below its use. By subgradient the useless ones tremble around zero; after
# soft-thresholding they *are* zero, and the channel can go without any change of the output. The library takes
# soft-thresholding for this reason.
#
# A warning that will come back in section 6: the penalty takes the same $s\alpha$ from *all* scales in a step. Until the first ones
# are near the point where the loss holds them, all you see is everybody becoming smaller at the same speed.

# %% [markdown]
# ## 4 · One weight, two tasks: the Lagrangian term by term
#
# We want one backbone that minimises both losses (Eq. 4). Their data are in two loaders, their networks have different heads,
# one has batches of 256 and the other of 16. So give each task a copy, and ask that the copies be equal (Eq. 5):
#
# $$\min\; \ell_\text{cls}(W_1) + \lambda\, \ell_\text{seg}(W_3, W_2) + \text{L1 terms} \quad\text{such that}\quad W_1 = W_3$$
#
# Take the smallest case: one weight, and two parabolas that disagree.
#
# $$f(w_1) = \tfrac{a}{2} (w_1 - p)^2 \qquad g(w_3) = \tfrac{b}{2} (w_3 - q)^2 \qquad \text{best common } w^* = \frac{ap + bq}{a + b}$$
#
# **First try: the losses alone.** $w_1 = p$, $w_3 = q$. Nobody agrees.
#
# **Second try: a spring,** $\tfrac{\mu}{2}(w_1 - w_3)^2$. It pulls the copies together. But a spring pulls only while it is
# *stretched*: at rest the losses would pull the copies apart again, so a gap stays. A stiffer spring leaves a smaller gap, never
# none, and a very stiff one freezes both copies where they met.
#
# **Third try: a force,** $E\,(w_1 - w_3)$. At $w^*$ the classifier's loss still wants to move with slope $f'(w^*)$. If a constant
# force $E = -f'(w^*)$ is added, $w_1$ can stand still there without any spring. We do not know this force. But we can *learn* it:
# whatever the spring had to pull at the end of a round, the force takes over in the next (Eq. 10):
#
# $$E \leftarrow E + \mu (w_1 - w_3), \qquad \mu \leftarrow \rho \mu$$
#
# A loss with a force and a spring for each condition is called an *augmented Lagrangian*; $E$ are its *multipliers*.
#
# All together, for $w_1$ (Eq. 7), and for $w_3$, where $E$ has the *other sign*, because it stands with $-w_3$ (Eq. 9).
# $g$ is the segmentation loss with its weight $\lambda$:
#
# $$L_1 = f(w_1) + E (w_1 - w_3) + \tfrac{\mu}{2} (w_1 - w_3)^2 + \alpha_1 |\gamma_1| $$
#
# $$L_3 = g(w_3) + E (w_1 - w_3) + \tfrac{\mu}{2} (w_1 - w_3)^2 + \alpha_2 |\gamma_3| $$
#
# The decoder has no second copy, so nothing pulls it. It sees the loss and its own L1 term (Eq. 8):
#
# $$L_2 = g(w_3, w_2) + \alpha_2 |\gamma_2| $$
#
# ### Exercise 2 ★★★ (10 minutes): one step for $W_1$
#
# A step of gradient descent on the loss has brought $w_1$ to $v$. Now solve the rest exactly, without L1:
#
# $$w = \arg\min_w\; \frac{1}{2s} (w - v)^2 + e\,(w - w_3) + \frac{\mu}{2} (w - w_3)^2$$


# %% tags=["nbval-check-output"]
def step_first(v, w3, e, s, mu):
    """v, w3, e (D,), s, mu: numbers -> w (D,)."""
    return None  # your code here


check("04.2", step_first)

# %% [markdown]
# {{solution 04.2}}
#
# ### Exercise 3 ★ (4 minutes): the end of a round
#
# Eq. 10: give the new $E$ and the new $\mu$.


# %% tags=["nbval-check-output"]
def end_of_round(e, w1, w3, mu, rho):
    """e, w1, w3 (D,), mu, rho: numbers -> the new e (D,), the new mu."""
    return None  # your code here


check("04.3", end_of_round)

# %% [markdown]
# {{solution 04.3}}
#
# Now the whole alternation, ours. `sign` is what Eq. 10 multiplies by: $+1$ as it should be, $0$ for a spring alone, $-1$ for a
# flipped sign.

# %%
a, p = torch.tensor([1.0, 3.0, 0.5]).double(), torch.tensor([1.0, -1.0, 2.0]).double()
b, q = torch.tensor([2.0, 1.0, 1.5]).double(), torch.tensor([-1.0, 2.0, 0.0]).double()
best = (a * p + b * q) / (a + b)


def pulled(v, other, e, s, mu):
    """What is left of the Lagrangian, after a step of size s on the loss."""
    return (v + s * (mu * other - e)) / (1 + s * mu)


def alternate(rounds, sign=1, rho=1.1, mu=1.0, s=0.05, turns=40):
    """For every round E, w1, w3 and mu as it begins, and w1, w3 as it ends."""
    w1, w3, e, story = torch.zeros(3).double(), torch.zeros(3).double(), 0.0 * p, []
    for _ in range(rounds):
        begun = (e, w1, w3, mu)
        for _ in range(turns):
            w1 = pulled(w1 - s * a * (w1 - p), w3, e, s, mu)
        for _ in range(turns):
            w3 = pulled(w3 - s * b * (w3 - q), w1, -e, s, mu)
        story.append((*begun, w1, w3))
        e, mu = e + sign * mu * (w1 - w3), rho * mu
    return story


# %% [markdown]
# **See each term.** The first of the three weights. What does $w_1$ see, in the first round, the third, the twentieth?

# %% tags=["hide-input"]
story = alternate(20)
grid = torch.linspace(-1.5, 1.5, 200).double()


def terms_of(number):
    """What the first weight's w1 sees in a round."""
    e, _, _, mu, _, w3 = story[number]
    return {
        "loss": a[0] / 2 * (grid - p[0]) ** 2,
        "force E": e[0] * (grid - w3[0]),
        "spring μ": mu / 2 * (grid - w3[0]) ** 2,
    }


# %% tags=["hide-input"]
fig, axes = plt.subplots(3, 1, figsize=(5.2, 7.5), layout="constrained", sharex=True)
for ax, number in zip(axes, (0, 2, 19)):
    terms = terms_of(number)
    for (name, line), color in zip(terms.items(), (blue, green, orange)):
        ax.plot(grid, line - line.min(), color=color, lw=1.5, label=name)
    total = sum(terms.values())
    ax.plot(grid, total - total.min(), color="k", lw=2.5, label="all")
    ax.axvline(best[0], color="0.6", ls="--", lw=1)
    ax.plot(grid[total.argmin()], 0, "ko", ms=7, clip_on=False)
    ax.set_title(f"round {number + 1}", fontsize=12)
    ax.set(ylim=(0, 4), yticks=[])
    ax.spines[["top", "right", "left"]].set_visible(False)
axes[0].legend(frameon=False, fontsize=10, ncols=4, loc="upper center")
axes[2].set_xlabel("w1 (dashed: the best common w)", fontsize=12)
show(
    fig,
    alt="Loss, force, spring and their sum over w1 in rounds 1, 3 and 20: the minimum "
    "of the sum moves from beside the dashed line onto it, while the force tilts more.",
)

# %% [markdown]
# **What to see.** In round 1 there is no force yet: the sum has its minimum between the loss's own and $w_3$, beside the
# dashed line. Then the force tilts the sum, a little more each round, until the minimum stands on the line.
#
# ### The residual, and a flipped sign
#
# The *residual* $\lVert W_1 - W_3 \rVert$ says how far the copies are apart.
#
# **Predict first.** Three curves over forty rounds: Eq. 10 as it is; a spring alone that never gets stiffer ($E = 0$, $\rho = 1$);
# and the flipped sign.

# %% tags=["nbval-check-output"]
runs = {
    "Eq. 10": alternate(60),
    "spring alone": alternate(60, sign=0, rho=1.0),
    "sign flipped": alternate(60, sign=-1),
}
gaps = {
    name: [(w1 - w3).norm().item() for *_, w1, w3 in run] for name, run in runs.items()
}
print("residual in  round 1      10      40 error")
for name, gap in gaps.items():
    error = (runs[name][39][4] - best).norm().item()
    row = "".join(f"{gap[n]:8.0e}" for n in (0, 9, 39))
    print(f"{name:12}{row}{error:7.0e}")
print("(error: how far w1 is from the best w, in round 40)")

# %% tags=["hide-input"]
fig, ax = plt.subplots(figsize=(5.2, 3.8), layout="constrained")
for (name, gap), color in zip(gaps.items(), (blue, "0.4", orange)):
    ax.semilogy(range(1, 41), gap[:40], color=color, lw=2)
    ax.text(40.8, gap[39], name, color=color, fontsize=12, va="center")
ax.set_xlabel("round", fontsize=12)
ax.set_ylabel("residual", fontsize=12)
ax.set(xlim=(1, 54), xticks=(1, 10, 20, 30, 40))
ax.spines[["top", "right"]].set_visible(False)
show(
    fig,
    alt="Residual over 40 rounds on a logarithmic scale: with Eq. 10 it falls by many "
    "powers of ten, with a spring alone it stays, with a flipped sign it grows.",
)

# %% [markdown]
# **What to see.** With Eq. 10 the gap closes, and both copies stand on $w^*$. The spring alone stops at a
# compromise. With the flipped sign each round pushes the copies further apart: the force now works *for* the
# disagreement. If a residual of yours does not fall, look at that sign first.
#
# **The library's way** (`prunekit/methods/mtp/coupling.py`) does the same for all parameters of a backbone:

# %% tags=["nbval-check-output"]
w1, w3 = torch.zeros(3).double(), torch.zeros(3).double()
coupling = mtp.Coupling({"w": w1}, {"w": w3}, mu=1.0, rho=1.1)
for _ in range(60):
    for _ in range(40):
        w1 -= 0.05 * a * (w1 - p)
        coupling.pull_first(0.05)
    for _ in range(40):
        w3 -= 0.05 * b * (w3 - q)
        coupling.pull_third(0.05)
    coupling.update()
assert torch.allclose(w1, runs["Eq. 10"][-1][4], atol=1e-12)
assert torch.allclose(w3, runs["Eq. 10"][-1][5], atol=1e-12)
print("library = ours: yes; error below 1e-6:", (w1 - best).abs().max().item() < 1e-6)

# %% [markdown]
# ## 5 · On a network
#
# Who may go? In a residual block the sum has to fit the block before, so the paper prunes only what is *inside* a block: the
# first convolution of a basic block, the first two of a bottleneck. `split` finds those, and calls all outside the backbone the
# decoder.

# %% tags=["nbval-check-output"]
images, truth = task.examples(8)
groups = pk.find_groups(segmenter, images[:1])
start = mtp.with_backbone(segmenter, classifier)
parts = mtp.split(start, groups)
for title, part in (("backbone", parts.backbone), ("decoder", parts.decoder)):
    print(f"{title}: {sum(part[name].size for name in part)} channels may go")
    for name in part:
        print(f"   {name:36}{part[name].size:4}")

# %% [markdown]
# One round from scratch on the real network, two steps for each task, and the library's beside it. Batch and order are fixed,
# so that both see the same pictures. (The optimizer is SGD without momentum; with it, a step has the size
# $s = \text{lr} / (1 - 0.9)$, since ten steps' gradients add up.)

# %%
x_obj = torch.stack([patches[i][0] for i in range(8)])
y_obj = torch.tensor([patches[i][1] for i in range(8)])
x_str = torch.stack([task.train[i][0] for i in range(2)])
y_str = torch.stack([task.train[i][1] for i in range(2)])
scales = parts.scales(start)
inner = {name.removeprefix("backbone.") for name in scales["backbone"]}
S, ALPHA, MU = 0.01, 0.05, 0.5
calm = copy.deepcopy(start)
for module in calm.modules():
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0  # dice would differ in the two


# %%
def scratch():
    """W1, then W3 and W2, as in section 4; E is still 0 in the first round."""
    first, third = copy.deepcopy(classifier).train(), copy.deepcopy(calm).train()
    pairs = (
        dict(first.backbone.named_parameters()),
        dict(third.backbone.named_parameters()),
    )
    for net, x, y, loss, mine, other in (
        (first, x_obj, y_obj, classification_loss, *pairs),
        (third, x_str, y_str, task.loss, *pairs[::-1]),
    ):
        for _ in range(2):
            net.zero_grad()
            loss(net(x), y).backward()
            with torch.no_grad():
                descend(net, mine, other)
    return first, third


# %%
def descend(net, mine, other):
    """A step on the loss for all, then what is left: shrink, pull together."""
    for name, w in net.named_parameters():
        w -= S * w.grad
        if name in scales["decoder"]:
            w.copy_(shrink(w, S * ALPHA))
    for name, w in mine.items():
        v = w + S * MU * other[name]
        if name in inner:
            v = shrink(v, S * ALPHA)
        w.copy_(v / (1 + S * MU))


ours = scratch()

# %% tags=["nbval-check-output"]
from torch.utils.data import TensorDataset

from prunekit.progressive import Training

plain = TrainConfig(
    2, S, momentum=0.0, weight_decay=0.0, schedule="constant", quiet=True
)
both = (
    Training(plain, DataLoader(TensorDataset(x_obj, y_obj), 8), classification_loss),
    Training(plain, DataLoader(TensorDataset(x_str, y_str), 2), task.loss),
)
one = mtp.Settings(rounds=1, alpha1=ALPHA, alpha2=ALPHA, mu=MU, rho=1.5)
theirs = mtp.alternate(classifier, calm, parts, *both, one)
for mine, library in zip(ours, (theirs.classifier, theirs.segmenter)):
    for (name, w), v in zip(mine.named_parameters(), library.parameters()):
        assert torch.allclose(w, v, atol=2e-5), name
print("the same weights as the library's: yes")

# %% [markdown]
# ## 6 · Sparse training for real
#
# Eight rounds of six steps each. That is very short: the paper trains for epochs of ImageNet. Both optimizers live through all
# rounds, and the weights of the two networks are copies; yours are left as they were.
#
# **Predict first.** After eight rounds, with $\mu$ growing 1.8-fold in each: how much do the backbones still differ? And do some
# scales fall to zero while others stay, as in section 3?

# %%
sgd = TrainConfig(48, 0.02, schedule="linear", seed=0, quiet=True)
classify = Training(sgd, objects, classification_loss)
segment = Training(sgd, DataLoader(task.train, 4, shuffle=True), task.loss)
settings = mtp.Settings(rounds=8, alpha1=0.1, alpha2=0.1, mu=0.1, rho=1.8)
sparse = mtp.alternate(classifier, start, parts, classify, segment, settings)
print("round     losses   residual / ||W1||    mu")
for each in sparse.history:
    losses = f"{each.classify:6.2f}{each.segment:6.2f}"
    print(f"{each.number:5}{losses}{each.relative:16.1e}{each.mu:10.2f}")

# %%
before = mtp.score(start, parts, classifier=classifier)
after = mtp.score(sparse.segmenter, parts, classifier=sparse.classifier)


def joined(scores, part):
    """All scales of a part, (N,)."""
    return torch.cat([scores[name] for name in part])


# %% tags=["hide-input"]
fig, axes = plt.subplots(2, 1, figsize=(5.2, 5.4), layout="constrained", sharex=True)
edges = torch.linspace(0, 1.6, 41).tolist()
for ax, (title, part) in zip(
    axes, (("backbone, γ1", parts.backbone), ("decoder, γ2", parts.decoder))
):
    for scores, name, color in ((before, "before", "0.7"), (after, "after", blue)):
        values = joined(scores, part).clamp_max(1.6).tolist()
        ax.hist(values, edges, color=color, alpha=0.8, label=name)
    ax.set_title(title, fontsize=12)
    ax.set_ylabel("channels", fontsize=12)
    ax.spines[["top", "right"]].set_visible(False)
axes[0].legend(frameon=False, fontsize=11)
axes[1].set_xlabel("scale γ", fontsize=12)
show(
    fig,
    alt="Histograms of the scales before and after sparse training, for backbone and "
    "decoder: both heaps have moved to the left.",
)

# %% [markdown]
# **What to see.** The copies begin equal, the two tasks pull them apart for two rounds, and then the residual falls: two
# tasks, one backbone. The scales have moved to the left. In so few
# steps they move mostly *together*: section 3's warning. What happens if the penalty has a third of the
# force, but more than three times as many steps, each two and a half times as large? Stored runs of BiSeNet, on patches of the
# same kind, with 160 steps of each task
# (`prunekit run claims M3`); *near zero* is below 0.001:

# %%
from statistics import mean

from prunekit.course import ledger  # prunekit/course/ledger.py


def stored(method, claim="M3", model="bisenet_mini"):
    """The metrics of all seeds of a stored run."""
    return [
        entry.metrics
        for entry in ledger.load(claim)
        if (entry.method, entry.settings["model"]) == (method, model)
    ]


print("near zero   backbone  decoder  seeds")
for method in ("slimming", "mtp"):
    runs = [run["near_zero"] for run in stored(f"{method} independent")]
    shares = [mean(run[part] for run in runs) for part in ("backbone", "decoder")]
    print(f"{method:10}" + "".join(f"{v:9.0%}" for v in shares) + f"{len(runs):7}")

# %% [markdown]
# **What to see.** Now there are heaps, and the two methods differ where the paper says they should. Under slimming most of
# the backbone's scales are near zero: streets by day can be segmented without them, so nothing holds them. Under MTP a
# classifier that has to know five worlds holds most of them up, and the rod carries that over to the segmenter. In the
# decoder, which classification does not reach, the two are much closer.
#
# %% [markdown]
# ## 7 · Two thresholds
#
# Which channels go? Those with the smallest scales. The paper cuts each part at its own threshold, such that the *same
# percentage* goes from both: $\tau_1$ is the largest scale that goes in the backbone (read from $\gamma_1$, the classifier's
# copy), $\tau_2$ in the decoder.
#
# ### Exercise 4 ★★ (6 minutes): $\tau_1$ and $\tau_2$
#
# `round(p * count)` channels of a part go.


# %% tags=["nbval-check-output"]
def taus(gamma1, gamma2, p):
    """gamma1 (N,), gamma2 (M,), p: the fraction that goes -> two numbers."""
    return None  # your code here


check("04.4", taus)

# %% [markdown]
# {{solution 04.4}}
#
# ### Exercise 5 ★★ (5 minutes): who is above
#
# A threshold says how many are left in each layer. But an empty layer cuts the network in two, so at least `least` stay.


# %% tags=["nbval-check-output"]
def widths(layers, tau, least):
    """layers: a list of scales, one tensor a layer -> a list of ints."""
    return None  # your code here


check("04.5", widths)

# %% [markdown]
# {{solution 04.5}}
#
# **Predict first.** With *one* threshold for both parts together: do backbone and decoder give the same share?

# %%
for how in ("independent", "unified"):
    tau = mtp.thresholds(parts, after, 0.5, how=how)
    print(f"here, {how:12} τ1 {tau.backbone:.3f}, τ2 {tau.decoder:.3f}")


# %%
def gone(record):
    """Shares of channels that a stored run removed from backbone and decoder."""
    net = zoo.load(record.settings["model"])
    whole, kept = pk.find_groups(net, images[:1]), record.metrics["widths"]
    for inside in (True, False):
        names = [name for name in kept if ("backbone" in name) == inside]
        yield 1 - sum(kept[n] for n in names) / sum(whole[n].size for n in names)


print("gone at half of the MACs  backbone  decoder")
for record in sorted(ledger.load("M3"), key=lambda r: r.settings["model"]):
    if record.seed == 0:
        if record.method == "mtp independent":
            print(record.settings["model"])
        shares = "".join(f"{share:9.0%}" for share in gone(record))
        print(f"   {record.method:21}{shares}")

# %% [markdown]
# **What to see.** Here, after seconds of training, the two parts have nearly equal scales, and one threshold would do. In the
# stored runs (above, seed 0 of each) it would not: it takes from wherever scales happen to be small. Look at BiSeNet. In
# MTP's network the classifier holds the backbone up, so one threshold bleeds the decoder. In slimming's nobody holds the
# backbone, and one threshold bleeds that. Nothing says that the spared part is the more important one. What it does to the
# mIoU comes in the next section.
#
# %% [markdown]
# ## 8 · End to end
#
# Cut, prove, learn again: first to classify, then, with that backbone, to segment.

# %%
plan = mtp.plan(parts, after, 0.5)
cut = pk.prune(sparse.segmenter, groups, plan)
print(pk.check_equivalence(sparse.segmenter, cut, groups, plan, images[:1]))
own = pk.find_groups(sparse.classifier, images[:1, :, :32, :32])
small_classifier = pk.prune(sparse.classifier, own, mtp.classifier_plan(plan, parts))
learn = (
    Training(adam(20, 0.002), objects, classification_loss),
    Training(adam(60, 0.003), DataLoader(task.train, 8, shuffle=True), task.loss),
)
tuned = mtp.retrain(small_classifier, cut, *learn)

# %%
from prunekit.plan import plan_macs

dense_macs = plan_macs(groups, pk.PruningPlan({}, {}))
share = plan_macs(groups, plan) / dense_macs
print(f"half of the channels, {share:.0%} of the MACs left")
print(plan.note.split(", tau1")[0])

# %%
print(f"{'':22}{'mIoU':>6}{'pole':>6}{'top-1':>7}")
rows = {
    "dense": (classifier, segmenter),
    "sparse, not yet cut": (sparse.classifier, sparse.segmenter),
    "cut, not yet tuned": (small_classifier, cut),
    "tuned": tuned,
}
for name, (labels, network) in rows.items():
    found = evaluate(network, task.test_loader(), len(task.classes))
    pole = found.iou[task.classes.index("pole")]
    correct = top1(labels, DataLoader(unseen, 100))
    print(f"{name:22}{found.miou:6.2f}{pole:6.2f}{correct:7.2f}")

# %%
with torch.no_grad():
    shown = {
        name: network(images[:3]).argmax(1)
        for name, network in (("dense", segmenter), ("small", tuned[1]))
    }
show(
    viz.mask_grid(
        images[:3], {"truth": truth[:3], **shown}, task.palette, task.classes
    ),
    alt="Three streets: true masks, those of the dense network and those of the small "
    "one after learning both tasks again.",
)

# %% [markdown]
# **What to see.** The cut is exact to rounding (the certificate), and still it costs most of the mIoU: scales that go are
# small, not zero. (`pole` is the IoU of the thinnest class.) Seconds of training bring much of it back, and *one* backbone
# does both jobs again. This is one short run, and by the rule of lesson 03 one run decides nothing.
#
# The paper tests some of its networks at six sizes, mirrored too, and averages what they say.
# `prunekit.multiscale.MultiScale` puts that around any network; here with three sizes:

# %%
from prunekit.multiscale import MultiScale  # prunekit/multiscale.py

several = MultiScale(tuned[1], (0.75, 1.0, 1.25))
found = evaluate(several, task.test_loader(), len(task.classes))
print(f"tuned, three sizes, mirrored: mIoU {found.miou:.2f}")

# %% [markdown]
# ### The other network
#
# BiSeNet has two paths and a backbone in only one of them, so `split` is told where. To keep it to seconds its scales are the
# stored network's own: no sparse training, and no classifier. The rest of the road is the same.

# %%
fast = zoo.load("bisenet_mini")
its_groups = pk.find_groups(fast, images[:1])
its_parts = mtp.split(fast, its_groups, "context.backbone")
its_plan = mtp.plan(its_parts, mtp.score(fast, its_parts), 0.5)
its_cut = pk.prune(fast, its_groups, its_plan)
print(pk.check_equivalence(fast, its_cut, its_groups, its_plan, images[:1]))
print(its_plan.note.replace("; ", "\n"))

# %%
config = adam(40, 0.003)
its_tuned = finetune(its_cut, streets, config, loss_fn=task.loss).model
for name, network in (("dense", fast), ("cut", its_cut), ("tuned", its_tuned)):
    miou = evaluate(network, task.test_loader(), len(task.classes)).miou
    print(f"BiSeNet, {name:6}{miou:6.2f}")

# %%
with torch.no_grad():
    shown = {
        name: network(images[:3]).argmax(1)
        for name, network in (("dense", fast), ("small", its_tuned))
    }
show(
    viz.mask_grid(
        images[:3], {"truth": truth[:3], **shown}, task.palette, task.classes
    ),
    alt="Three streets: true masks, those of the dense BiSeNet and those of the small "
    "one after forty steps.",
)

# %% [markdown]
# **What to see.** The plan's note says what it could not do: a layer that would have been empty keeps a few channels, and one
# that no batch norm follows stays whole, because it has no scale to read. Scales that no penalty has touched say little, so
# the cut leaves next to nothing of the mIoU, and forty steps bring back a good part.
#
# With sparse training, for longer (section 6) and with three seeds, half of BiSeNet's MACs left:

# %%
print(f"{'':21}{'mIoU: cut':>10}{'tuned':>6}{'top-1':>7}")
for method in (
    "slimming independent",
    "slimming unified",
    "mtp independent",
    "mtp unified",
):
    runs = stored(method)
    keys = ("miou_before_tuning", "miou", "top1")
    cut_miou, miou, right = (mean(run[key] for run in runs) for key in keys)
    print(f"{method:21}{cut_miou:10.2f}{miou:6.2f}{right:7.2f}")

# %% [markdown]
# **What to see.** With two thresholds the two methods are close on streets, and MTP's network is the better classifier by far:
# it kept what the first task needs. With one threshold the picture is turned over. MTP's network falls behind: its decoder was
# bled to a few channels in most layers. Slimming's even gains: most of the backbone that it bled was empty anyway, and its
# decoder keeps more.
#
# ### Channels per layer
#
# The paper's Figs. 5 and 7 draw how many channels each layer keeps. Ours from the ledger, all seeds, at half of the MACs, for
# MTP and for slimming:

# %% tags=["hide-input"]
FULL = {name: group.size for name, group in groups.items()}


def kept_of(method, model):
    """Layer -> kept channels, a mean over seeds."""
    runs = [
        entry.metrics["widths"]
        for entry in ledger.load("M1")
        if entry.method == method and entry.settings["model"] == model
    ]
    return {name: mean(run[name] for run in runs) for name in runs[0]}


found = {
    name: kept_of(f"{name} 0.5x", "deeplabv3_mini") for name in ("mtp", "slimming")
}
layers = [*parts.backbone, *parts.decoder]

# %% tags=["hide-input"]
fig, ax = plt.subplots(figsize=(5.4, 5), layout="constrained")
for row, name in enumerate(layers):
    ax.barh(row, FULL[name], color="0.9", height=0.85)
    for shift, (method, color) in zip((-0.2, 0.2), zip(found, (blue, orange))):
        ax.barh(row + shift, found[method][name], color=color, height=0.36)
short = [
    name.replace("backbone.body.", "").replace("branches", "br") for name in layers
]
ax.set_yticks(range(len(layers)), short, fontsize=10)
ax.invert_yaxis()
ax.set_xlabel("channels kept (blue MTP, orange slimming)", fontsize=11)
ax.spines[["top", "right"]].set_visible(False)
show(
    fig,
    alt="Bars of kept channels for each layer, MTP and slimming side by side: nearly "
    "equal in every layer; some branches of the decoder keep only a few.",
)

# %% [markdown]
# **What to see.** The two choose nearly alike. The decoder is cut very unevenly: two branches of ASPP keep nearly everything
# and three no more than the limit of the plan forces them to keep. The paper's Fig. 7 has that as well, for its image-pooling
# branch (here `aspp.br.4`). But it also sees *more* channels survive in the last stage of the backbone, and that ours does
# not show (M6 below).

# %% [markdown]
# ## 9 · Explore
#
# Where Python runs, move both sliders: which fraction goes from the backbone (`first`), and from the decoder (`second`)? Watch what
# each costs in mIoU and saves in MACs, before any tuning (`prunekit/widgets/thresholds.py`).

# %%
from prunekit.widgets import ThresholdStudy, explore_thresholds

limits = pk.Limits(round_to=1, max_ratio=0.9)
study = ThresholdStudy(
    sparse.segmenter,
    groups,
    {
        title: {name: after[name] for name in part}
        for title, part in (("backbone", parts.backbone), ("decoder", parts.decoder))
    },
    lambda first, second: mtp.plan(parts, after, (first, second), limits=limits),
    [(images, truth)],
    len(task.classes),
)
explore_thresholds(study)

# %% [markdown]
# ## 10 · Break it
#
# Each of these is a mistake that somebody makes. The messages say what to do.

# %% tags=["nbval-check-output"]
from textwrap import fill


def complaint(call):
    """Run it and print what it says when it refuses."""
    try:
        print("no complaint:", call())
    except pk.PrunekitError as error:
        print(fill(f"{type(error).__name__}: {error}", 44), "\n")


wider = Classifier(zoo.load("bisenet_mini").context.backbone, len(CLASSES))
wrong = Classifier(copy.deepcopy(segmenter.backbone), 3)  # 3 classes, labels to 11
again = partial(mtp.alternate, segmenter=start, parts=parts, settings=one)
complaint(lambda: again(wider, classify=both[0], segment=both[1]))
complaint(lambda: again(wrong, classify=both[0], segment=both[1]))
complaint(lambda: mtp.Settings(rho=1.0))
complaint(lambda: mtp.plan(parts, after, 1.0))

# %% [markdown]
# A percentage that would empty a layer is no error: the limits keep one channel (or more, if you say so), and the plan's note
# names the layers that it saved. And a loss that is not finite stops the training *before* it touches the weights (with a folder,
# as in section 12, the message also says what that keeps):

# %%
print(fill(mtp.plan(parts, after, 0.97).note, 60), "\n")
broken = Training(plain, both[1].loader, lambda output, y: task.loss(output, y) / 0)
complaint(lambda: again(classifier, classify=both[0], segment=broken))

# %% [markdown]
# Now break section 4 yourself: `alternate(60, rho=3.0)` in a new cell. The residual falls faster. Where does $w_1$ stand after
# forty rounds, compared with `best`? (A spring that becomes stiff before the force is learnt freezes what it has.)

# %% [markdown]
# ## 11 · The paper and ours
#
# The paper's numbers beside ours, from the [ledger](../book/results.md); nothing of ours is typed in by hand. M1 is the
# main table, M3 its Table 4, M5 its Table 7 as top-1.

# %%
claims.table("M1", "M3", "M5")

# %% [markdown]
# How long to tune (its Figure 4), and where channels survive (its Figures 5 and 7):

# %%
claims.table("M4", "M6")

# %% [markdown]
# **Read it honestly.** There are two comparisons of ours. The first (DeepLabV3) is short, and its classification set, crops of five
# kinds of objects, is so easy that every network gets nearly all of them right. Its scales hardly separate, MTP and slimming choose nearly
# the same channels (section 8), and no claim about one against the other can come out. That is why the second one (BiSeNet)
# exists: harder patches from five worlds, and a penalty that lasts until scales are zero. Its settings were chosen on other
# pictures, by the scales alone, before any of its results was seen.
#
# Of M1 both comparisons show the same one relation: at half of the MACs MTP beats FPGM. It does not beat uniform widths or FPGM
# at three quarters, nor ThiNet or slimming at a half, and three quarters cost more than the one point that the claim allows.
# (FPGM's numbers in the paper's column are BiSeNet's on Cityscapes, its Table 3; MTP's own there stand beside them.)
#
# In the second, the *mechanism* of the paper is there: the first task holds channels that the second lets go, and MTP's pruned
# backbone is a better classifier than slimming's, at three quarters of the MACs and at a half (M5). Against uniform widths it
# is ahead in each seed as well, but not by more than the seeds differ; and on streets those, which no penalty has touched, do
# better than both. M3 is half there: independent thresholds matter for MTP, and for slimming one threshold was the better
# choice, on both networks. M4 (above) is half there too, on DeepLabV3. Half the steps on streets are too few, and three times
# the steps of classification do not help any further, as in the paper. But twice the steps on streets still do, so our
# standard is not where its curve is flat. BiSeNet's means lie in the same order, but its seeds are too far apart to show it.
# What does not follow is the *profit*: on streets MTP does not beat slimming, and M2 says why. Streets by day do not need what
# the first task teaches. ImageNet teaches a segmenter of VOC much; our patches teach nothing that a thousand streets do not.
#
# So what these runs test is the method's machinery and not its promise. For that you need a first task
# that knows more than the second, as the paper has.
#
# **What we simplified**
#
# - The paper does not give $\mu$, $\rho$, $\lambda$ nor how long a round is. Ours are in `prunekit/course/mtp/preset.py`.
# - Its steps for $W_2$ and $W_3$ are one step here: they have the same loss, and one pass gives the gradient for both.
# - Penalties and L1 are solved exactly after each step instead of joining the gradient.
# - Only scales of channels that can go are penalised.
# - Sparse training begins with the classifier's backbone in both networks. The paper begins with "initial weights" $W_1$ and
#   $W_2$, and does not say what $W_3$ is.
# - At full scale the classifier has the segmenter's backbone too. In DeepLabV3 and PSPNet that is *dilated*, so that its last
#   maps stay large, and it stands under ImageNet's own last layer, which was trained without.
# - The lesson's own run in section 6 lasts seconds, and so do the stored ones by the paper's measure.
# - At mini scale a way to cut is compared at equal MACs, not at an equal number of channels as in the paper.
#
# `prunekit run mtp --scale full --dataset voc` has every number of the paper's Appendix 7.1; you need VOC 2012, ImageNet and a
# GPU.

# %% [markdown]
# ## 12 · Use it on your own model
#
# Two things are asked of your networks: the segmenter has its backbone under one name, and the classifier has the same one under
# `backbone`.

# %%
import timm
from torch import nn


class Both(nn.Module):
    """A timm backbone under a head; pixels=True segments, else classifies."""

    def __init__(self, head, pixels):
        super().__init__()
        body = {"features_only": True, "out_indices": (2,), "pretrained": False}
        self.backbone = timm.create_model("resnet10t", **body)
        self.head, self.pixels = head, pixels

    def forward(self, x):
        maps = self.backbone(x)[0]
        if not self.pixels:
            return self.head(maps.mean((2, 3)))
        return nn.functional.interpolate(self.head(maps), x.shape[2:])


torch.manual_seed(0)
mix = nn.Sequential(nn.Conv2d(128, 32, 1), nn.BatchNorm2d(32), nn.ReLU())
yours = Both(nn.Sequential(*mix, nn.Conv2d(32, 4, 1)), pixels=True).eval()
labeller = Both(nn.Linear(128, 10), pixels=False)

# %% tags=["nbval-check-output"]
x = torch.randn(8, 3, 64, 64)
pair = (
    Training(
        TrainConfig(4, 0.1, quiet=True),
        DataLoader(TensorDataset(x, torch.arange(8)), 4),
        classification_loss,
    ),
    Training(
        TrainConfig(4, 0.1, quiet=True),
        DataLoader(TensorDataset(x, torch.randint(4, (8, 64, 64))), 4),
    ),
)
their_groups = pk.find_groups(yours, x[:1])
their_parts = mtp.split(yours, their_groups)
done = mtp.alternate(labeller, yours, their_parts, *pair, mtp.Settings(rounds=2))
scores = mtp.score(done.segmenter, their_parts, classifier=done.classifier)
plan = mtp.plan(their_parts, scores, 0.5, limits=pk.Limits(min_keep=4))
small = pk.prune(done.segmenter, their_groups, plan)
print("who may go:", ", ".join(their_parts.backbone), "and", *their_parts.decoder)
print("output as before:", small(x).shape == yours(x).shape)

# %% [markdown]
# For a long training give `alternate` a folder, `checkpoint="runs/mtp"`: stop it, start it again with the same arguments, and it
# ends with the same weights as an unbroken run.
#
# ## 13 · Quiz

# %%
quiz("04")

# %% [markdown]
# ## Key points
#
# - A pre-trained backbone carries a second task that no loss mentions.
# - L1 takes the same from every scale; soft-thresholding makes zeros that are zero.
# - A spring needs a gap to pull. A multiplier learns the force, and the gap can close.
# - If the residual does not fall, look at the sign of $E$.
# - Scales that were trained on unlike losses are not in one currency: two thresholds.
# - A method's profit can be tested only where its premise holds.
#
# ## References
#
# The method: Chen et al. 2022 (MTP). Slimming: Liu et al. 2017. Soft-thresholding as a proximal step: Combettes and Wajs 2005.
# ThiNet: Luo et al. 2017. FPGM: He et al. 2019. All in the [list of references](../book/references.md).

# %% tags=["volatile"]
course.footer()
