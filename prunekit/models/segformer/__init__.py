"""SegFormer (Xie et al., NeurIPS 2021, arXiv 2105.15203): the MiT encoder with an all-MLP decoder.

encoder.py and network.py hold the modules and sizes, checkpoints.py reads weights that others trained (the authors'
.pth files, folders of transformers, segmentation_models_pytorch); models/weights.py is the part of reading that knows
no architecture.
"""

from prunekit.models.segformer.checkpoints import from_original, from_transformers, load_encoder, load_weights
from prunekit.models.segformer.encoder import MiT, MixTransformer
from prunekit.models.segformer.network import VARIANTS, SegFormer, segformer, segformer_mini

__all__ = [
    "VARIANTS",
    "MiT",
    "MixTransformer",
    "SegFormer",
    "from_original",
    "from_transformers",
    "load_encoder",
    "load_weights",
    "segformer",
    "segformer_mini",
]
