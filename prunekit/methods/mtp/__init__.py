"""MTP (Chen et al., Multi-Task Pruning for Efficient Semantic Segmentation Networks, arXiv 2007.08386).

A segmenter's backbone serves two tasks: it was pre-trained on classification, and the knowledge has to stay. So two
networks with one backbone learn at once, W1 to classify and W3 to segment, with a penalty on batch-norm scales gamma:

    min  cls(W1) + lambda seg(W3, W2) + alpha1 |gamma1|_1 + alpha2 (|gamma2|_1 + |gamma3|_1)   s.t.  W1 = W3   (Eq. 5)

by an augmented Lagrangian: its terms <E, W1 - W3> + mu/2 ||W1 - W3||^2 hold the copies together while each is trained
on its own data in turn (Eqs. 7-9), then E += mu (W1 - W3) and mu *= rho (Eq. 10). The p % of channels with the smallest
scales go, by gamma1 in the backbone and by gamma2 in the decoder, each part with a threshold of its own, tau1 and tau2;
then the small backbone learns to classify again, and with it the small network to segment.

Symbols: W1, W3 = the backbone's weights as the classifier's and the segmenter's; W2 = the decoder's; E = multipliers,
as many as W1; mu = weight of the penalty. Needs: both data sets, batch norms.

    parts = mtp.split(segmenter, find_groups(segmenter, x))              # who may go: backbone, decoder
    sparse = mtp.alternate(classifier, segmenter, parts, classify, segment, mtp.Settings())
    scores = mtp.score(sparse.segmenter, parts, classifier=sparse.classifier)
    plan = mtp.plan(parts, scores, 0.5)                                  # both thresholds at 50 %

Differs. A round takes some steps on the classifier, then some on the segmenter, W2 and W3 in one pass: Eqs. 8 and 9
have the same loss, and a gradient step on each block from the same point is one on both. The paper does not give mu,
rho, lambda nor how many steps a round has; ours are in `Settings` and in the course's presets. Only scales of channels
that can go are penalised. All but the losses is minimised in closed form after each step, see coupling.py. Algorithm 1
begins with W1 and W2 and is silent about W3; the course gives both networks the classifier's backbone.

Files, in reading order: coupling (W1 = W3), parts (who may go), thresholds (tau1, tau2, the plan), state (a step, a
round), alternation (all of them), retraining (classification, then segmentation).
"""

from __future__ import annotations

from prunekit.methods.mtp.alternation import Sparse, alternate
from prunekit.methods.mtp.coupling import Coupling
from prunekit.methods.mtp.parts import Parts, split
from prunekit.methods.mtp.retraining import classifier_plan, retrain, with_backbone
from prunekit.methods.mtp.state import Round, Settings
from prunekit.methods.mtp.thresholds import Thresholds, plan, score, thresholds

__all__ = [
    "Coupling",
    "Parts",
    "Round",
    "Settings",
    "Sparse",
    "Thresholds",
    "alternate",
    "classifier_plan",
    "plan",
    "retrain",
    "score",
    "split",
    "thresholds",
    "with_backbone",
]
