"""The surgery engine: find what is tied together, cut it, and prove that the cut was exact."""

from prunekit.surgery.certificate import Certificate, check_equivalence
from prunekit.surgery.cut import mask, prune
from prunekit.surgery.groups import find_groups

__all__ = ["Certificate", "check_equivalence", "find_groups", "mask", "prune"]
