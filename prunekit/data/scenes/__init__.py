"""Procedural street scenes: image, semantic mask, instance boxes and object crops from (seed, domain, index).

Twelve classes with a long tail like Cityscapes: road, sky and buildings fill most of a picture, poles, lights and
signs well under 1 % each. One scene takes about 3 ms at 64 x 128 on one core, so there is nothing to download.

    scene = make_scene(seed=0, index=7, domain="night")
    train, val = SceneDataset(2000, seed=0), SceneDataset(200, seed=1)
"""

from prunekit.data.scenes.classes import CLASSES, IGNORE, PALETTE, THINGS
from prunekit.data.scenes.dataset import SceneBoxes, SceneCrops, SceneDataset, stack_images
from prunekit.data.scenes.patches import ScenePatches, class_patches
from prunekit.data.scenes.render import Scene, make_scene, object_crops
from prunekit.data.scenes.worlds import DOMAINS

__all__ = [
    "CLASSES",
    "DOMAINS",
    "IGNORE",
    "PALETTE",
    "THINGS",
    "Scene",
    "SceneBoxes",
    "SceneCrops",
    "SceneDataset",
    "ScenePatches",
    "class_patches",
    "make_scene",
    "object_crops",
    "stack_images",
]
