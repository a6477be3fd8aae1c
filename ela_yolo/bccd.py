"""Data-set YAMLs name ``ela_yolo.bccd.download_bccd``; it lies in :mod:`ela_yolo.data.bccd`."""

from ela_yolo.data.bccd import download_bccd

__all__ = ["download_bccd"]
