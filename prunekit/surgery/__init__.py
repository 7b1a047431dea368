"""The surgery engine: find what is tied together, cut it, and prove that the cut was exact."""

from prunekit.surgery.certificate import Certificate, check_equivalence
from prunekit.surgery.cut import mask, prune
from prunekit.surgery.groups import find_groups
from prunekit.surgery.store import load_pruned, save_pruned

__all__ = ["Certificate", "check_equivalence", "find_groups", "load_pruned", "mask", "prune", "save_pruned"]
