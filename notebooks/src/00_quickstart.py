# %% [markdown]
# # Half the work, nearly the same masks
#
# {{badge}}
#
# {{minutes}}
#
# You have a network that labels every pixel of a street. It is good, and it is too slow. In this
# lesson you take out half of its multiplications, prove that you cut only what you meant to cut,
# train it for a moment, and leave with a file that a phone or a server can run.
#
# **You will be able to**
#
# - *name* the six steps from a trained network to a smaller one,
# - *score* channels and *cut* the weakest by hand, on one layer,
# - *read* a certificate that says the cut was exact,
# - *repair* a pruned network and *measure* what it lost,
# - *export* it, and *prune a model of your own*.
#
# **You need** PyTorch: tensors, `nn.Conv2d`, a training loop. Nothing about pruning.

# %%
import subprocess
import sys
from importlib.util import find_spec

if find_spec("prunekit") is None:  # on Colab and Kaggle
    package = "prunekit[onnx,quiz] @ git+{{repo}}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

from prunekit.course import check, quiz, setup, show

course = setup("00_quickstart", version="{{version}}")

# %% [markdown]
# ## The problem in one picture
#
# The data are synthetic streets with twelve classes (`prunekit/data/scenes`): drawn on your
# machine, nothing to download. The network is a small DeepLabV3 that was trained on 3,000 of them
# (`prunekit/models/deeplab.py`). Here is what it sees in streets it has never met.

# %%
import torch

from prunekit.course.presets import QUICKSTART
from prunekit.course.quickstart import dense_model
from prunekit.course.tasks import load_task

preset = QUICKSTART[course.scale]
task = load_task(preset.dataset, size=preset.size)
dense = dense_model(preset, task, course.out).to(course.device)
images, truth = (t.to(course.device) for t in task.examples(3))

# %%
from prunekit.viz import mask_grid

with torch.no_grad():
    before = dense(images).argmax(1)
fig = mask_grid(images, {"truth": truth, "dense": before}, task.palette, task.classes)
show(fig, alt="Three streets: true masks, and the dense network's, nearly the same.")

# %% [markdown]
# What does one picture cost? A *multiply-accumulate* (MAC) is one multiplication and one addition;
# convolutions are made of nothing else. And how good is it? *mIoU* is the mean over the classes of
# *overlap divided by union*: 1 is perfect.

# %%
from prunekit.metrics import evaluate
from prunekit.profiling import count_macs, count_params

x = images[:1]
macs = count_macs(dense, x)
print(f"{count_params(dense) / 1e6:.2f} M parameters, {macs / 1e6:.0f} M MACs")

accuracy = evaluate(dense, task.test_loader(), len(task.classes))
iou = dict(zip(task.classes, accuracy.iou))
print(f"mIoU {accuracy.miou:.2f}, road {iou['road']:.2f}, pole {iou['pole']:.2f}")

# %% [markdown]
# **Predict first.** You are about to remove half of these MACs and change nothing else: no
# training, not one remaining weight moved. What is left of the mIoU?
#
# 1. nearly all of it: networks are full of spare channels
# 2. about half: half the work, half the quality
# 3. nearly nothing
#
# Keep your answer in mind. You will see in a few cells.
#
# ## The road, and the words for it
#
# | step | word | what it is |
# | --- | --- | --- |
# | 1 | **group** | channels that must go together, because some layer adds or joins them |
# | 2 | **score** | one number for each channel; higher = keep |
# | 3 | **plan** | which channels stay, so that a budget is met |
# | 4 | **cut** | a new network with smaller tensors |
# | 5 | **certificate** | proof that the small network computes what it should |
# | 6 | **fine-tune** | a little training, to adapt the rest |
#
# | symbol | meaning |
# | --- | --- |
# | $W \in \mathbb{R}^{O \times C \times k \times k}$ | weights of a convolution: $O$ outputs from $C$ inputs |
# | $s_i$ | score of channel $i$ |
# | $r$ | the fraction that is *removed* |

# %% [markdown]
# ## From scratch: two layers, four channels
#
# Take a convolution that makes four channels, and one that reads them. How much does channel $i$
# matter? The oldest answer is the size of the weights that make it (Li et al., 2017):
#
# $$s_i = \sum_{c,\,u,\,v} |W_{i,c,u,v}|$$

# %%
torch.manual_seed(0)
first = torch.nn.Conv2d(3, 4, 3, padding=1)
second = torch.nn.Conv2d(4, 2, 3, padding=1)

score = first.weight.abs().sum(dim=(1, 2, 3))
print("scores:", [round(s, 2) for s in score.tolist()])

# %% [markdown]
# Keep the best two. A channel has two ends, and you cut at both: the *rows* of the layer that
# makes it (and its bias), and the *columns* of the layer that reads it.

# %%
keep = score.argsort(descending=True)[:2].sort().values

small_first = torch.nn.Conv2d(3, 2, 3, padding=1)
small_first.weight.data = first.weight.data[keep]
small_first.bias.data = first.bias.data[keep]

small_second = torch.nn.Conv2d(2, 2, 3, padding=1)
small_second.weight.data = second.weight.data[:, keep]
small_second.bias.data = second.bias.data
print("kept channels:", keep.tolist(), "| new shape:", tuple(small_second.weight.shape))

# %% [markdown]
# ## Is it right? Ask a mask
#
# Removing a channel must equal *silencing* it in the large network. Where do you silence it?
# Not where it is made: its bias, or a later batch norm, would bring a constant back. Silence it
# **where it is read**: set the reader's weights on that channel to zero.

# %%
gone = [i for i in range(4) if i not in keep.tolist()]
masked = torch.nn.Conv2d(4, 2, 3, padding=1)
masked.load_state_dict(second.state_dict())
masked.weight.data[:, gone] = 0

picture = torch.randn(1, 3, 8, 8)
pruned_out = small_second(small_first(picture).sigmoid())
masked_out = masked(first(picture).sigmoid())
print("largest difference:", f"{(pruned_out - masked_out).abs().max().item():.0e}")

# %% [markdown]
# Zero but for rounding. Note the `sigmoid` in between: $\mathrm{sigmoid}(0) = 1/2$, so zeroing the
# *maker* would have leaked a half into every pixel. You can try it in exercise 2.
#
# ## Your turn
#
# In an exercise you replace the body of a function. `check` (`prunekit/course/checks.py`) calls it on
# small examples and says what is right or wrong with it. If you are stuck, type `hint("00.1")` into a
# new cell; there are three hints for each exercise, and the solution is folded away below.
#
# **Exercise 1** (2 minutes). Return the numbers of the `count` channels with the *smallest* scores, in
# ascending order.


# %% tags=["nbval-check-output"]
def weakest(score, count):
    return None  # your code here


check("00.1", weakest)

# %% [markdown]
# {{solution 00.1}}
#
# **Exercise 2** (4 minutes). Silence the channels at the wrong end, at their maker: return a copy of
# `weight` (O, C, k, k) and of `bias` (O,) in which the channels `gone` give nothing but zero.


# %% tags=["nbval-check-output"]
def silence(weight, bias, gone):
    return None  # your code here: two tensors


done = check("00.2", silence)
done

# %% [markdown]
# {{solution 00.2}}
#
# Once it is right, the next cell puts your silenced layer before `second`. How far from the pruned
# network is it, and why?

# %%
if done.ok:
    quiet = torch.nn.functional.conv2d(
        picture, *silence(first.weight.data, first.bias.data, gone), padding=1
    )
    leak = second(quiet.sigmoid()) - pruned_out
    print(f"off by {leak.abs().max():.2f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# It is not small at all, although every number that you had to silence is zero. `sigmoid` turns that
# zero into a half, and `second` reads the half. Had you left the bias alone, it would leak as well: two
# reasons to silence a channel where it is *read*.
#
# </details>

# %% [markdown]
# ## The same, for a whole network
#
# In a real network a channel has more than two ends: batch norms follow it, a residual sum ties it
# to others, a concatenation moves its number. `find_groups` traces the network and finds all ends
# of every channel (`prunekit/surgery`).

# %% tags=["nbval-check-output"]
import prunekit as pk

groups = pk.find_groups(dense, x)
print(len(groups), "groups. The first:")
for member in groups["backbone.body.layer1.0.conv1"].members:
    print(f"  {member.role:9} {member.tensor}, axis {member.dim}")
print("stays:", dict(groups.frozen))

# %% [markdown]
# A *producer* makes the channels, a *follower* has one number for each, a *consumer* reads them. Two
# layers stay whole, because their channels are the classes. (`aux` is a helper head that works only
# in training.)
#
# One line scores every channel of every group. It is the sum you wrote above: see for yourself.

# %% tags=["nbval-check-output"]
from prunekit.methods import l1

scores = l1.score(dense, groups)

name = "backbone.body.layer1.0.conv1"
by_hand = dense.get_submodule(name).weight.abs().sum(dim=(1, 2, 3)).cpu()
torch.testing.assert_close(scores[name].float(), by_hand)
print("library and scratch agree on", len(by_hand), "channels of", name)

# %% [markdown]
# The plan: take the same share from every group, the lowest scores first, and find the share at
# which half of the MACs are gone. Devices like widths that are multiples of eight: round to those.

# %% tags=["nbval-check-output"]
limits = pk.Limits(round_to=preset.round_to)
plan = pk.budget_plan(
    groups, scores, macs_ratio=preset.macs_ratio, how="uniform", limits=limits
)
kept = sum(len(units) for units in plan.keep.values())
print(plan.note)
print(f"{kept} of {sum(plan.sizes.values())} channels stay")

# %%
from prunekit.viz import plan_bars

fig = plan_bars(plan)
show(
    fig, alt="A bar per group, first layer on top: how many channels stay, how many go."
)

# %% [markdown]
# Less than a third of the channels goes, and half of the work goes with it: a convolution's MACs are
# inputs times outputs, and both get narrower ($0.71 \times 0.71 \approx 0.5$).
#
# Every layer gives about the same share. Is that wise? Some layers may have more to spare than
# others: `how="global"` ranks all channels of the network together. Try it here.
#
# Now cut, and ask for the certificate. It does what you did with the mask, for all layers at once:
# in double precision, with batch-norm statistics drawn at random so that no mistake can hide, and
# with a *control*: the dense network without any mask, which must differ.

# %%
pruned = pk.prune(dense, groups, plan)
certificate = pk.check_equivalence(dense, pruned, groups, plan, x)
print(certificate)

# %% [markdown]
# Read it from left to right. Masked and pruned network agree up to rounding. Every tensor of the
# pruned network holds the numbers it was copied from. And the control is far off, so this check sees
# a difference when there is one.

# %% tags=["nbval-check-output"]
print("exact:", certificate.max_error < 1e-9 < certificate.control)
print(f"MACs left: {count_macs(pruned, x) / macs:.3f}")
print("the dense network still has all of its own:", count_macs(dense, x) == macs)

# %% [markdown]
# ## What was your prediction?

# %%
cut = evaluate(pruned, task.test_loader(), len(task.classes))
print(f"mIoU before {accuracy.miou:.2f}, after the cut {cut.miou:.2f}")

# %% [markdown]
# Nearly nothing is left. The cut was *exact*, and that is no comfort: the layers that remain are
# tuned to sums in which nearly every third term is missing now. Exact is not the same as harmless.
#
# ## Fine-tune
#
# A short training repairs it. The loss gives rare classes more weight, because a pole has one pixel
# in a hundred. `finetune` (`prunekit/train`) returns a trained copy; it can stop and resume.

# %%
from prunekit.course.quickstart import train_config
from prunekit.train import finetune

config = train_config(preset, seed=0, tune=True, quiet=True)
loader = task.train_loader(preset.batch)
result = finetune(pruned, loader, config, loss_fn=task.loss)
tuned = result.model
losses = [step.loss for step in result.history]
print(f"{config.steps} steps; loss {losses[0]:.2f} -> {losses[-1]:.2f}")

# %% [markdown]
# The two networks side by side, in costs and in every class. The milliseconds are medians, measured
# in turns, so that a busy machine slows both alike.

# %% tags=["volatile"]
from prunekit.course.quickstart import comparison, measure

found = measure({"dense": dense, "pruned": tuned}, task, x)
report = comparison(task, found)
print(report)

# %%
from prunekit.viz import iou_bars

ious = {
    "dense": found["dense"].accuracy.iou,
    "cut, not tuned": cut.iou,
    "cut and tuned": found["pruned"].accuracy.iou,
}
fig = iou_bars(ious, task.classes)
show(fig, alt="IoU of each class for the dense, the cut and the tuned network.")

# %% [markdown]
# Read the bars from the top. Road and sky are nearly back. Which classes paid most? Those that
# are thin: poles, lights, signs. Lesson 01 measures why, and the rest of this course is about choosing
# channels so that they pay less.

# %%
with torch.no_grad():
    after = tuned(images).argmax(1)
masks = {"truth": truth, "dense": before, "half the work": after}
fig = mask_grid(images, masks, task.palette, task.classes)
fig.savefig(course.out / "before_after.png", dpi=100, bbox_inches="tight")
show(fig, alt="Three streets: true masks, the dense network's, and with half the work.")

# %% [markdown]
# ## Take it with you
#
# The plan is a small text file without weights; with the dense network it rebuilds the small one.
# The network goes into an ONNX file, which `export_onnx` (`prunekit/export.py`) runs and compares
# with double precision before it gives it to you.

# %%
from prunekit.export import export_onnx

plan.save(course.out / "plan.json")
(course.out / "report.txt").write_text(report + "\n")
meta = {"plan": plan, "classes": list(task.classes)}
exported = export_onnx(
    tuned, x, course.out / "pruned.onnx", dynamic_batch=True, meta=meta
)
print(f"pruned.onnx, {exported.bytes / 1e6:.1f} MB: the runtime and PyTorch agree")
print(f"on {exported.argmax_agreement:.2%} of the pixels")

# %% [markdown]
# ## Break it
#
# What if you apply the plan to a network that has been cut already? A careless tool would cut the
# wrong channels and say nothing.

# %% tags=["nbval-check-output"]
try:
    pk.prune(pruned, groups, plan)
except pk.PrunekitError as error:
    print(type(error).__name__)
    print(str(error).split(": already")[0])

# %% [markdown]
# Try more: `macs_ratio=0.999`, a plan with a channel number too high, an example with four colours.
# Each has an error that says what, where and what next.
#
# ## All of it, in one call

# %%
slimmed = pk.slim(dense, x, macs_ratio=0.5)
print(str(slimmed).splitlines()[-2])

# %% [markdown]
# `print(slimmed)` shows the whole report. For a model of your own, from timm or elsewhere:
#
# ```python
# import safetensors.torch, timm, torch
# import prunekit as pk
# from prunekit.train import TrainConfig, finetune
#
# model = timm.create_model("resnet50", pretrained=True)
# result = pk.slim(model, torch.randn(1, 3, 224, 224), macs_ratio=0.5)
# print(result)                       # costs before and after, and the certificate
# loader = ...                        # your (image, label) batches
# small = finetune(result.model, loader, TrainConfig(steps=5000, lr=0.01),
#                  loss_fn=torch.nn.functional.cross_entropy).model
# safetensors.torch.save_model(small, "small.safetensors")
# result.plan.save("plan.json")       # with the dense model they give `small` back
# ```
#
# ## What we simplified
#
# The streets are drawn, the network is small, one seed is one anecdote. The L1 score is the oldest
# there is, and it does not look at a single image. Is it better than chance? In a clone,
# `.venv/bin/prunekit run quickstart` repeats this lesson with L1 and with *random* scores: compare the
# two tables before you believe in either. A fair comparison takes several seeds and
# shows the spread. `PRUNEKIT_SCALE=small` runs this lesson on real CamVid streets.
#
# ## Quiz

# %%
quiz("00")

# %% [markdown]
# ## Key points
#
# - groups, score, plan, cut, certificate, fine-tune: the same six steps for every method.
# - An exact cut is not a harmless one. Fine-tuning repairs most of it, thin classes last.
# - The plan is the result worth keeping: small, readable, refused by the wrong model.
#
# **Next:** [lesson 01](01_segmentation_and_cost.ipynb) asks what mIoU and MACs tell you, and what
# they hide. Words: [glossary](../book/glossary.md). Papers: [references](../book/references.md).

# %% tags=["volatile"]
course.footer()
