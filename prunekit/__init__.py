"""prunekit: structured pruning of vision networks, from equation to a smaller, faster network.

import prunekit as pk
groups = pk.find_groups(model, x)                       # which channels must go together
scores = l1.score(model, groups)                        # one number a unit, higher = keep
plan = pk.budget_plan(groups, scores, macs_ratio=0.5)   # who stays
small = pk.prune(model, groups, plan)                   # a new, smaller model
pk.check_equivalence(model, small, groups, plan, x)     # the cut was exact
pk.save_pruned("small", small, plan)                    # load_pruned rebuilds it from the dense model

or, in one call, `pk.slim(model, x)`. Criteria are modules: `from prunekit.methods import l1`.
"""

from prunekit import errors
from prunekit.core import ChannelGroup, Groups, Member, Profile, PruningPlan, Scores
from prunekit.errors import PrunekitError
from prunekit.oneshot import Slimmed, slim
from prunekit.plan import Limits, budget_plan, global_plan, uniform_plan
from prunekit.profiling import profile
from prunekit.surgery import Certificate, check_equivalence, find_groups, load_pruned, mask, prune, save_pruned

__version__ = "0.1.0"

__all__ = [
    "Certificate",
    "ChannelGroup",
    "Groups",
    "Limits",
    "Member",
    "Profile",
    "PrunekitError",
    "PruningPlan",
    "Scores",
    "Slimmed",
    "budget_plan",
    "check_equivalence",
    "errors",
    "find_groups",
    "global_plan",
    "load_pruned",
    "mask",
    "profile",
    "prune",
    "save_pruned",
    "slim",
    "uniform_plan",
]
