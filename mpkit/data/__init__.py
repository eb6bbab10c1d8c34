"""Data: digits, MNIST, CIFAR-10 and folders of images, checked when they are loaded."""

from mpkit.data.augmentation import Crop, Elastic, Flip
from mpkit.data.images import Images, download, load, stored, where

__all__ = ["Crop", "Elastic", "Flip", "Images", "download", "load", "stored", "where"]
