"""Readers of real data sets in the layouts they are published in; a file each, pictures.py holds what they share."""

from prunekit.data.real.ade20k import ADE20K
from prunekit.data.real.camvid import CamVid
from prunekit.data.real.cityscapes import Cityscapes
from prunekit.data.real.cocostuff import COCOStuff10k
from prunekit.data.real.imagenet import ImageNet, TinyImageNet
from prunekit.data.real.pictures import IGNORE, Pictures
from prunekit.data.real.voc import SBD, VOC2012

__all__ = [
    "ADE20K",
    "IGNORE",
    "SBD",
    "VOC2012",
    "COCOStuff10k",
    "CamVid",
    "Cityscapes",
    "ImageNet",
    "Pictures",
    "TinyImageNet",
]
