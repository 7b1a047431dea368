"""What criteria look at: weights unit by unit, activations, gradients, Gram matrices. The model is never changed.

Files: units (which weights and norm scales belong to a unit), passes (running data through a model that stays as it
is), maps (activations where they are read), made (where they are made), gradients, grams (second moments of a layer's
input, for least squares).
"""

from prunekit.observe.gradients import gradients
from prunekit.observe.grams import grams
from prunekit.observe.made import watch_made
from prunekit.observe.maps import see_maps, watch
from prunekit.observe.passes import Batches, still
from prunekit.observe.units import filters, mean_over, norm_scales, of_units

__all__ = [
    "Batches",
    "filters",
    "gradients",
    "grams",
    "mean_over",
    "norm_scales",
    "of_units",
    "see_maps",
    "still",
    "watch",
    "watch_made",
]
