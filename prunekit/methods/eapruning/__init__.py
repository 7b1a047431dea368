"""EAPruning (Li et al., EAPruning: Evolutionary Pruning for Vision Transformers and CNNs, arXiv 2210.00181, 2022).

    candidate = how many units each group keeps       error = that of the network with rebuilt weights
    W' = argmin sum ||W x - W' x'||^2                  front = NSGA-III on (error, MACs)

Symbols: x = what a layer reads, x' = what is left of it, sampled outputs of a few images. Needs: batches, and held-out
training images for the error. Which units stay is chosen at random (or by L1 norms) once, so only counts are searched.

    found = eapruning.search_plan(model, groups, batches, eapruning.Misclassified(images, labels))
    plan, worth = found.within(0.5)  # at most half of the MACs
    small = found.small(worth.counts)  # with rebuilt weights; pk.prune(model, groups, plan) alone has the old ones

Files: space (the encoding), leading (least squares for all candidates by one factor a layer), rebuild (candidates with
rebuilt weights), fitness (error and cost), evolution (NSGA-III), search (the loop), table (its checkpoint), sharing and
workers (several processes), front (Pareto, hypervolume, plans along it), asymmetric (inputs of the cut network),
retrain.

Differs: Gram matrices of the original network's inputs serve all candidates (the paper does not say whose inputs it
takes; asymmetric.py measures the difference). A bias is fitted too. A ridge keeps ill-conditioned layers apart. The
paper searches all counts; ours end where 10 % of a group are left (max_ratio of space). MLPs may go in steps of several
neurons. Plans come from the front of everything that was evaluated. No mutation or crossover is printed: ours are in
evolution.py.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from prunekit.core import Groups
from prunekit.methods.eapruning.asymmetric import asymmetric
from prunekit.methods.eapruning.fitness import Cost, Error, Fitness, Misclassified, MissedIoU
from prunekit.methods.eapruning.front import Candidate, along, front, hypervolume
from prunekit.methods.eapruning.rebuild import Rebuilder, rebuilder
from prunekit.methods.eapruning.retrain import from_scratch
from prunekit.methods.eapruning.search import Found, Settings, search
from prunekit.methods.eapruning.space import Choice, Counts, Space, space
from prunekit.observe import Batches

__all__ = [
    "Candidate",
    "Choice",
    "Cost",
    "Counts",
    "Error",
    "Fitness",
    "Found",
    "Misclassified",
    "MissedIoU",
    "Rebuilder",
    "Settings",
    "Space",
    "along",
    "asymmetric",
    "from_scratch",
    "front",
    "hypervolume",
    "rebuilder",
    "search",
    "search_plan",
    "space",
]


def search_plan(
    model: nn.Module,
    groups: Groups,
    batches: Batches | None,
    error: Error,
    *,
    settings: Settings | None = None,
    cost: Cost = "macs",
    choose: Choice = "random",
    step: int = 1,
    samples: int = 10,
    first: int = 0,
    **running: Any,
) -> Found:
    """The front of plans from error to cost, in one call; its parts are space, rebuilder, Fitness and search.

    batches: (input, target) pairs to rebuild weights on. error(model): on other images. samples: outputs drawn from
    each image, at places that the images of a batch share, so prefer small batches; images times samples should be more
    than the inputs of the widest layer (channels times kernel positions), and a smaller map gives fewer samples. Where
    they are not, a warning names the layers. first: so many of a linear layer's are its first tokens (1: the class
    token). running: how, processes, checkpoint, quiet, on_generation of `search`. Raises as the parts do.

    A plan of the result is the cut alone; its `small(worth.counts)` is the network that the error was measured on.
    """
    settings = settings or Settings()
    where = space(model, groups, choose=choose, step=step, seed=settings.seed)
    ready = rebuilder(model, where, batches, samples=samples, first=first, seed=settings.seed)
    return search(Fitness(ready, error, cost), settings, **running)
