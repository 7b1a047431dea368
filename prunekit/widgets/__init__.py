"""Explorers for notebooks: a picture, and controls wherever Python runs. In the book and on GitHub the picture stays.

Files: live (a picture with controls), sensitivity (one group cut alone), masks (labels before and after a cut),
channels (feature maps by score), clique (a layer as a graph, and who stays), search (masks while they learn), fronts (a
search by generation), widths (what a layer's width costs), thresholds (two of them on scales, and the widths that
follow), gates (which neurons an image uses). Each has a plain function from state to picture, which `explore_...`
shows.
"""

from prunekit.widgets.channels import channels_view, explore_channels
from prunekit.widgets.clique import CliqueStudy, clique_view, explore_clique
from prunekit.widgets.fronts import explore_fronts, front_strip, fronts_view
from prunekit.widgets.gates import GateStudy, explore_gates, gates_view
from prunekit.widgets.live import View
from prunekit.widgets.masks import MaskStudy, explore_masks, masks_view
from prunekit.widgets.search import SearchStudy, SearchTrace, explore_search, search_view
from prunekit.widgets.sensitivity import Sensitivity, explore_sensitivity, sensitivity, sensitivity_view
from prunekit.widgets.thresholds import ThresholdStudy, explore_thresholds, thresholds_view
from prunekit.widgets.widths import explore_widths, widths_view

__all__ = [
    "CliqueStudy",
    "GateStudy",
    "MaskStudy",
    "SearchStudy",
    "SearchTrace",
    "Sensitivity",
    "ThresholdStudy",
    "View",
    "channels_view",
    "clique_view",
    "explore_channels",
    "explore_clique",
    "explore_fronts",
    "explore_gates",
    "explore_masks",
    "explore_search",
    "explore_sensitivity",
    "explore_thresholds",
    "explore_widths",
    "front_strip",
    "fronts_view",
    "gates_view",
    "masks_view",
    "search_view",
    "sensitivity",
    "sensitivity_view",
    "thresholds_view",
    "widths_view",
]
