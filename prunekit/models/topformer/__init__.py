"""TopFormer (Zhang et al., CVPR 2022, arXiv 2204.05525): a convolutional token pyramid with a transformer on top.

network.py holds the modules and sizes, checkpoints.py reads the authors' weights.
"""

from prunekit.models.topformer.checkpoints import from_original, load_backbone, load_weights
from prunekit.models.topformer.network import VARIANTS, TopFormer, TopFormerSizes, topformer, topformer_mini

__all__ = [
    "VARIANTS",
    "TopFormer",
    "TopFormerSizes",
    "from_original",
    "load_backbone",
    "load_weights",
    "topformer",
    "topformer_mini",
]
