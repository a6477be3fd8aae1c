"""Keeps the import path ``ela_yolo.bccd.download_bccd``, which data-set YAMLs name, for :mod:`ela_yolo.data.bccd`."""

from ela_yolo.data.bccd import download_bccd

__all__ = ["download_bccd"]
