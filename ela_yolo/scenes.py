"""Keeps the import path ``ela_yolo.scenes.render``, which data-set YAMLs name, for :mod:`ela_yolo.data.scenes`."""

from ela_yolo.data.scenes import render

__all__ = ["render"]
